package xds

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// A route that leaves looks at the listeners and scopes whose removal the Envoy has not taken in, and not at ten thousand that stay.
func TestWhetherListenersLeaveCostsWhatLeaves(t *testing.T) {
	const services, gone = 500, 3
	h := crowded(t, services)
	s := h.open(Node{ID: "edge"})
	says(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeScope})
	says(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeListener})
	answersAll(t, s, "")
	leaves := func() (asked, looks int) {
		t.Helper()
		says(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"none"}})
		g := s.gate()
		g.pass = &pass{}
		r, ok := g.next()
		for ok && r.typ != TypeRoute { // the removal of scopes goes before
			s.inv.accept(r.typ, r.parcels)
			asked, looks = asked+g.pass.asked, looks+g.pass.looks
			g.pass = &pass{}
			r, ok = g.next()
		}
		if !ok {
			t.Fatal("the Envoy is not told that there is no such route")
		}
		s.inv.accept(r.typ, r.parcels)
		says(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesUnsubscribe: []string{"none"}})
		return asked + g.pass.asked, looks + g.pass.looks
	}
	if asked, looks := leaves(); asked == 0 || looks > 0 {
		t.Errorf("nothing leaves: asked %d times, and %d were looked at", asked, looks)
	}
	for i := range gone {
		if err := h.Remove(fmt.Sprintf("shop-%05d", services-1-i)); err != nil {
			t.Fatal(err)
		}
	}
	if asked, looks := leaves(); looks == 0 || looks > asked*(gone+1) { // the listener changes
		t.Errorf("%d scopes leave: asked %d times, and %d were looked at", gone, asked, looks)
	}
	if asked, looks := leaves(); asked == 0 || looks > 0 {
		t.Errorf("they have left: asked %d times, and %d were looked at", asked, looks)
	}
}

// overlooked is a listener or scope of a stream that is to be removed and not looked at as such.
func overlooked(s *session) (typ, name string, missing bool) {
	for typ, k := range s.inv.kinds {
		for name := range k.all() {
			if _, outgoing := k.outgoing.m[name]; !outgoing && goesFirst(typ) && s.gate().leaves(Ref{typ, name}) {
				return typ, name, true
			}
		}
	}
	return "", "", false
}

// Whatever a stream asks for, is sent, and answers, in whatever order, and whatever is published, held and removed meanwhile: what
// leaves is found, and of what stays nothing is remembered in the end.
func TestWhatLeavesIsFound(t *testing.T) {
	for seed := range uint64(400) {
		l := &leavers{t: t, r: rand.New(rand.NewPCG(seed, 4)), h: NewHub(quietLog()), names: map[Ref]struct{}{}}
		for range 2 {
			l.does(0)
		}
		l.opens()
		for range 120 {
			l.does(l.r.IntN(11))
			for r := range l.h.cat.resources {
				l.names[r] = struct{}{}
			}
			if typ, name, missing := overlooked(l.s); missing {
				t.Fatalf("seed %d: %s %s leaves, and is not looked at, after\n%s", seed, shortType(typ), name, strings.Join(l.told, "\n"))
			}
		}
		l.ends()
		for typ, k := range l.s.inv.kinds {
			if left := slices.Collect(maps.Keys(k.outgoing.m)); len(left) > 0 {
				t.Fatalf("seed %d: %s %v may be leaving in the end, after\n%s", seed, shortType(typ), left, strings.Join(l.told, "\n"))
			}
		}
	}
}

// leavers are a few services and a stream that has their listeners and scopes.
type leavers struct {
	t     *testing.T
	r     *rand.Rand
	h     *Hub
	s     *session
	names map[Ref]struct{} // that there are or were
	sent  []answer
	told  []string
	gen   uint64
}

type answer struct{ typ, nonce string }

func (l *leavers) opens() {
	n := Node{ID: "edge"}
	if l.r.IntN(2) == 0 {
		n.services = []string{"shop-0", "shop-1"}
	}
	l.s = l.h.open(n)
	for _, typ := range []string{TypeListener, TypeScope} {
		req := &discovery.DeltaDiscoveryRequest{TypeUrl: typ, InitialResourceVersions: map[string]string{}}
		for r, res := range l.h.cat.resources {
			if r.Type == typ && l.r.IntN(2) == 0 {
				req.InitialResourceVersions[r.Name] = []string{res.Version, "0123456789abcdef"}[l.r.IntN(2)]
			}
		}
		if l.r.IntN(3) == 0 {
			req.InitialResourceVersions["was here"] = "0123456789abcdef"
		}
		if l.r.IntN(3) == 0 {
			req.ResourceNamesSubscribe = []string{"was here"}
		}
		l.says(req)
	}
}

func (l *leavers) says(req *discovery.DeltaDiscoveryRequest) {
	l.told = append(l.told, fmt.Sprintf("asks for %s: subscribe %q, unsubscribe %q, has %v, nonce %s, refuses %v", shortType(req.TypeUrl), req.ResourceNamesSubscribe, req.ResourceNamesUnsubscribe, req.InitialResourceVersions, req.ResponseNonce, req.ErrorDetail != nil))
	says(l.t, l.s, req)
}

// does has one thing happen.
func (l *leavers) does(what int) {
	service := fmt.Sprint("shop-", l.r.IntN(5))
	typ := []string{TypeListener, TypeScope}[l.r.IntN(2)]
	switch what {
	case 0, 1:
		l.publishes(service, l.r.IntN(4))
	case 2:
		l.told = append(l.told, "remove "+service)
		if err := l.h.Remove(service); err != nil {
			l.t.Fatal(err)
		}
	case 3:
		if l.h.services[service] == nil {
			l.told = append(l.told, "hold "+service)
			l.h.Hold(service)
		}
	case 4, 5:
		l.receives()
	case 6, 7:
		l.answers(l.r.IntN(1+len(l.sent)), l.r.IntN(3) == 0)
	case 8, 9:
		name := l.anyName(typ)
		req := &discovery.DeltaDiscoveryRequest{TypeUrl: typ}
		if l.r.IntN(2) == 0 {
			req.ResourceNamesSubscribe = []string{name}
		} else {
			req.ResourceNamesUnsubscribe = []string{name}
		}
		l.says(req)
	case 10: // which looks at what leaves
		l.says(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"none"}})
		l.says(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesUnsubscribe: []string{"none"}})
		l.says(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"none"}})
		l.receives()
	}
}

// anyName is a name of a type, or all.
func (l *leavers) anyName(typ string) string {
	all := []string{"*", "was here"}
	for r := range l.names {
		if r.Type == typ {
			all = append(all, r.Name)
		}
	}
	slices.Sort(all)
	return all[l.r.IntN(len(all))]
}

func (l *leavers) publishes(service string, on int) {
	l.gen++
	p := policy.Default()
	p.Service, p.Route.Domains = service, []string{service + ".example.com"}
	p.Route.Listener = []string{"", "0.0.0.0:10000", "0.0.0.0:10001", "0.0.0.0:10000"}[on]
	l.told = append(l.told, fmt.Sprintf("publish %s on %q", service, p.Route.Listener))
	publish(l.t, l.h, rollout.Table{Service: service, Generation: l.gen, Policy: &p, Stable: "v1", Slots: []rollout.Run{{Version: "v1", Count: policy.FullWeight}}})
}

func (l *leavers) receives() (ok bool) {
	r, nonce, ok := l.s.next()
	if ok {
		l.sent = append(l.sent, answer{r.typ, nonce})
		l.told = append(l.told, fmt.Sprintf("is sent %s %s: %v", shortType(r.typ), nonce, slices.Collect(func(yield func(string) bool) {
			for _, p := range r.parcels {
				if !yield(fmt.Sprintf("%s %v", p.ref.Name, p.res != nil)) {
					return
				}
			}
		})))
	}
	return ok
}

func (l *leavers) answers(which int, refuses bool) {
	if which >= len(l.sent) {
		return
	}
	req := &discovery.DeltaDiscoveryRequest{TypeUrl: l.sent[which].typ, ResponseNonce: l.sent[which].nonce}
	if refuses {
		req.ErrorDetail = &rpcstatus.Status{Message: "no"}
	}
	l.sent = slices.Delete(l.sent, which, which+1)
	l.says(req)
}

// ends has nothing held any more, and all answered.
func (l *leavers) ends() {
	for i := range 5 {
		l.publishes(fmt.Sprint("shop-", i), 1)
	}
	for l.receives() || len(l.sent) > 0 {
		l.answers(0, false)
	}
}
