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

// ForgetAfter is the default of Hub.ForgetAfter.
const ForgetAfter = time.Hour

// Hub holds all resources and knows for every stream what it has, what it was sent and what it
// accepted. One mutex guards it all: every critical section is short and does no I/O.
type Hub struct {
	// ForgetAfter is until when a node that is gone is remembered. Set it before the first Publish.
	ForgetAfter time.Duration

	log logrus.FieldLogger

	mu       sync.Mutex
	res      map[string]map[string]*Resource            // type, name
	subs     map[string]map[string]map[*stream]struct{} // type, name: who asked for it by name
	wild     map[string]map[*stream]struct{}            // type: who wants all
	streams  map[*stream]struct{}
	services map[string]*service
	nacks    map[string]int // type: refusals so far
	opened   uint64         // streams so far: they are numbered

	left map[string]time.Time // nodes that a connection was lost to: when the last one was
	held map[string]struct{}  // services that are to stay as the Envoys have them

	changed map[string]struct{} // services whose status changed
	wake    chan struct{}
	clients *clients
}

// service is the book-keeping of one service's route.
type service struct {
	generation uint64
	route      *policy.Route
	builtFrom  map[string]builtFrom // version: what its resources were built from
	resources  map[string][]*Resource
	routeRes   *Resource
	view       *view // of gRPC clients; nil: none
	force      *Force
	told       Status
}

type builtFrom struct {
	endpoints []string
	route     policy.Route
}

// NewHub makes an empty hub.
func NewHub(log logrus.FieldLogger) *Hub {
	h := &Hub{
		ForgetAfter: ForgetAfter,
		log:         log, res: map[string]map[string]*Resource{}, subs: map[string]map[string]map[*stream]struct{}{},
		wild: map[string]map[*stream]struct{}{}, streams: map[*stream]struct{}{}, services: map[string]*service{},
		nacks: map[string]int{}, held: map[string]struct{}{}, left: map[string]time.Time{}, changed: map[string]struct{}{}, wake: make(chan struct{}, 1),
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
	h.putRoute(s, rds, t)
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

func (h *Hub) service(name string) *service {
	s := h.services[name]
	if s == nil {
		s = &service{builtFrom: map[string]builtFrom{}, force: NewForce(h.ForgetAfter)}
		h.services[name] = s
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
			r.Nodes, r.services = t.Policy.Route.Nodes, []string{t.Service}
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
		h.changedContent(old, r)
	}
}

func (h *Hub) drop(typ, name string) {
	h.changedContent(h.res[typ][name], nil)
	delete(h.res[typ], name)
	h.mark(typ, name)
}

// changedContent ends the refusals of what is wanted no longer.
func (h *Hub) changedContent(old, now *Resource) {
	if old == nil || now != nil && now.Version == old.Version {
		return
	}
	for _, name := range old.services {
		if s := h.services[name]; s != nil {
			s.force.Changed(Ref{old.Type, old.Name}, time.Now())
			h.changes(name)
		}
	}
}

func (h *Hub) mark(typ, name string) {
	for st := range h.subs[typ][name] {
		st.mark(typ, name)
	}
	for st := range h.wild[typ] {
		st.mark(typ, name)
	}
}

// putRoute stores the route and begins to wait for everybody who has an older one. The same content
// under another generation is another try for those who refused it.
func (h *Hub) putRoute(s *service, r *Resource, t rollout.Table) {
	now := time.Now()
	same := s.routeRes != nil && s.routeRes.Version == r.Version
	again := same && s.generation != t.Generation
	s.generation, s.routeRes = t.Generation, r
	s.force.Want(s.wanted(t), now)
	if !same || again {
		for st := range h.subs[TypeRoute][r.Name] {
			if again && !s.force.refuses(st.id) {
				continue
			}
			st.renew(r)
			st.mark(TypeRoute, r.Name)
		}
		s.force.Changed(Ref{TypeRoute, r.Name}, now)
	}
	for st := range h.subs[TypeRoute][r.Name] { // a new service, or other nodes may have it
		st.joins(s, r.Name)
	}
	h.put(r)
	h.changes(r.Name)
}

// wanted is what the book compares with.
func (s *service) wanted(t rollout.Table) Wanted {
	w := Wanted{Generation: t.Generation, Envoys: Content{s.routeRes.Version, t.Slots}, Nodes: t.Policy.Route.Nodes}
	if m := s.routeRes.minimal; m != nil {
		w.Minimal = Content{m.Version, []rollout.Run{{Version: t.Stable, Count: policy.FullWeight}}}
	}
	if s.view != nil {
		w.Clients = Content{s.view.version, t.Slots}
	}
	for _, c := range t.Clusters {
		if c.Version != t.Stable {
			w.Canaries = append(w.Canaries, c.Version)
		}
	}
	return w
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
			for _, n := range s.force.TakeNotes() {
				h.log.WithFields(logrus.Fields{"service": name, "node": n.Node}).Warn(n.Text)
			}
			if now := s.force.Status(name); !reflect.DeepEqual(now, s.told) {
				s.told = now
				out = append(out, now)
			}
		}
	}
	clear(h.changed)
	return out
}

// Run lets time pass in the books until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			h.tick(now)
		}
	}
}

func (h *Hub) tick(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, s := range h.services {
		if s.force.Tick(now) {
			h.changes(name)
		}
	}
	maps.DeleteFunc(h.left, func(_ string, at time.Time) bool { return now.Sub(at) > h.ForgetAfter })
}

// Envoys are all nodes that are connected, or that have something of a service.
func (h *Hub) Envoys() []Envoy {
	h.mu.Lock()
	defer h.mu.Unlock()
	found := map[[2]string]*Envoy{} // by node.id and address
	of := func(n Node, connected bool, since time.Time) *Envoy {
		e := found[[2]string{n.ID, n.Peer}]
		if e == nil {
			e = &Envoy{Node: n.ID, Cluster: n.Cluster, Build: n.Build, Peer: n.Peer, Client: n.Client, Connected: connected, Since: since}
			found[[2]string{n.ID, n.Peer}] = e
		}
		return e
	}
	for st := range h.streams {
		if !st.node.Diagnostic {
			of(st.node, true, st.since)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h.services)) {
		f := h.services[name].force
		for m := range f.all() {
			if !m.doubted {
				of(m.node, m.stream != 0, m.since).add(name, f.nodeStatus(m))
			}
		}
	}
	var out []Envoy
	for _, e := range found {
		out = append(out, *e)
	}
	slices.SortFunc(out, func(a, b Envoy) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Peer, b.Peer)) })
	return out
}

// restarted notes that a node's process is a new one.
func (h *Hub) restarted(node string) {
	if _, known := h.left[node]; !known {
		return
	}
	delete(h.left, node)
	for name, s := range h.services {
		if len(s.force.nodes[node]) > 0 {
			s.force.Restarted(node)
			h.changes(name)
		}
	}
}

// Forget ends all waiting for a node, and reports whether it was known.
func (h *Hub) Forget(node string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := false
	for name, s := range h.services {
		if s.force.Forget(node) {
			known = true
			h.changes(name)
		}
	}
	return known
}

// Served is what a node's Envoy serves of a service, and since when: reports of earlier intervals are about
// something else.
func (h *Hub) Served(node, service string) (slots []rollout.Run, since time.Time, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.services[service]
	if s == nil {
		return nil, time.Time{}, false
	}
	return s.force.Served(node)
}

// Figures are for the metrics.
type Figures struct {
	Streams   int
	Nacks     map[string]int // short type name: refusals so far
	Unapplied map[string]int // service: connected nodes without the present table, or that refuse something
}

// Figures returns the present ones.
func (h *Hub) Figures() Figures {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := Figures{Streams: len(h.streams), Nacks: maps.Clone(h.nacks), Unapplied: map[string]int{}}
	for name, s := range h.services {
		st := s.force.Status(name)
		f.Unapplied[name] = len(st.Nodes) - st.Counts.Gone
	}
	return f
}
