package xds

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"

	"github.com/canaryd/canaryd/internal/rollout"
)

// What the fleet has, seen through real gRPC streams.

func TestALaggingEnvoyIsWaitedForOnce(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, map[string]int{"v2": 100}))
	slow, quick := connect(t, dial(), "slow", 40), connect(t, dial(), "quick", 40)
	slow.start("shop", "shop/v1", "shop/v2")
	quick.start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)
	publish(t, h, table(2, map[string]int{"v2": 200}))
	last := slow.expect(TypeRoute) // and no word from it
	quick.ack(quick.expect(TypeRoute))
	waitStatus(t, h, "waiting for the slow one", func(s Status) bool { return s.Counts.Behind == 1 })
	h.tick(time.Now().Add(LaggingAfter))
	inForce(t, h, 2)
	publish(t, h, table(3, map[string]int{"v2": 300}))
	last = slow.expect(TypeRoute)
	quick.ack(quick.expect(TypeRoute))
	s := waitStatus(t, h, "in force at once", func(s Status) bool { return s.InForce })
	if !slices.Equal(s.Lagging, []string{"slow"}) {
		t.Errorf("lagging %v", s.Lagging)
	}
	slow.ack(last)
	waitStatus(t, h, "caught up", func(s Status) bool { return s.Counts.Applied == 2 })
}

func TestWhoMayNotHaveTheServiceIsNotWaitedFor(t *testing.T) {
	h, _, dial := server(t)
	tab := func(g uint64, w int) rollout.Table {
		tab := table(g, map[string]int{"v2": w})
		tab.Policy.Route.Nodes = []string{"edge"}
		return tab
	}
	publish(t, h, tab(1, 100))
	good := connect(t, dial(), "edge-1", 40)
	good.start("shop", "shop/v1", "shop/v2")
	stranger := connect(t, dial(), "x", 40)
	stranger.node.Cluster = "somewhere-else"
	stranger.subscribe(TypeRoute, "shop")
	stranger.ack(stranger.expect(TypeRoute)) // told that there is none
	publish(t, h, tab(2, 200))
	good.ack(good.expect(TypeRoute))
	inForce(t, h, 2)
	if s := h.status("shop"); s.Subscribers != 1 {
		t.Errorf("%+v", s)
	}
}

func TestANewSilentEnvoyHoldsNothingUp(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, map[string]int{"v2": 100}))
	good := connect(t, dial(), "edge-1", 40)
	good.start("shop", "shop/v1", "shop/v2")
	silent := connect(t, dial(), "edge-2", 40)
	silent.subscribe(TypeRoute, "shop")
	waitStatus(t, h, "joining", func(s Status) bool { return s.Counts.Joining == 1 && s.InForce })
	publish(t, h, table(2, map[string]int{"v2": 200}))
	good.ack(good.expect(TypeRoute))
	inForce(t, h, 2)
}

func TestAHalfOpenStreamIsNoSecondEnvoy(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, map[string]int{"v2": 100}))
	zombie := connect(t, dial(), "edge-1", 40)
	zombie.start("shop", "shop/v1", "shop/v2")
	alive := connect(t, dial(), "edge-1", 40)
	alive.start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)
	publish(t, h, table(2, map[string]int{"v2": 200}))
	alive.ack(alive.expect(TypeRoute))
	inForce(t, h, 2)
	h.tick(time.Now().Add(LaggingAfter))
	if s := h.status("shop"); !s.InForce || len(s.Lagging) > 0 || s.Subscribers != 1 {
		t.Errorf("%+v", s)
	}
}

func TestARefusedClusterIsTold(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, nil))
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1")
	inForce(t, h, 1)
	publish(t, h, table(2, map[string]int{"v2": 100}))
	e.nack(e.expect(TypeCluster), "cluster v2 is bad: "+strings.Repeat("x", 1<<20))
	s := waitStatus(t, h, "refused", func(s Status) bool { return len(s.Refusals) == 1 })
	if n := s.Nodes[0]; n.Node != "edge-1" || n.Type != "cluster" || n.Resource != "shop/v2" || !strings.HasPrefix(n.Why, "cluster v2 is bad") || len(n.Why) > 1<<10 {
		t.Errorf("%+v", n)
	}
	publish(t, h, table(3, nil)) // v2 is wanted no longer
	inForce(t, h, 3)
}

func TestARefusedListenerIsToldOfAllItsServices(t *testing.T) {
	h, _, dial := server(t)
	for _, name := range []string{"shop", "pay"} {
		tab := table(1, nil)
		tab.Service, tab.Policy.Service = name, name
		tab.Policy.Route.Listener, tab.Policy.Route.Domains = "0.0.0.0:10000", []string{name + ".example.com"}
		publish(t, h, tab)
	}
	e := connect(t, dial(), "edge-1", 40)
	e.subscribe(TypeListener)
	e.nack(e.expect(TypeListener), "cannot bind '0.0.0.0:10000': Address already in use")
	waitStatus(t, h, "told", func(s Status) bool { return len(s.Nodes) == 1 })
	for _, name := range []string{"shop", "pay"} {
		if s := h.status(name); len(s.Nodes) != 1 || s.Nodes[0].Standing != Joining || s.Nodes[0].Type != "listener" || !strings.Contains(s.Nodes[0].Why, "in use") {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if n := h.Figures().Unapplied["pay"]; n != 1 {
		t.Errorf("%d nodes without the table", n)
	}
}

func TestALostEnvoyIsGoneAndNotForgotten(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, map[string]int{"v2": 5000}))
	cutOff, there := connect(t, dial(), "edge-1", 40), connect(t, dial(), "edge-2", 40)
	cutOff.start("shop", "shop/v1", "shop/v2")
	there.start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)
	cutOff.cancel()
	waitStatus(t, h, "gone", func(s Status) bool { return s.Counts.Gone == 1 })
	publish(t, h, table(2, nil, "v2"))
	there.ack(there.expect(TypeRoute))
	inForce(t, h, 2)
	s := h.status("shop")
	if len(s.Nodes) != 1 || s.Nodes[0].Node != "edge-1" || s.Nodes[0].Standing != Gone || !slices.Equal(s.Nodes[0].Weights, table(1, map[string]int{"v2": 5000}).Slots) {
		t.Fatalf("%+v", s)
	}
	all := h.Envoys()
	if len(all) != 2 || all[0].Node != "edge-1" || all[0].Connected || all[0].Standing != Gone || all[0].Build != "envoy 1.40.0" ||
		!all[1].Connected || all[1].Standing != Applied || len(all[1].Services) != 1 || all[1].Services[0].Service != "shop" {
		t.Errorf("%+v", all)
	}
	for _, c := range []struct {
		node   string
		waited []string
		known  bool
	}{{"edge-1", []string{"shop"}, true}, {"edge-1", nil, false}, {"edge-2", nil, true}} {
		if waited, known := h.Forget(c.node); !slices.Equal(waited, c.waited) || known != c.known {
			t.Errorf("%+v: %v %v", c, waited, known)
		}
	}
	if s := h.status("shop"); s.Counts.Gone != 0 {
		t.Errorf("%+v", s)
	}
}

// Two Envoys with one node.id have different tables: each is heard about its own. They have one address, too, as on
// one machine; their connections tell them apart.
func TestAReportIsAboutWhatItsOwnEnvoyServes(t *testing.T) {
	h, _, got, dial := reports(t, nil)
	old, now := table(1, map[string]int{"v2": 100}), table(2, map[string]int{"v2": 5000})
	publish(t, h, old)
	firstConn, secondConn := dial(), dial()
	connect(t, firstConn, "edge-1", 40).start("shop", "shop/v1", "shop/v2") // it says nothing more
	inForce(t, h, 1)
	second := connect(t, secondConn, "edge-1", 40)
	second.start("shop", "shop/v1", "shop/v2")
	publish(t, h, now)
	begun := time.Now()
	second.ack(second.expect(TypeRoute))
	waitStatus(t, h, "accepted", func(s Status) bool { return s.Counts.Applied == 1 && s.Generation == 2 })
	heard := func(c *grpc.ClientConn) Served {
		reportsAs(t, c, "edge-1").send(loadOf("shop/v2", 90, 10))
		return (<-got).Served["shop"]
	}
	if s := heard(firstConn); !slices.Equal(s.Slots, old.Slots) || !s.Since.Before(begun) {
		t.Errorf("the first one has the old table: %+v", s)
	}
	if s := heard(secondConn); !slices.Equal(s.Slots, now.Slots) || s.Since.Before(begun) {
		t.Errorf("the second one has the new table: %+v", s)
	}
	if s := heard(dial()); !slices.Equal(s.Slots, now.Slots) {
		t.Errorf("a connection without an ADS stream is about who speaks for the node: %+v", s)
	}
}

func TestADiagnosticClientHasNoStanding(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, nil))
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1")
	d := connect(t, dial(), "edge-1", 40) // even by the name of a real one
	d.node = Dump{NodeID: "edge-1", Cluster: "edge"}.node()
	d.start("shop", "shop/v1")
	publish(t, h, table(2, map[string]int{"v1": 1}))
	inForce(t, h, 2)
	if s := h.status("shop"); s.Subscribers != 1 || len(h.Envoys()) != 1 {
		t.Errorf("%+v %+v", s, h.Envoys())
	}
}

// An Envoy that comes back as a new process is told of once: what it refused before says nothing.
func TestANewProcessIsToldOf(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, map[string]int{"v2": 100}))
	first := connect(t, dial(), "edge-1", 40)
	first.start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)
	first.cancel()
	waitStatus(t, h, "gone", func(s Status) bool { return s.Counts.Gone == 1 })
	connect(t, dial(), "edge-1", 40).start("shop", "shop/v1", "shop/v2")
	told := 0
	for _, s := range h.TakeChanges() {
		if slices.Equal(s.Restarted, []string{"edge-1"}) {
			told++
		}
	}
	for _, s := range h.TakeChanges() {
		told += len(s.Restarted)
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}

// However many services have news, who asks for it keeps the mutex for a short while only, and is told all of it once.
func TestNewsOfManyServicesIsToldInPieces(t *testing.T) {
	h := NewHub(logrus.New())
	const services, envoys = 300, 300
	streams := make([]*stream, envoys)
	for i := range streams {
		streams[i] = &stream{Node: Node{ID: fmt.Sprintf("edge-%d", i)}, id: uint64(i)}
	}
	for i := range services {
		tab := table(1, map[string]int{"v1": 1})
		tab.Service = fmt.Sprintf("s%d", i)
		publish(t, h, tab)
		for _, s := range streams {
			h.services[tab.Service].force.Join(s, Content{Version: "old"}, h.now())
		}
	}
	told, calls := map[string]int{}, 0
	for len(told) < services {
		select {
		case <-h.Changes():
		case <-time.After(10 * time.Second):
			t.Fatalf("after %d calls nobody says that there is more: %d of %d services are told", calls, len(told), services)
		}
		calls++
		for _, s := range h.TakeChanges() {
			told[s.Service]++
		}
	}
	for name, n := range told {
		if n != 1 {
			t.Errorf("%s is told %d times", name, n)
		}
	}
	if calls < 2 {
		t.Error("all of it is told at once")
	}
}

// To forget a node costs what it has: no other book is looked at, and there is none here.
func TestANodeIsForgottenInItsOwnBooks(t *testing.T) {
	h := crowded(t, 12)
	if err := h.Remove("shop-00003"); err != nil {
		t.Fatal(err)
	}
	h.services["shop-00010"].force, h.services["shop-00011"].force = nil, nil
	waited, known := h.Forget("edge-100")
	if len(waited) != 9 || !known || len(h.parting["shop-00003"].force.members) != 199 {
		t.Errorf("%v waited, known %v", waited, known)
	}
	if waited, known := h.Forget("edge-100"); len(waited) > 0 || known {
		t.Errorf("it is forgotten, and %v waited, known %v", waited, known)
	}
}
