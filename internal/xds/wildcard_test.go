package xds

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/canaryd/canaryd/internal/rollout"
)

// wide is a hub with so many services, and a stream that asks for all their clusters.
func wide(t *testing.T, services int, brought map[string]string) (*Hub, *session) {
	t.Helper()
	h := NewHub(quietLog())
	for i := range services {
		at := table(1, nil)
		p := *at.Policy
		p.Service, at.Service, at.Policy = fmt.Sprintf("svc-%04d", i), fmt.Sprintf("svc-%04d", i), &p
		publish(t, h, at)
	}
	s := h.open(Node{ID: "edge-1"})
	if err := s.receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: brought}); err != nil {
		t.Fatal(err)
	}
	return h, s
}

// Who asks for everything and never answers costs one response, and a list that all have; who answers gets everything once.
func TestAWildcardWithoutAnAnswerCostsOneResponse(t *testing.T) {
	h, s := wide(t, 3*perResponse+100, nil)
	k := s.inv.kinds[TypeCluster]
	r, nonce, ok := s.next()
	if !ok || len(r.parcels) != perResponse {
		t.Fatalf("%d are sent", len(r.parcels))
	}
	if _, _, ok := s.next(); ok {
		t.Fatal("more is sent before the first response is answered")
	}
	if len(k.items.m) != perResponse || len(k.dirty.m) != 0 {
		t.Errorf("%d items, %d of its own to be looked at", len(k.items.m), len(k.dirty.m))
	}
	other := h.open(Node{ID: "edge-2"})
	if err := other.receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster}); err != nil {
		t.Fatal(err)
	}
	if of := other.inv.kinds[TypeCluster].fresh; &of[len(of)-1] != &k.fresh[len(k.fresh)-1] {
		t.Error("two streams have a list of their own each")
	}
	at := table(2, nil) // what changes meanwhile waits for nothing, and is sent once
	p := *at.Policy
	p.Service, at.Service, at.Policy = "svc-9999", "svc-9999", &p
	publish(t, h, at)
	sent := map[string]int{}
	for ok := true; ok; r, nonce, ok = s.next() {
		for _, p := range r.parcels {
			sent[p.ref.Name]++
		}
		if err := s.receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResponseNonce: nonce}); err != nil {
			t.Fatal(err)
		}
	}
	if len(sent) != 3*perResponse+101 || sent["svc-9999/v1"] != 1 || slices.Max(values(sent)) != 1 || k.looks() != 0 || s.inv.marked() {
		t.Errorf("%d were sent, one %d times; %d are to be looked at", len(sent), slices.Max(values(sent)), k.looks())
	}
	s.close()
	other.close()
}

func values(m map[string]int) (out []int) {
	for _, n := range m {
		out = append(out, n)
	}
	return out
}

// A wildcard that ends before all of it was sent is sent no more; asked for again, everything that it was not told of comes.
func TestAWildcardEndsAndBeginsAgain(t *testing.T) {
	_, s := wide(t, 2*perResponse, nil)
	say := func(req *discovery.DeltaDiscoveryRequest) {
		t.Helper()
		req.TypeUrl = TypeCluster
		if err := s.receive(req); err != nil {
			t.Fatal(err)
		}
	}
	first, nonce, _ := s.next()
	say(&discovery.DeltaDiscoveryRequest{ResponseNonce: nonce, ResourceNamesUnsubscribe: []string{"*"}})
	if r, _, ok := s.next(); ok {
		t.Fatalf("%d are sent of what nobody asks for", len(r.parcels))
	}
	say(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{first.parcels[0].ref.Name}})
	r, nonce, ok := s.next()
	if !ok || len(r.parcels) != 1 {
		t.Fatalf("%d are sent of one name", len(r.parcels))
	}
	say(&discovery.DeltaDiscoveryRequest{ResponseNonce: nonce})
	if s.inv.marked() {
		t.Error("there is more to be looked at")
	}
	say(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"*"}})
	sent := 0
	for r, nonce, ok = s.next(); ok; r, nonce, ok = s.next() {
		sent += len(r.parcels)
		say(&discovery.DeltaDiscoveryRequest{ResponseNonce: nonce})
	}
	if sent != 2*perResponse-1 {
		t.Errorf("%d are sent, want all but the one that it has", sent)
	}
}

// accepts has a stream accept all that it is sent, and returns what that is: nil is a removal.
func accepts(t *testing.T, s *session) map[Ref]*Resource {
	t.Helper()
	all := map[Ref]*Resource{}
	for {
		r, nonce, ok := s.next()
		if !ok {
			return all
		}
		for _, p := range r.parcels {
			all[p.ref] = p.res
		}
		if err := s.receive(&discovery.DeltaDiscoveryRequest{TypeUrl: r.typ, ResponseNonce: nonce}); err != nil {
			t.Fatal(err)
		}
	}
}

func asks(t *testing.T, s *session, req *discovery.DeltaDiscoveryRequest) {
	t.Helper()
	if err := s.receive(req); err != nil {
		t.Fatal(err)
	}
}

// onListener is a table of a service that is on one of canaryd's listeners.
func onListener(service string) rollout.Table {
	at := table(1, nil)
	p := *at.Policy
	p.Route.Listener, p.Route.Domains = "0.0.0.0:80", []string{service + ".example.com"}
	p.Service, at.Service, at.Policy = service, service, &p
	return at
}

// An Envoy that may see one service has the listener from when that one joins it until it leaves, although the listener itself
// stays as it is.
func TestAListenerComesAndGoesWithTheServicesThatANodeSees(t *testing.T) {
	h := NewHub(quietLog())
	l := Ref{TypeListener, "0.0.0.0:80"}
	publish(t, h, onListener("cart"))
	publish(t, h, onListener("shop"))
	var all []*session
	for i, req := range []*discovery.DeltaDiscoveryRequest{{TypeUrl: TypeListener}, {TypeUrl: TypeListener, ResourceNamesSubscribe: []string{l.Name}}} {
		s := h.open(Node{ID: fmt.Sprint("edge-", i), services: []string{"pay"}})
		if asks(t, s, req); accepts(t, s)[l] != nil {
			t.Fatal("it has the listener already")
		}
		all = append(all, s)
	}
	other := h.open(Node{ID: "edge-9"})
	if asks(t, other, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeListener}); accepts(t, other)[l] == nil {
		t.Fatal("it lacks the listener")
	}
	for range 2 {
		publish(t, h, onListener("pay"))
		for _, s := range all {
			if accepts(t, s)[l] == nil {
				t.Errorf("%s lacks the listener of its service", s.ID)
			}
		}
		if err := h.Remove("pay"); err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			if r, said := accepts(t, s)[l]; !said || r != nil {
				t.Errorf("%s is not told that its service has left the listener", s.ID)
			}
		}
	}
	if sent := accepts(t, other); len(sent) != 0 {
		t.Errorf("who sees everything is sent %v", sent)
	}
}

// What comes by a wildcard is not asked for by name: it counts for no limit of names.
func TestAWildcardIsNoName(t *testing.T) {
	h := NewHub(quietLog())
	h.Admission.Limits.NamesPerType = 1
	for _, name := range []string{"cart", "pay", "shop"} {
		publish(t, h, onListener(name))
	}
	s := h.open(Node{ID: "edge-1"})
	asks(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster})
	if sent := accepts(t, s); len(sent) != 3 {
		t.Errorf("%v", sent)
	}
	asks(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResourceNamesSubscribe: []string{"pay/v1"}})
	accepts(t, s)
	if s.receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResourceNamesSubscribe: []string{"none/v1"}}) == nil {
		t.Error("two names were asked for, of one")
	}
}

// Who says that it no longer wants what it was not sent yet, under a wildcard, is sent it all the same.
func TestUnderAWildcardNothingIsUnsubscribed(t *testing.T) {
	h := NewHub(quietLog())
	publish(t, h, onListener("cart"))
	s := h.open(Node{ID: "edge-1"})
	asks(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster})
	accepts(t, s)
	publish(t, h, onListener("pay"))
	asks(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResourceNamesUnsubscribe: []string{"pay/v1", "none/v1"}})
	if accepts(t, s)[Ref{TypeCluster, "pay/v1"}] == nil {
		t.Error("a cluster is never sent")
	}
}

// What was on its way when a wildcard ended, and arrives when it has begun again, is taken away when it is gone meanwhile.
func TestWhatArrivesUnderAnotherWildcardLeavesAgain(t *testing.T) {
	h := NewHub(quietLog())
	publish(t, h, onListener("cart"))
	s := h.open(Node{ID: "edge-1"})
	asks(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster})
	_, nonce, _ := s.next()
	if err := h.Remove("cart"); err != nil {
		t.Fatal(err)
	}
	asks(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResourceNamesUnsubscribe: []string{"*"}})
	asks(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResourceNamesSubscribe: []string{"*"}})
	asks(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResponseNonce: nonce})
	if r, said := accepts(t, s)[Ref{TypeCluster, "cart/v1"}]; !said || r != nil {
		t.Error("the removal never comes")
	}
	if k := s.inv.kinds[TypeCluster]; k.size() != 0 {
		t.Errorf("%d are remembered", k.size())
	}
}

// What was new when a wildcard ended is not sent.
func TestWhatIsNewWhenAWildcardEndsIsNotSent(t *testing.T) {
	h := NewHub(quietLog())
	s := h.open(Node{ID: "edge-1"})
	asks(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster})
	accepts(t, s)
	publish(t, h, onListener("cart"))
	asks(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResourceNamesUnsubscribe: []string{"*"}})
	if sent := accepts(t, s); len(sent) != 0 {
		t.Errorf("it is sent %v", sent)
	}
}

// A few bytes that ask for everything again, or for nothing any more, are no work, or count for as much as they are.
func TestAskingForEverythingAgainIsPaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(quietLog())
		h.Admission.Limits.BytesPerSecond = 64 << 10
		for i := range 100 {
			publish(t, h, onListener(fmt.Sprint("svc-", i)))
		}
		s := h.open(Node{ID: "edge-1", line: newAccounts(h).open(from("10.0.0.66"))})
		defer s.line.Close()
		everything := &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResourceNamesSubscribe: []string{"*"}}
		owed := func() int { return 64<<10 - int(s.line.account.pace.Tokens()) }
		asks(t, s, everything)
		accepts(t, s)
		asks(t, s, everything)
		if k := s.inv.kinds[TypeCluster]; k.looks() != 0 || owed() > 1 {
			t.Errorf("%d are looked at again, and %d bytes are counted", k.looks(), owed())
		}
		asks(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResourceNamesUnsubscribe: []string{"*"}})
		asks(t, s, everything)
		if want := 2 * 100 * partBytes; owed() < want-100 || owed() > want {
			t.Errorf("%d bytes are counted, want %d", owed(), want)
		}
		if sent := accepts(t, s); len(sent) != 100 {
			t.Errorf("%d are sent again", len(sent))
		}
	})
}

// Who lets go of a route and asks for it again before he answers has it when he does: nobody waits for him.
func TestAskedForAgainBeforeTheAnswer(t *testing.T) {
	h := NewHub(quietLog())
	publish(t, h, table(1, nil))
	s := h.open(Node{ID: "edge-1"})
	receive := func(req *discovery.DeltaDiscoveryRequest) {
		t.Helper()
		if err := s.receive(req); err != nil {
			t.Fatal(err)
		}
	}
	nonces := map[string]string{}
	drain := func() {
		for {
			r, nonce, ok := s.next()
			if !ok {
				return
			}
			if nonces[r.typ] = nonce; r.typ != TypeRoute {
				receive(&discovery.DeltaDiscoveryRequest{TypeUrl: r.typ, ResponseNonce: nonce})
			}
		}
	}
	receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster})
	receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeEndpoint, ResourceNamesSubscribe: []string{"shop/v1"}})
	receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"shop"}})
	drain()
	receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesUnsubscribe: []string{"shop"}})
	receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"shop"}})
	receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResponseNonce: nonces[TypeRoute]})
	drain()
	receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResponseNonce: nonces[TypeRoute]}) // what it was sent since, if anything
	if c := h.services["shop"].force.Status("shop").Counts; c != (Counts{Applied: 1}) {
		t.Errorf("%+v", c)
	}
}
