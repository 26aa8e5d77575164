package xds

import (
	"fmt"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// visits is an Envoy that comes once, accepts the route of shop or not, and goes.
func visits(t *testing.T, h *Hub, n Node, accepts bool) {
	t.Helper()
	s := h.open(n)
	defer s.close()
	for _, req := range []*discovery.DeltaDiscoveryRequest{{TypeUrl: TypeCluster}, {TypeUrl: TypeEndpoint, ResourceNamesSubscribe: []string{"shop/v1"}}, {TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"shop"}}} {
		if err := s.receive(req); err != nil {
			t.Fatal(err)
		}
	}
	for {
		r, nonce, ok := s.next()
		if !ok {
			return
		}
		if !accepts {
			continue
		}
		if err := s.receive(&discovery.DeltaDiscoveryRequest{TypeUrl: r.typ, ResponseNonce: nonce}); err != nil {
			t.Fatal(err)
		}
	}
}

// Somebody who comes with a new name each time is remembered as long as others, and not more often than it may be connected.
func TestWhoComesOnceWithANewNameEachTime(t *testing.T) {
	h := NewHub(quietLog())
	at := time.Unix(1e9, 0)
	h.now = func() time.Time { return at }
	h.Admission.Limits.StreamsPerPeer = 40
	as := newAccounts(h)
	publish(t, h, table(1, nil))
	comes := func(id, ip string, accepts bool) {
		at = at.Add(time.Millisecond)
		l := as.open(from(ip))
		defer l.Close()
		visits(t, h, Node{ID: id, by: ip, line: l}, accepts)
	}
	for i := range 100 { // they serve nobody
		comes(fmt.Sprint("never-", i), "10.0.0.66", false)
	}
	if len(h.nodes) != 0 {
		t.Errorf("%d nodes are remembered that accepted nothing", len(h.nodes))
	}
	comes("honest", "10.0.0.5", true)
	for i := range 1000 {
		comes(fmt.Sprint("evil-", i), "10.0.0.66", true)
	}
	comes("evil-999", "10.0.0.66", true) // again: it counts once
	for range 20 {
		comes("evil-998", "10.0.0.66", true)
	}
	members := len(h.services["shop"].force.members)
	if members > 41 || members < 35 || len(h.nodes) != members || h.refusals.counts[overGone] == 0 {
		t.Errorf("%d are in the book and %d known, of 40 that one address may have, and another one", members, len(h.nodes))
	}
	for _, id := range []string{"honest", "evil-998", "evil-999"} {
		if ms := h.services["shop"].force.of(id); len(ms) != 1 || !ms[0].isGone() || ms[0].who.line != nil {
			t.Errorf("%s is not in the book as gone, or its connection is kept", id)
		}
	}
	at = at.Add(time.Minute)
	for i := range 100 { // those of this machine are not counted
		comes(fmt.Sprint("sidecar-", i), "127.0.0.1", true)
	}
	if n := len(h.nodes); n != members+100 {
		t.Errorf("%d nodes are known, want %d", n, members+100)
	}
	at = at.Add(h.ForgetAfter - time.Second)
	h.tick(at)
	if len(h.nodes) != 100 || len(h.debts) != 0 {
		t.Errorf("%d nodes and %d addresses are known, want the 100 last", len(h.nodes), len(h.debts))
	}
	at = at.Add(2 * time.Second)
	h.tick(at)
	if len(h.nodes) != 0 || len(h.services["shop"].force.members) != 0 {
		t.Errorf("%d nodes are known for ever", len(h.nodes))
	}
}

// Of nodes in many services as many memberships are remembered as the address may ask for names.
func TestWhoComesOnceAndHasManyServices(t *testing.T) {
	h := NewHub(quietLog())
	h.Admission.Limits.NamesPerPeer = 10
	as := newAccounts(h)
	f, g := NewForce("a", time.Hour), NewForce("b", time.Hour)
	for i := range 40 {
		s := h.connect(Node{ID: fmt.Sprint("evil-", i), line: as.open(from("10.0.0.66"))})
		h.nodes.comes(s)
		for _, b := range []*Force{f, g} {
			b.Join(s, Content{Version: "x"}, h.now())
		}
		h.disconnect(s)
	}
	if len(h.nodes) > 5 || len(f.members) != len(h.nodes) || len(g.members) != len(h.nodes) {
		t.Errorf("%d nodes are known, %d and %d in the books, of which there may be 10", len(h.nodes), len(f.members), len(g.members))
	}
}

// gRPC clients need have no name: one stream that said nothing is in no book when it ends, and is not who owes.
func TestAStreamThatSaidNothingLeavesNoDebt(t *testing.T) {
	h := NewHub(quietLog())
	f := NewForce("a", time.Hour)
	l := newAccounts(h).open(from("10.0.0.66"))
	s := h.connect(Node{line: l})
	h.nodes.comes(s)
	f.Join(s, Content{Version: "x"}, h.now())
	h.disconnect(s)
	d := h.debts["10.0.0.66"]
	if len(d.nodes) != 1 || d.books != 1 {
		t.Fatalf("%d nodes owe %d books", len(d.nodes), d.books)
	}
	f.Forget("")
	h.disconnect(h.connect(Node{Client: true}))
	if len(h.nodes) != 0 || len(d.nodes) != 0 || d.books != 0 {
		t.Errorf("%d nodes are known, and %d owe %d books", len(h.nodes), len(d.nodes), d.books)
	}
}

// However many books those are in who are forgotten, a cut does not wait until all are.
func TestWhoIsInManyBooksIsForgottenAlone(t *testing.T) {
	h := NewHub(quietLog())
	const nodes, services = 64, 1000
	h.Admission.Limits.NamesPerPeer = nodes * services
	as := newAccounts(h)
	var books []*Force
	for i := range services {
		books = append(books, NewForce(fmt.Sprint("s", i), time.Hour))
	}
	for i := range nodes + 1 {
		s := h.connect(Node{ID: fmt.Sprint("edge-", i), line: as.open(from("10.0.0.66"))})
		h.nodes.comes(s)
		for _, b := range books {
			b.Join(s, Content{Version: "x"}, h.now())
		}
		began := time.Now()
		h.disconnect(s)
		if took := time.Since(began); i == nodes {
			t.Logf("took %s", took)
		}
	}
	if len(h.nodes) != nodes {
		t.Errorf("%d nodes are known at the end, of %d that may be", len(h.nodes), nodes)
	}
}
