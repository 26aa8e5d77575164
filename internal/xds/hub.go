package xds

import (
	"context"
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

// Hub serves tables to Envoys. It ties together what there is (the catalogue), what each stream has
// (sessions), and who has what of each service (the books). One mutex guards it all: no critical section does
// I/O.
type Hub struct {
	// ForgetAfter is until when a node that is gone is remembered. Set it before the first Publish.
	ForgetAfter time.Duration
	// Admission says who may speak, and how much. Set it before NewServer.
	Admission Admission
	// Key seals what the Envoys remember. Set it before the first Publish.
	Key Key

	log  logrus.FieldLogger
	now  func() time.Time
	most int // resources in one response

	records   records
	arrivals  *arrivals
	doors     chan struct{} // of the streams; see enter
	mu        sync.Mutex
	cat       *Catalog
	lists     lists
	listeners listeners
	services  map[string]*service
	rounds    rounds // of their books
	walks     walks
	sessions  map[uint64]*session
	subs      map[Ref][]place                  // who asked for it by name, in order
	places    places                           // of the sessions
	wild      map[string]map[*session]struct{} // type: who wants all
	opened    uint64                           // streams so far: they are numbered
	peers     map[uint64]*stream               // all streams, those of gRPC clients too
	speakers  map[Identity]map[uint64]speaker  // by who they are
	refusals  *refusals
	penalties *penalties
	presence  *presence
	nodes     nodes
	debts     map[string]*debt        // by IP address
	grouped   map[string][]string     // services that some groups of nodes have, and not all: which
	groups    map[string]int          // and these, by how many services name each
	sights    uint64                  // how often that changed
	sighted   uint64                  // the same, when all were last told what to report
	reporters map[Identity]*reporters // streams of reports, by who they are
	nacks     map[string]int          // type: refusals so far
	disputed  map[Ref]*dispute        // listeners that somebody refused as they are: of all others no book has a refusal
	changed   lean[string, struct{}]  // services whose status changed: all at the start, and to find one in a map that once had them takes some 40 µs
	tours     map[Ref]*tour           // listeners whose services may all have another status
	wake      chan struct{}
	spared    bool // nobody is told of changes for a while
	rolls     rolls
	clients   *clients
	parting   map[string]*parting        // removed services that somebody may still send requests to
	restored  map[string][]rollout.Crowd // stored nodes of services that are not published yet
}

// service is what is served of one service.
type service struct {
	edition   *edition
	listens   policy.Route // what its listener and scopes were made of last
	deaf      bool         // they could not be made of what came since
	force     *Force
	told      Status
	recalled  []rollout.Attempt // Envoys remember that these were cut; in order
	restarted []string          // nodes that came back as new processes, since the loop was told last
	past      []Content         // what gRPC clients got of the last tables, oldest first
}

// edition is one table, built.
type edition struct {
	forms    *forms
	route    policy.Route
	versions map[string]built
	view     *view // what gRPC clients are sent; nil: they do not get the service
}

// built is what was made for a version, and of what.
type built struct {
	attempt   rollout.Attempt
	endpoints []string
	route     policy.Route
	measure   measure
	resources []*Resource
}

// NewHub makes an empty hub.
func NewHub(log logrus.FieldLogger) *Hub {
	h := &Hub{
		ForgetAfter: ForgetAfter, Admission: Admission{Limits: DefaultLimits()}, log: log, now: time.Now, most: perResponse,
		speakers: map[Identity]map[uint64]speaker{}, refusals: newRefusals(log), penalties: newPenalties(),
		cat: newCatalog(), listeners: newListeners(), services: map[string]*service{}, sessions: map[uint64]*session{},
		subs: map[Ref][]place{}, wild: map[string]map[*session]struct{}{}, peers: map[uint64]*stream{},
		presence: newPresence(log), parting: map[string]*parting{}, restored: map[string][]rollout.Crowd{}, nodes: nodes{}, debts: map[string]*debt{}, grouped: map[string][]string{}, groups: map[string]int{}, reporters: map[Identity]*reporters{}, nacks: map[string]int{}, disputed: map[Ref]*dispute{}, tours: map[Ref]*tour{}, wake: make(chan struct{}, 1),
		doors: make(chan struct{}, doors), arrivals: newArrivals(),
	}
	for _, typ := range sendOrder() { // a counter that begins with its first refusal hides that one from alerts
		h.nacks[shortType(typ)] = 0
	}
	h.clients = newClients(h)
	return h
}

// doors are enough to keep the mutex busy.
const doors = 4

// enter takes the mutex for one of very many streams. All but a few of them wait in a line of their own: whoever else
// needs the mutex, such as for a cut, has only these few before him. (And Go's collector looks at all who wait for a
// mutex once for each of them.)
func (h *Hub) enter() {
	h.doors <- struct{}{}
	h.mu.Lock()
}

func (h *Hub) exit() {
	h.mu.Unlock()
	<-h.doors
}

// door is the mutex as one of very many streams has it.
type door struct{ hub *Hub }

func (d door) Lock()   { d.hub.enter() }
func (d door) Unlock() { d.hub.exit() }

// build makes everything of a table, keeping the clusters whose endpoints did not change. Nothing is marked as
// built before all of it is.
func build(t rollout.Table, key Key, old *edition, log logrus.FieldLogger) (*edition, error) {
	e := &edition{route: t.Policy.Route, versions: map[string]built{}}
	for _, c := range t.Clusters {
		b := built{c.Attempt, slices.Clone(c.Endpoints), t.Policy.Route, measureOf(t.Policy), nil}
		if old != nil {
			if was, ok := old.versions[c.Version]; ok && was.attempt == b.attempt && slices.Equal(was.endpoints, b.endpoints) && was.measure == b.measure && reflect.DeepEqual(was.route, b.route) {
				e.versions[c.Version] = was
				continue
			}
		}
		var err error
		if b.resources, err = buildCluster(t.Policy, t.Service, c); err != nil {
			return nil, err
		}
		for _, r := range b.resources {
			r.Nodes, r.services = t.Policy.Route.Nodes, []string{t.Service}
		}
		e.versions[c.Version] = b
	}
	var err error
	if e.forms, err = buildRoute(t, key); err != nil {
		return nil, err
	}
	// A table that gRPC clients cannot have is not served to them; Envoys do not suffer for it.
	if e.view, err = newView(t); err != nil {
		log.WithField("service", t.Service).Warn("not served to gRPC clients: " + err.Error())
	}
	return e, nil
}

// refs are the clusters and endpoints of an edition.
func (e *edition) refs() map[Ref]*Resource {
	out := map[Ref]*Resource{}
	if e != nil {
		for _, b := range e.versions {
			for _, r := range b.resources {
				out[r.ref()] = r
			}
		}
	}
	return out
}

func (e *edition) clientView() *view {
	if e == nil {
		return nil
	}
	return e.view
}

// putRoute stores the route and begins to wait for everybody who has an older one. The same content under
// another generation is another try for those who refused it, and so is one that cuts more.
func (h *Hub) putRoute(name string, s *service, old *edition) {
	f := s.edition.forms
	f.succeed(old.routes(), s.force.used())
	h.cat.routes[name] = f
	for st := range h.askers(f.whole.ref()) {
		if it := st.inv.item(f.whole.ref()); it != nil {
			it.learn(f)
		}
	}
	s.force.Want(s.wanted(), h.now())
	if old == nil || !slices.Equal(old.route.Nodes, s.edition.route.Nodes) {
		h.join(name, s)
	}
	if f.retries(old.routes()) {
		h.again(s, Ref{TypeRoute, name})
	}
	h.put(f.whole)
	h.changes(name)
}

func (e *edition) routes() *forms {
	if e == nil {
		return nil
	}
	return e.forms
}

// wanted is what the book compares with.
func (s *service) wanted() Wanted {
	t := s.edition.forms.table
	w := Wanted{Generation: t.Generation, Envoys: Content{s.edition.forms.whole.Version, t.Slots}, Nodes: t.Policy.Route.Nodes}
	if v := s.edition.view; v != nil {
		w.Clients = Content{v.version, t.Slots}
	}
	for _, c := range t.Clusters {
		if c.Version != t.Stable {
			w.Canaries = append(w.Canaries, c.Version)
		}
	}
	return w
}

// Retry sends again what was refused of a service: a person asks for it.
func (h *Hub) Retry(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.services[name]; s != nil {
		for r := range s.force.refusing() {
			h.again(s, r)
		}
		h.retriesOutside(name)
		h.changes(name)
	}
}

// again forgets who refused a resource, so that it is sent to them once more. A node may have refused it on another
// stream than its present one, which has not asked for it.
func (h *Hub) again(s *service, r Ref) {
	for _, id := range s.force.refusing()[r] {
		h.resend(id, r)
	}
	s.force.Changed(r, h.now())
}

// resend has a stream sent again what it refused, if it still wants that.
func (h *Hub) resend(id uint64, r Ref) {
	if st := h.sessions[id]; st != nil && st.inv.kinds[r.Type] != nil && st.inv.kinds[r.Type].wants(r.Name) {
		st.inv.renew(r)
		st.poke()
	}
}

// Hold leaves a service as the Envoys have it, until it is published or removed: nothing of it is sent,
// and nothing is taken away.
func (h *Hub) Hold(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cat.held[name] = struct{}{}
}

// unhold ends Holds; what was kept back is looked at again. All streams are asked, once for all of them.
func (h *Hub) unhold(names ...string) {
	var held []string
	for _, name := range names {
		if _, ok := h.cat.held[name]; ok {
			held = append(held, name)
			delete(h.cat.held, name)
		}
	}
	if len(held) == 0 {
		return
	}
	for _, s := range h.sessions {
		if s.inv.released(held, len(h.cat.held) == 0) {
			s.poke()
		}
	}
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
	h.regroup(name, nil)
	h.part(name, s.force)
	delete(h.restored, name)
	delete(h.cat.routes, name)
	h.clients.publish(name, s.edition.view, nil)
	h.drop(Ref{TypeRoute, name})
	for r := range s.edition.refs() {
		h.drop(r)
	}
	return h.listen([]turn{{name, s.listens, policy.Route{}}})
}

// put stores a resource and marks it for the streams that want it.
func (h *Hub) put(r *Resource) {
	old := h.cat.put(r)
	if old == nil || !sameVersion(old.Version, r.Version) || !slices.Equal(old.Nodes, r.Nodes) {
		h.mark(r.ref())
		h.outdated(old, r)
	}
}

func (h *Hub) drop(r Ref) {
	old := h.cat.drop(r)
	h.mark(r)
	h.outdated(old, nil)
}

func (h *Hub) mark(r Ref) {
	for s := range h.askers(r) {
		s.inv.renew(r)
		s.poke()
	}
	for s := range h.wild[r.Type] {
		s.inv.renew(r)
		s.poke()
	}
}

// subscribe notes who asked for a resource.
func (h *Hub) subscribe(s *session, r Ref) {
	if at, had := h.asker(r, s); !had {
		s.asked++
		h.subs[r] = insert(h.subs[r], at, s.place)
	}
	if svc := h.services[r.Name]; svc != nil && r.Type == TypeRoute {
		h.joins(s, r.Name, svc)
	}
}

func (h *Hub) subscribeAll(s *session, typ string) {
	if h.wild[typ] == nil {
		h.wild[typ] = map[*session]struct{}{}
	}
	h.wild[typ][s] = struct{}{}
}

func (h *Hub) unsubscribe(s *session, r Ref) {
	at, had := h.asker(r, s)
	if !had {
		return
	}
	s.asked--
	if h.subs[r] = slices.Delete(h.subs[r], at, at+1); len(h.subs[r]) == 0 {
		delete(h.subs, r)
	}
}

// asker finds where a stream is, or would be, among those that asked for a resource.
func (h *Hub) asker(r Ref, s *session) (at int, had bool) {
	return slices.BinarySearch(h.subs[r], s.place)
}

// Run lets time pass in the books until ctx ends, and returns when gRPC clients can have all that was published.
func (h *Hub) Run(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	defer h.clients.feed.wait()
	defer h.arrivals.end()
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
	h.rounds.tick(now, &breaks{mu: &h.mu}, func(f *Force) { h.changes(f.service) })
	h.presence.tick(now)
	h.resight()
	h.walks.parting.steps(maps.Keys(h.parting), h.looksAfter)
	h.walks.nodes.steps(maps.Keys(h.nodes), func(id string) int { return h.nodes.expire(id, now, h.ForgetAfter) })
	h.walks.debts.steps(maps.Keys(h.debts), func(host string) int {
		if d := h.debts[host]; d != nil && len(d.nodes) == 0 {
			delete(h.debts, host)
		}
		return 1
	})
}
