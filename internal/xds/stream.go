package xds

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sirupsen/logrus"
)

const (
	window       = 8   // responses in flight per type
	routeWindow  = 64  // of routes: a cut must not wait for a slow ACK
	perResponse  = 500 // resources in one response
	retryMinimal = time.Second
	retryMost    = 30 * time.Second
)

// stream is one Envoy's ADS stream. All fields are guarded by the hub's mutex.
type stream struct {
	hub    *Hub
	id     uint64
	node   Node
	since  time.Time
	booked map[string]struct{} // services whose book may know the stream
	types  map[string]*typeState
	wake   chan struct{}
	nonce  uint64
	closed bool
}

// typeState is what the stream wants and has of one type.
type typeState struct {
	wildcard bool
	answered bool // an Envoy waits for the first answer to a wildcard, even an empty one
	names    map[string]*known
	dirty    map[string]struct{}
	alone    map[string]struct{} // to be sent one per response, to find what is refused
	inflight map[string][]sent
}

// known is what the stream has of one resource.
type known struct {
	subscribed bool
	sent       string // version last sent; of what was not refused
	acked      string
	refused    string   // version not to be sent again
	clusters   []string // routes: what the accepted version names
	minimal    bool     // routes: only the minimal one is sent from here
	backoff    time.Duration
}

type sent struct {
	name, version string
	clusters      []string
}

// open books a new stream.
func (h *Hub) open(n Node) *stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opened++
	st := &stream{hub: h, id: h.opened, node: n, since: time.Now(), booked: map[string]struct{}{}, types: map[string]*typeState{}, wake: make(chan struct{}, 1)}
	h.streams[st] = struct{}{}
	return st
}

func (st *stream) typ(typ string) *typeState {
	ts := st.types[typ]
	if ts == nil {
		ts = &typeState{names: map[string]*known{}, dirty: map[string]struct{}{}, alone: map[string]struct{}{}, inflight: map[string][]sent{}}
		st.types[typ] = ts
	}
	return ts
}

func (st *stream) known(typ, name string) *known {
	ts := st.typ(typ)
	k := ts.names[name]
	if k == nil {
		k = &known{}
		ts.names[name] = k
	}
	return k
}

func (st *stream) mark(typ, name string) {
	st.typ(typ).dirty[name] = struct{}{}
	st.poke()
}

func (st *stream) poke() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// renew forgets what was refused: the content is another one now, or a person asks for another try.
func (st *stream) renew(r *Resource) {
	k := st.known(r.Type, r.Name)
	k.refused, k.minimal, k.backoff = "", false, 0
}

// receive takes one request in.
func (st *stream) receive(req *discovery.DeltaDiscoveryRequest) {
	h := st.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	typ := req.GetTypeUrl()
	first := st.types[typ] == nil
	ts := st.typ(typ)
	if items, ok := ts.inflight[req.GetResponseNonce()]; ok {
		delete(ts.inflight, req.GetResponseNonce())
		if d := req.GetErrorDetail(); d != nil {
			st.refusal(typ, items, d.GetMessage())
		} else {
			st.acceptance(typ, items)
		}
	}
	if first && typ == TypeCluster && len(req.GetInitialResourceVersions()) == 0 && !st.node.Diagnostic {
		h.restarted(st.node.ID)
	}
	for name, version := range req.GetInitialResourceVersions() {
		k := st.known(typ, name)
		k.sent, k.acked = version, version
		ts.dirty[name] = struct{}{}
	}
	st.subscribe(typ, req.GetResourceNamesSubscribe(), first)
	st.unsubscribe(typ, req.GetResourceNamesUnsubscribe())
	st.poke()
}

func (st *stream) subscribe(typ string, names []string, first bool) {
	h, ts := st.hub, st.typ(typ)
	if first && len(names) == 0 || slices.Contains(names, "*") {
		ts.wildcard = true
		if h.wild[typ] == nil {
			h.wild[typ] = map[*stream]struct{}{}
		}
		h.wild[typ][st] = struct{}{}
		for name := range h.res[typ] {
			ts.dirty[name] = struct{}{}
		}
	}
	for _, name := range names {
		if name == "*" {
			continue
		}
		st.known(typ, name).subscribed = true
		ts.dirty[name] = struct{}{}
		byName := h.subs[typ]
		if byName == nil {
			byName = map[string]map[*stream]struct{}{}
			h.subs[typ] = byName
		}
		if byName[name] == nil {
			byName[name] = map[*stream]struct{}{}
		}
		byName[name][st] = struct{}{}
		if s := h.services[name]; typ == TypeRoute && s != nil {
			st.joins(s, name)
		}
	}
}

// joins books that the stream asks for a service's route, and what it brought along.
func (st *stream) joins(s *service, name string) {
	var has Content
	if k := st.known(TypeRoute, name); k.acked != "" {
		has, _ = s.force.content(k.acked)
	}
	st.booked[name] = struct{}{}
	s.force.Join(st.id, st.node, has, time.Now())
	st.hub.changes(name)
}

func (st *stream) unsubscribe(typ string, names []string) {
	ts := st.typ(typ)
	for _, name := range names {
		if name == "*" {
			ts.wildcard = false
			delete(st.hub.wild[typ], st)
			continue
		}
		st.forget(typ, name)
		delete(ts.names, name)
		delete(ts.dirty, name)
	}
}

// forget removes the stream from the index of a name.
func (st *stream) forget(typ, name string) {
	h := st.hub
	delete(h.subs[typ][name], st)
	if len(h.subs[typ][name]) == 0 {
		delete(h.subs[typ], name)
	}
	if s := h.services[name]; typ == TypeRoute && s != nil {
		if !st.closed {
			s.force.Drop(st.id)
		}
		h.changes(name)
	}
}

func (st *stream) close() {
	h := st.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	st.closed = true
	delete(h.streams, st)
	for typ, ts := range st.types {
		delete(h.wild[typ], st)
		for name, k := range ts.names {
			if k.subscribed {
				st.forget(typ, name)
			}
		}
	}
	for name := range st.booked {
		if s := h.services[name]; s != nil {
			s.force.Leave(st.id, time.Now())
			h.changes(name)
		}
	}
	h.left[st.node.ID] = time.Now()
}

func (st *stream) acceptance(typ string, items []sent) {
	ts := st.typ(typ)
	for _, it := range items {
		k := ts.names[it.name]
		if k == nil {
			continue // unsubscribed meanwhile
		}
		k.acked, k.clusters, k.backoff = it.version, it.clusters, 0
		if s := st.hub.services[it.name]; typ == TypeRoute && s != nil && it.version != "" {
			c, _ := s.force.content(it.version)
			s.force.Accept(st.id, c, time.Now())
		}
		st.took(typ, it)
	}
}

// took ends the refusal of what was accepted now.
func (st *stream) took(typ string, it sent) {
	r := st.hub.res[typ][it.name]
	if r == nil || r.Version != it.version {
		return
	}
	for _, name := range r.services {
		if s := st.hub.services[name]; s != nil {
			s.force.Took(st.id, Ref{typ, it.name}, time.Now())
			st.hub.changes(name)
		}
	}
}

// refused books a NACK of something present on the services that it belongs to.
func (st *stream) refused(typ string, it sent, message string) {
	r := st.hub.res[typ][it.name]
	if r == nil || r.Version != it.version && (r.minimal == nil || r.minimal.Version != it.version) {
		return
	}
	for _, name := range r.services {
		if s := st.hub.services[name]; s != nil {
			st.booked[name] = struct{}{}
			s.force.Refuse(st.id, st.node, Ref{typ, it.name}, it.version, message, time.Now())
			st.hub.changes(name)
		}
	}
}

// refusal books a NACK. Of several resources each is sent again on its own, to find the culprit.
func (st *stream) refusal(typ string, items []sent, message string) {
	h, ts := st.hub, st.typ(typ)
	h.nacks[shortType(typ)]++
	h.log.WithFields(logrus.Fields{"node": st.node.ID, "type": shortType(typ), "resources": len(items)}).Warn("Envoy refused an update: " + bounded(message))
	for _, it := range items {
		k := ts.names[it.name]
		if k == nil || k.sent != it.version {
			continue
		}
		k.sent = k.acked
		ts.dirty[it.name] = struct{}{}
		if len(items) > 1 {
			ts.alone[it.name] = struct{}{}
			continue
		}
		k.refused = it.version
		st.refused(typ, it, message)
		if s := h.services[it.name]; typ == TypeRoute && s != nil {
			st.refusedRoute(s, it, k)
		}
	}
}

// refusedRoute sends a minimal route when it was a cut that was refused.
func (st *stream) refusedRoute(s *service, it sent, k *known) {
	h := st.hub
	cur := s.routeRes
	if cur.minimal == nil || !k.servesCut(cur) {
		return
	}
	k.minimal = true
	if it.version != cur.minimal.Version {
		return // the minimal route goes out at once
	}
	k.backoff = min(max(2*k.backoff, retryMinimal), retryMost)
	delete(st.typ(TypeRoute).dirty, it.name)
	time.AfterFunc(k.backoff, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !st.closed {
			k.refused = ""
			st.mark(TypeRoute, it.name)
		}
	})
}

// next returns the response that goes out next, the most urgent first; nil when there is none. It is
// asked before each send, so that a cut overtakes whatever else is waiting.
func (st *stream) next() *raw {
	h := st.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	order := sendOrder()
	for typ := range st.types {
		if !slices.Contains(order, typ) {
			order = append(order, typ)
		}
	}
	for _, typ := range order {
		limit := window
		if typ == TypeRoute {
			limit = routeWindow
		}
		if ts := st.types[typ]; ts != nil && len(ts.inflight) < limit {
			if r := st.response(typ, ts); r != nil {
				return r
			}
		}
	}
	return nil
}

// response gathers what may be sent of one type; nil when there is nothing.
func (st *stream) response(typ string, ts *typeState) *raw {
	limit := perResponse
	r := &raw{}
	var items []sent
	var again []string
	for name := range ts.dirty {
		_, alone := ts.alone[name]
		if alone && len(items) > 0 {
			continue
		}
		res, gone, ok := st.sendable(typ, name)
		if !ok {
			continue
		}
		delete(ts.dirty, name)
		delete(ts.alone, name)
		k := st.known(typ, name)
		switch {
		case gone:
			r.removed = append(r.removed, name)
			k.sent = ""
			items = append(items, sent{name: name})
			if !k.subscribed {
				delete(ts.names, name)
			}
		case res != nil:
			r.add(res.encoded)
			k.sent = res.Version
			items = append(items, sent{name, res.Version, res.clusters})
			if s := st.hub.services[name]; typ == TypeRoute && s != nil {
				s.force.Sent(st.id, res.Version, time.Now())
			}
			st.resend(typ, name, k)
			if res.interim && !k.minimal {
				again = append(again, name) // the whole route follows when its clusters are warm
			}
		}
		if len(items) >= limit || alone && len(items) > 0 {
			break
		}
	}
	for _, name := range again {
		ts.dirty[name] = struct{}{}
	}
	if len(items) == 0 && (!ts.wildcard || ts.answered) {
		return nil
	}
	ts.answered = true
	st.nonce++
	nonce := strconv.FormatUint(st.nonce, 10)
	ts.inflight[nonce] = items
	r.finish(typ, nonce)
	return r
}

// resend sends the endpoints again with a cluster that changes: Envoy warms it anew and waits for them.
func (st *stream) resend(typ, name string, k *known) {
	if typ != TypeCluster || k.acked == "" {
		return
	}
	if eds := st.types[TypeEndpoint]; eds != nil && eds.names[name] != nil && st.hub.res[TypeEndpoint][name] != nil {
		eds.names[name].sent = ""
		eds.dirty[name] = struct{}{}
	}
}

// sendable says what to send of a name: a resource, its removal, or nothing (both nil and false);
// ok is false while it has to wait, and the name stays dirty.
func (st *stream) sendable(typ, name string) (res *Resource, gone, ok bool) {
	k := st.known(typ, name)
	res = st.hub.res[typ][name]
	if res == nil && st.hub.holds(typ, name) {
		return nil, false, false
	}
	if res == nil || !res.visible(st.node.Cluster) {
		return nil, st.tellGone(typ, name, k), st.mayRemove(typ, name)
	}
	if k.minimal && res.minimal != nil {
		res = res.minimal
	}
	if res.Version == k.sent || res.Version == k.refused {
		return nil, false, true
	}
	if typ != TypeRoute {
		return res, false, true
	}
	if v := st.node.Version; res.user && v[0] == 1 && v[1] < 36 {
		st.tooOld(name, k, res)
		return nil, false, true
	}
	if st.warm(res) {
		return res, false, true
	}
	if res.minimal != nil && k.servesCut(res) && k.sent != res.minimal.Version {
		return res.minimal, false, true // a cut waits for nobody's new cluster
	}
	return nil, false, false
}

// servesCut reports whether the accepted route still sends requests to a version that was cut.
func (k *known) servesCut(r *Resource) bool {
	return slices.ContainsFunc(k.clusters, func(c string) bool { return slices.Contains(r.cut, c) })
}

func (st *stream) tooOld(name string, k *known, res *Resource) {
	k.refused = res.Version
	st.refused(TypeRoute, sent{name: name, version: res.Version}, fmt.Sprintf("this Envoy is %d.%d: `ramp.per: user` needs 1.36 (use_hash_policy)",
		st.node.Version[0], st.node.Version[1]))
}

// tellGone reports whether the stream has to hear that a name does not exist. Endpoints that it has
// are left alone: Envoy ignores their removal and unsubscribes when their cluster goes.
func (st *stream) tellGone(typ, name string, k *known) bool {
	if typ == TypeEndpoint && k.acked != "" {
		return false
	}
	return k.sent != "" || k.subscribed
}

// mayRemove holds the removal of a cluster back until this Envoy has accepted a route without it.
func (st *stream) mayRemove(typ, name string) bool {
	if typ != TypeCluster {
		return true
	}
	svc, _, _ := SplitCluster(name)
	routes := st.types[TypeRoute]
	s := st.hub.services[svc]
	if routes == nil || routes.names[svc] == nil || s == nil || s.routeRes == nil {
		return true
	}
	return routes.names[svc].acked == s.routeRes.Version
}

// warm reports whether this Envoy has every cluster that the route names, with its endpoints: only
// then can the route be accepted without an error for a user.
func (st *stream) warm(r *Resource) bool {
	cds := st.types[TypeCluster]
	if cds == nil {
		return true // its clusters come from elsewhere
	}
	for _, c := range r.clusters {
		k := cds.names[c]
		if k == nil || k.acked == "" {
			return false
		}
		if cur := st.hub.res[TypeCluster][c]; cur != nil && cur.byDNS {
			continue
		}
		eds := st.types[TypeEndpoint]
		if eds == nil || eds.names[c] == nil || eds.names[c].acked == "" {
			return false
		}
	}
	return true
}

func shortType(typ string) string {
	switch typ {
	case TypeListener:
		return "listener"
	case TypeScope:
		return "scope"
	case TypeRoute:
		return "route"
	case TypeCluster:
		return "cluster"
	case TypeEndpoint:
		return "endpoint"
	}
	return "other"
}
