package xds

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// bars opens a stream of an Envoy that refuses the listener of all services, and asks for routes.
func bars(t *testing.T, h *Hub, id string, routes ...string) *session {
	t.Helper()
	s := hears(t, h, id, routes...)
	says(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeListener})
	answersAll(t, s, "no")
	return s
}

// entries are how many entries all books have together.
func entries(h *Hub) (n int) {
	for _, s := range h.services {
		n += len(s.force.members)
	}
	return n
}

// other gives a listener another content.
func other(h *Hub, version string) {
	l := *h.cat.resources[Ref{TypeListener, shared}]
	l.Version = strings.Repeat(version, hashLength)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.put(&l)
}

// What somebody refuses by one NACK is written down once, however many services the listener has, and each of them is told.
func TestARefusedListenerIsBookedOnce(t *testing.T) {
	const services, streams = 400, 50
	h := crowded(t, services)
	before := entries(h)
	var all []*session
	for i := range streams {
		all = append(all, bars(t, h, fmt.Sprintf("evil-%02d", i)))
	}
	if n := entries(h) - before; n > 0 {
		t.Errorf("%d streams that have no route are in the books %d times", streams, n)
	}
	told, _ := takes(h)
	if len(told) != services {
		t.Errorf("%d of %d services are told", len(told), services)
	}
	alone := slices.DeleteFunc(told, func(s Status) bool { return s.Counts.Gone > 0 })
	for _, s := range alone {
		if s.Counts.Joining != streams || s.Subscribers != streams || s.InForce || len(s.Nodes) != toldOutside || s.Unlisted != streams-toldOutside {
			t.Fatalf("%d joining, %d subscribers, %d named and %d not", s.Counts.Joining, s.Subscribers, len(s.Nodes), s.Unlisted)
		}
		if &s.Nodes[0] != &alone[0].Nodes[0] {
			t.Fatal("each service has a list of its own")
		}
		if n := s.Nodes[1]; n.Node != "evil-01" || n.Standing != Joining || n.Type != "listener" || n.Resource != shared || n.Why != "no" {
			t.Fatalf("%+v", n)
		}
	}
	if page := slices.Collect(h.EnvoysAfter("", "shop-00300")); len(page) != streams || page[0].Services[300].Why != "no" {
		t.Errorf("%d Envoys are told of", len(page))
	}
	for _, s := range all {
		s.close()
	}
	if told, _ := takes(h); len(told) != services || len(h.disputed[Ref{TypeListener, shared}].by) > 0 {
		t.Errorf("they are gone, and %d services are told of that", len(told))
	}
}

// Who has a service's route and refuses its listener is waited for, as whoever refuses anything: in its own books, and in no others.
func TestWhoHasTheRouteAndRefusesTheListenerIsWaitedFor(t *testing.T) {
	h := crowded(t, 300)
	at := time.Unix(2e9, 0)
	h.now = func() time.Time { return at }
	s := hears(t, h, "edge-a")
	f := h.services["shop-00250"].force
	f.Join(s.stream, *f.envoys, at)
	says(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeListener})
	answersAll(t, s, "no")
	if st := h.status("shop-00250"); st.Counts != (Counts{Refused: 1}) || len(st.Refusals) != 1 || len(st.Nodes) != 1 {
		t.Errorf("%+v", st)
	}
	if st := h.status("shop-00251"); st.Counts != (Counts{Joining: 1}) || len(s.books) != 1 {
		t.Errorf("%+v", st)
	}
	if u := h.Figures(); u.Unapplied["shop-00250"] != 1 || u.Unapplied["shop-00251"] != 1 {
		t.Errorf("%v", u.Unapplied)
	}
	at = at.Add(RefusingFor + time.Second)
	h.tick(at)
	h.tick(at.Add(time.Second))
	if st := h.status("shop-00250"); !slices.Equal(st.Lagging, []string{"edge-a"}) {
		t.Errorf("it is waited for still: %+v", st)
	}
	g := h.services["shop-00251"].force // it asks for another route
	if h.joins(s, "shop-00251", h.services["shop-00251"]); !g.of("edge-a")[0].refuses(Ref{TypeListener, shared}, h.disputed[Ref{TypeListener, shared}].version) {
		t.Error("it has asked for the route, and its refusal is not booked there")
	}
	if st := h.status("shop-00251"); st.Counts != (Counts{Joining: 1}) || len(st.Nodes) != 1 {
		t.Errorf("%+v", st)
	}
}

// A node that is away from a book comes back to it by what it refuses, and so does one whose half-open stream ends.
func TestWhoComesBackAndRefusesTheListenerIsWaitedFor(t *testing.T) {
	h := crowded(t, 3)
	for _, half := range []bool{false, true} {
		id := fmt.Sprint("edge-", half)
		s := hears(t, h, id)
		f := h.services["shop-00001"].force
		f.Join(s.stream, *f.envoys, h.now())
		if !half {
			s.close()
		}
		again := h.open(s.Node) // the same process
		says(t, again, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeListener})
		answersAll(t, again, "no")
		if half {
			if _, outside := outsidersPlainly(h, "shop-00001")[again.stream]; !outside || f.standing(f.find(s.stream)) != Applied {
				t.Error("it has the place of another stream")
			}
			s.close()
		}
		m := f.of(id)
		if len(m) != 1 || f.standing(m[0]) != Refused {
			t.Errorf("%s: half-open %v: %d members, %s", id, half, len(m), f.standing(m[0]))
		}
		h.Forget(id)
		if st := h.status("shop-00001"); st.Counts.Refused > 0 || slices.ContainsFunc(st.Nodes, func(n NodeStatus) bool { return n.Node == id && n.Why != "" }) {
			t.Errorf("%s is forgotten: %+v", id, st)
		}
	}
}

// However many Envoys of one name there are, a book has an entry for those that asked for its route.
func TestOneNameIsNoWayIntoManyBooks(t *testing.T) {
	h := crowded(t, 100)
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf("shop-%05d", i))
	}
	hears(t, h, "evil", names...)
	before := entries(h)
	for range 20 {
		bars(t, h, "evil")
	}
	if n := entries(h) - before; n > 0 {
		t.Errorf("%d entries more", n)
	}
	if c := h.status("shop-00050").Counts; c.Joining != 21 {
		t.Errorf("%+v", c)
	}
}

// A listener that changes ends the refusals in the books that have some, in portions: neither do services wait in which nobody
// refused anything, nor a cut until all are done.
func TestRefusalsOfAListenerEndInPortions(t *testing.T) {
	const services = 3 * toldAtOnce
	h := crowded(t, services)
	var names []string
	for i := range services {
		names = append(names, fmt.Sprintf("shop-%05d", i))
	}
	refusing := func() (n int) {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, s := range h.services {
			if len(s.force.refusing()) > 0 {
				n++
			}
		}
		return n
	}
	bars(t, h, "edge-a", names[:10]...)
	takes(h)
	if n := len(h.disputed[Ref{TypeListener, shared}].books); n != 10 {
		t.Errorf("%d books know of it", n)
	}
	bars(t, h, "edge-b", names...)
	takes(h)
	if refusing() != services {
		t.Fatalf("refused in %d", refusing())
	}
	h.mu.Lock()
	l := *h.cat.resources[Ref{TypeListener, shared}]
	l.Version = strings.Repeat("0", hashLength)
	h.put(&l)
	left := 0
	for _, s := range h.services {
		if len(s.force.refusing()) > 0 {
			left++
		}
	}
	h.mu.Unlock()
	if left < services-toldAtOnce {
		t.Errorf("%d of %d are done at once", services-left, services)
	}
	told := map[string]bool{}
	for deadline := time.Now().Add(time.Minute); refusing() > 0 || len(told) < services; time.Sleep(time.Millisecond) {
		for _, s := range h.TakeChanges() {
			told[s.Service] = told[s.Service] || len(s.Nodes) == 0 || s.Counts.Gone > 0
		}
		if time.Now().After(deadline) {
			t.Fatalf("still refused in %d, %d told", refusing(), len(told))
		}
	}
}

// What was refused, and is published and refused again while the first refusals are still being ended, stays refused.
func TestWhatIsRefusedAgainMeanwhileStaysRefused(t *testing.T) {
	h := crowded(t, 3)
	s := bars(t, h, "edge-a", "shop-00001")
	f, r := h.services["shop-00001"].force, Ref{TypeListener, shared}
	e := settling{h, r, h.disputed[r].version, []*Force{f}}
	e.some()
	if len(f.refusing()) != 1 {
		t.Error("it is refused as it is, and that is over")
	}
	h.disputed[r].goes(s.stream)
	e.books = []*Force{f}
	if e.some(); len(f.refusing()) != 0 {
		t.Error("nobody refuses it, and it is in the book")
	}
}

// Whatever happens to a fleet that refuses listeners, what is told of each service and each Envoy is what the books and the streams say.
func TestWhatIsToldOfRefusedListenersIsWhatAllStreamsSay(t *testing.T) {
	shown, named := 0, 0
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 5))
		at := time.Unix(2e9, 0)
		g := &gallery{T: t, Hub: NewHub(quietLog()), r: r}
		g.now = func() time.Time { return at }
		for range 120 {
			at = at.Add(time.Duration(r.IntN(20)) * time.Second)
			g.step()
			if r.IntN(10) == 0 {
				g.tick(at)
			}
			shown, named = g.compare(seed, shown, named)
		}
	}
	if shown < 1000 || named < 500 {
		t.Errorf("refused listeners are shown %d times, and %d are in a book", shown, named)
	}
}

// gallery is a hub with eight services on three listeners, and a fleet that refuses these now and then.
type gallery struct {
	*testing.T
	*Hub
	r    *rand.Rand
	open []*session
}

func (g *gallery) service() string { return fmt.Sprint("s", g.r.IntN(8)) }

// installs a service on some listener, for all nodes or some.
func (g *gallery) installs() {
	p := policy.Default()
	p.Service = g.service()
	p.Route.Domains = []string{p.Service + ".example.com"}
	p.Route.Listener = []string{"", "0.0.0.0:1", "0.0.0.0:1", "0.0.0.0:2"}[g.r.IntN(4)]
	p.Route.Nodes = [][]string{nil, nil, {"edge"}, {"edge", "mesh"}}[g.r.IntN(4)]
	if err := g.PublishTable(rollout.Table{Service: p.Service, Generation: 1, Policy: &p, Stable: "v1", Slots: []rollout.Run{{Version: "v1", Count: policy.FullWeight}}}); err != nil {
		g.Fatal(err)
	}
}

func (g *gallery) connects() {
	n := Node{ID: fmt.Sprint("n", g.r.IntN(4)), Cluster: []string{"edge", "mesh", "else"}[g.r.IntN(3)], Build: fmt.Sprint("envoy ", g.r.IntN(2)), Diagnostic: g.r.IntN(10) == 0}
	n.Peer = fmt.Sprint("10.0.0.", g.r.IntN(5), ":", g.opened)
	if g.r.IntN(3) == 0 {
		n.services = []string{"s[0-3]"}
	}
	s := g.Hub.open(n)
	for _, typ := range []string{TypeCluster, TypeListener} {
		says(g.T, s, &discovery.DeltaDiscoveryRequest{TypeUrl: typ})
	}
	g.open = append(g.open, s)
}

func (g *gallery) step() {
	if len(g.services) == 0 {
		g.installs()
	}
	if len(g.open) == 0 || g.r.IntN(6) == 0 {
		g.connects()
	}
	i, name := g.r.IntN(len(g.open)), g.service()
	s, f := g.open[i], (*Force)(nil)
	if svc := g.services[name]; svc != nil {
		f = svc.force
	}
	switch g.r.IntN(16) {
	case 0:
		s.close()
		g.open = slices.Delete(g.open, i, i+1)
	case 1, 2:
		g.installs()
	case 3:
		if err := g.Remove(name); err != nil {
			g.Fatal(err)
		}
	case 4:
		g.Retry(name)
	case 5:
		forgets(g.T, g.Hub, s.ID)
	case 6, 7:
		says(g.T, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{name}})
	case 8:
		says(g.T, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesUnsubscribe: []string{name}})
	case 9:
		if f != nil && f.find(s.stream) != nil {
			f.Accept(s.stream, *f.envoys, true, g.now())
		}
	case 10, 11:
		answersAll(g.T, s, "")
	default:
		answersAll(g.T, s, "no")
	}
}

// compare holds what is told against what all streams say.
func (g *gallery) compare(seed uint64, shown, named int) (int, int) {
	g.Helper()
	for name, svc := range g.services {
		want, unlisted := statusPlainly(g.Hub, name)
		got := g.statusOf(svc.force)
		if got.Unlisted != unlisted {
			g.Fatalf("seed %d, %s: %d are not named, not %d", seed, name, got.Unlisted, unlisted)
		}
		if got.Unlisted = 0; unlisted > 0 {
			got.Nodes, want.Nodes = nil, nil
		}
		if !reflect.DeepEqual(got, want) {
			g.Fatalf("seed %d, %s:\n%+v\n%+v", seed, name, got, want)
		}
		d, ref := g.disputeOf(name)
		if d == nil {
			continue
		}
		shown += d.outside(svc.force)
		for _, m := range svc.force.members {
			if m.refuses(ref, d.version) {
				named++
			} else if d.by[m.who] != nil && !m.isGone() && d.tried[name] < d.by[m.who].try {
				g.Fatalf("seed %d: %s refuses the listener of %s, and the book does not know", seed, m.who.ID, name)
			}
		}
	}
	unapplied, nodes := countPlainly(g.Hub)
	if f := g.Figures(); !reflect.DeepEqual(f.Unapplied, unapplied) || !reflect.DeepEqual(f.Nodes, nodes) {
		g.Fatalf("seed %d: %v and %v, not %v and %v", seed, f.Unapplied, f.Nodes, unapplied, nodes)
	}
	if got, want := g.Envoys(), envoysPlainly(g.Hub); !reflect.DeepEqual(got, want) && len(got)+len(want) > 0 {
		g.Fatalf("seed %d:\n%+v\n%+v", seed, got, want)
	}
	return shown, named
}
