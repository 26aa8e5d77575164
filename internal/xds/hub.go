package xds

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// LaggingAfter is how long an Envoy may neither accept nor refuse a route before it is no longer
// waited for.
const LaggingAfter = 30 * time.Second

// Hub holds all resources and knows for every stream what it has, what it was sent and what it
// accepted. One mutex guards it all: every critical section is short and does no I/O.
type Hub struct {
	log logrus.FieldLogger

	mu       sync.Mutex
	res      map[string]map[string]*Resource            // type, name
	subs     map[string]map[string]map[*stream]struct{} // type, name: who asked for it by name
	wild     map[string]map[*stream]struct{}            // type: who wants all
	streams  map[*stream]struct{}
	services map[string]*service
	nacks    map[string]int // type: refusals so far

	held map[string]struct{} // services that are to stay as the Envoys have them

	changed map[string]struct{} // services whose status changed
	wake    chan struct{}
	clients *clients
}

// service is the book-keeping of one service's route.
type service struct {
	generation  uint64
	route       *policy.Route
	builtFrom   map[string]builtFrom // version: what its resources were built from
	resources   map[string][]*Resource
	routeRes    *Resource
	view        *view // of gRPC clients; nil: none
	subscribers map[*stream]struct{}
	waiting     map[*stream]time.Time // sent or to be sent, neither accepted nor refused
	lagging     map[*stream]struct{}
	refused     map[*stream]string
	told        Status
}

type builtFrom struct {
	endpoints []string
	route     policy.Route
}

// Status says how far a service's table is in force.
type Status struct {
	Service     string
	Generation  uint64
	InForce     bool
	Subscribers int
	Waiting     int
	Lagging     []string // nodes
	Refusals    []Refusal
}

// Refusal is a NACK of the present table.
type Refusal struct{ Node, Message string }

// NewHub makes an empty hub.
func NewHub(log logrus.FieldLogger) *Hub {
	h := &Hub{
		log: log, res: map[string]map[string]*Resource{}, subs: map[string]map[string]map[*stream]struct{}{},
		wild: map[string]map[*stream]struct{}{}, streams: map[*stream]struct{}{}, services: map[string]*service{},
		nacks: map[string]int{}, held: map[string]struct{}{}, changed: map[string]struct{}{}, wake: make(chan struct{}, 1),
	}
	h.clients = newClients(h)
	return h
}

// Publish replaces a service's resources by those of the table. Only what differs is sent, and only
// to Envoys that asked for it.
func (h *Hub) Publish(t rollout.Table) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.publish(t)
}

// Hold leaves a service as the Envoys have it, until it is published or removed: nothing of it is sent,
// and nothing is taken away.
func (h *Hub) Hold(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held[name] = struct{}{}
}

// holds reports whether a resource that the hub does not have may belong to a service that is held. Which
// listeners and scopes are that service's is not known, so all of them stay.
func (h *Hub) holds(typ, name string) bool {
	if len(h.held) == 0 {
		return false
	}
	service := name
	switch typ {
	case TypeListener, TypeScope:
		return true
	case TypeCluster, TypeEndpoint:
		service, _, _ = SplitCluster(name)
	}
	_, held := h.held[service]
	return held
}

// unhold ends a Hold; what was kept back is looked at again.
func (h *Hub) unhold(name string) {
	if _, ok := h.held[name]; !ok {
		return
	}
	delete(h.held, name)
	for st := range h.streams {
		st.poke()
	}
}

func (h *Hub) publish(t rollout.Table) error {
	h.unhold(t.Service)
	s := h.service(t.Service)
	fresh, err := s.build(t)
	if err != nil {
		return fmt.Errorf("service %s: %w", t.Service, err)
	}
	rds, err := buildRoute(t)
	if err != nil {
		return fmt.Errorf("service %s: %w", t.Service, err)
	}
	for v, rs := range s.resources {
		if fresh[v] == nil {
			delete(s.builtFrom, v)
			for _, r := range rs {
				h.drop(r.Type, r.Name)
			}
			continue
		}
		for _, r := range rs { // endpoints that Envoy now resolves itself, or testers that there are no longer
			if !slices.ContainsFunc(fresh[v], func(o *Resource) bool { return o.Type == r.Type && o.Name == r.Name }) {
				h.drop(r.Type, r.Name)
			}
		}
	}
	s.resources = fresh
	for _, rs := range fresh {
		for _, r := range rs {
			h.put(r)
		}
	}
	if err := h.publishView(s, t); err != nil {
		return err
	}
	again := s.generation != t.Generation && len(s.refused) > 0 // another try is wanted
	s.generation = t.Generation
	h.putRoute(s, rds, again)
	if s.route == nil || !reflect.DeepEqual(*s.route, t.Policy.Route) {
		route := t.Policy.Route
		s.route = &route
		return h.listeners()
	}
	return nil
}

// publishView serves the table to gRPC clients too. One whose endpoints they cannot resolve is not
// served to them; Envoys do not suffer for it.
func (h *Hub) publishView(s *service, t rollout.Table) error {
	now, err := newView(t)
	if err != nil {
		h.log.WithField("service", t.Service).Warn("not served to gRPC clients: " + err.Error())
	}
	old := s.view
	s.view = now
	if err := h.clients.publish(old, now); err != nil {
		return fmt.Errorf("service %s, for gRPC clients: %w", t.Service, err)
	}
	return nil
}

// want is the version of the route that a stream is to have.
func (s *service) want(st *stream) string {
	switch {
	case !st.client && s.routeRes != nil:
		return s.routeRes.Version
	case st.client && s.view != nil:
		return s.view.version
	}
	return ""
}

func (h *Hub) service(name string) *service {
	s := h.services[name]
	if s == nil {
		s = &service{builtFrom: map[string]builtFrom{}, subscribers: map[*stream]struct{}{},
			waiting: map[*stream]time.Time{}, lagging: map[*stream]struct{}{}, refused: map[*stream]string{}}
		h.services[name] = s
		for st := range h.subs[TypeRoute][name] {
			s.subscribers[st] = struct{}{}
		}
	}
	return s
}

// build makes the clusters of a table, keeping those whose endpoints did not change.
func (s *service) build(t rollout.Table) (map[string][]*Resource, error) {
	fresh := map[string][]*Resource{}
	for _, c := range t.Clusters {
		from := builtFrom{slices.Clone(c.Endpoints), t.Policy.Route}
		if old, ok := s.builtFrom[c.Version]; ok && reflect.DeepEqual(old, from) {
			fresh[c.Version] = s.resources[c.Version]
			continue
		}
		rs, err := buildCluster(t.Policy, t.Service, c)
		if err != nil {
			return nil, err
		}
		for _, r := range rs {
			r.Nodes = t.Policy.Route.Nodes
		}
		fresh[c.Version], s.builtFrom[c.Version] = rs, from
	}
	return fresh, nil
}

// Remove takes a service away with everything that belongs to it.
func (h *Hub) Remove(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unhold(name)
	s := h.services[name]
	if s == nil {
		return nil
	}
	delete(h.services, name)
	if err := h.clients.publish(s.view, nil); err != nil {
		return err
	}
	h.drop(TypeRoute, name)
	for _, rs := range s.resources {
		for _, r := range rs {
			h.drop(r.Type, r.Name)
		}
	}
	return h.listeners()
}

// listeners rebuilds the listeners and scopes of all services.
func (h *Hub) listeners() error {
	var ps []*policy.Policy
	for _, name := range slices.Sorted(maps.Keys(h.services)) {
		if s := h.services[name]; s.route != nil {
			ps = append(ps, &policy.Policy{Service: name, Route: *s.route})
		}
	}
	rs, err := buildListeners(ps)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, r := range rs {
		keep[r.Type+r.Name] = true
		h.put(r)
	}
	for _, typ := range []string{TypeListener, TypeScope} {
		for name := range h.res[typ] {
			if !keep[typ+name] {
				h.drop(typ, name)
			}
		}
	}
	return nil
}

// put stores a resource and marks it for the streams that want it.
func (h *Hub) put(r *Resource) {
	byName := h.res[r.Type]
	if byName == nil {
		byName = map[string]*Resource{}
		h.res[r.Type] = byName
	}
	old := byName[r.Name]
	byName[r.Name] = r
	if old == nil || old.Version != r.Version || !slices.Equal(old.Nodes, r.Nodes) {
		h.mark(r.Type, r.Name)
	}
}

func (h *Hub) drop(typ, name string) {
	delete(h.res[typ], name)
	h.mark(typ, name)
}

func (h *Hub) mark(typ, name string) {
	for st := range h.subs[typ][name] {
		st.mark(typ, name)
	}
	for st := range h.wild[typ] {
		st.mark(typ, name)
	}
}

// putRoute stores the route and begins to wait for everybody who has it.
func (h *Hub) putRoute(s *service, r *Resource, again bool) {
	same := !again && s.routeRes != nil && s.routeRes.Version == r.Version
	s.routeRes = r
	if !same {
		now := time.Now()
		clear(s.refused)
		clear(s.lagging)
		for st := range s.subscribers {
			st.renew(r)
			if k := st.known(TypeRoute, r.Name); k.acked == s.want(st) && (st.client || k.sent == k.acked) {
				delete(s.waiting, st)
			} else {
				s.waiting[st] = now
				st.mark(TypeRoute, r.Name)
			}
		}
	}
	h.put(r)
	h.changes(r.Name)
}

// changes notes that a service's status may have changed.
func (h *Hub) changes(name string) {
	h.changed[name] = struct{}{}
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// Changes is signalled when TakeChanges has something to say.
func (h *Hub) Changes() <-chan struct{} { return h.wake }

// TakeChanges returns the status of every service whose status changed since the last call.
func (h *Hub) TakeChanges() []Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Status
	for name := range h.changed {
		if s := h.services[name]; s != nil {
			if now := s.status(name); !reflect.DeepEqual(now, s.told) {
				s.told = now
				out = append(out, now)
			}
		}
	}
	clear(h.changed)
	return out
}

func (s *service) status(name string) Status {
	st := Status{Service: name, Generation: s.generation, Subscribers: len(s.subscribers), Waiting: len(s.waiting)}
	for l := range s.lagging {
		st.Lagging = append(st.Lagging, l.node)
	}
	for r, msg := range s.refused {
		st.Refusals = append(st.Refusals, Refusal{r.node, msg})
	}
	slices.Sort(st.Lagging)
	slices.SortFunc(st.Refusals, func(a, b Refusal) int { return cmp.Compare(a.Node, b.Node) })
	st.InForce = len(s.subscribers) > len(s.lagging) && len(s.waiting) == 0 && len(s.refused) == 0
	return st
}

// Run looks for lagging streams until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			h.findLagging(now)
		}
	}
}

func (h *Hub) findLagging(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, s := range h.services {
		for st, since := range s.waiting {
			if now.Sub(since) >= LaggingAfter {
				delete(s.waiting, st)
				s.lagging[st] = struct{}{}
				h.changes(name)
				h.log.WithFields(logrus.Fields{"service": name, "node": st.node}).Warn("Envoy neither accepts nor refuses the route: no longer waited for")
			}
		}
	}
}

// Figures are for the metrics.
type Figures struct {
	Streams   int
	Nacks     map[string]int // short type name: refusals so far
	Unapplied map[string]int // service: nodes without the present table
}

// Figures returns the present ones.
func (h *Hub) Figures() Figures {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := Figures{Streams: len(h.streams), Nacks: maps.Clone(h.nacks), Unapplied: map[string]int{}}
	for name, s := range h.services {
		f.Unapplied[name] = len(s.waiting) + len(s.lagging) + len(s.refused)
	}
	return f
}
