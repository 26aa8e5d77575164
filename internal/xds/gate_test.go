package xds

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// What goes out next, seen through real gRPC streams.

// comeBack ends an Envoy's stream and begins another one on which it presents all that it had.
func comeBack(t *testing.T, h *Hub, e *envoy, dial func() *grpc.ClientConn, route string) *envoy {
	t.Helper()
	clusters, endpoints := versions(h, TypeCluster), versions(h, TypeEndpoint)
	e.cancel()
	waitStatus(t, h, "gone", func(s Status) bool { return s.Counts.Gone == 1 })
	again := connect(t, dial(), "edge-1", 40)
	again.presents(clusters, endpoints, route)
	return again
}

// presents asks as an Envoy that comes back does: for everything before it answers anything.
func (e *envoy) presents(clusters, endpoints map[string]string, route string) {
	e.t.Helper()
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, InitialResourceVersions: clusters})
	cds := e.expect(TypeCluster)
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeEndpoint, ResourceNamesSubscribe: slices.Collect(maps.Keys(endpoints)), InitialResourceVersions: endpoints})
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"shop"}, InitialResourceVersions: map[string]string{"shop": route}})
	e.ack(cds)
}

// routes checks the weights of a route.
func (e *envoy) routes(r *discovery.DeltaDiscoveryResponse, want map[string]uint32) {
	e.t.Helper()
	if got := shares(e.t, r); !maps.Equal(got, want) {
		e.t.Fatalf("weights %v, want %v", got, want)
	}
}

func TestACutAfterAReconnectIsNotHeldBack(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, map[string]int{"v2": 5000}))
	first := connect(t, dial(), "edge-1", 40)
	rds := first.start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)
	e := comeBack(t, h, first, dial, rds.Resources[0].Version)
	inForce(t, h, 1)
	e.silence()
	publish(t, h, table(2, map[string]int{"v3": 100}, "v2"))
	cut := e.expect(TypeRoute)
	e.routes(cut, map[string]uint32{"shop/v1": 10000})
	e.nack(e.expect(TypeCluster), "v3 is bad")
	e.ack(cut)
	e.expect(TypeCluster) // v2 goes
	e.silence()
}

func TestACutRefusedAfterAReconnectIsFollowedByTheMinimalRoute(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, map[string]int{"v2": 5000, "v3": 1000}))
	first := connect(t, dial(), "edge-1", 40)
	rds := first.start("shop", "shop/v1", "shop/v2", "shop/v3")
	inForce(t, h, 1)
	e := comeBack(t, h, first, dial, rds.Resources[0].Version)
	inForce(t, h, 1)
	publish(t, h, table(2, map[string]int{"v3": 1000}, "v2"))
	e.nack(e.expect(TypeRoute), "no")
	e.routes(e.expect(TypeRoute), map[string]uint32{"shop/v1": 10000})
}

// The Envoy refused the cut, was sent the minimal route, and lost its connection before it answered.
func TestARefusedCutIsRememberedOverAReconnect(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, map[string]int{"v2": 5000, "v3": 1000}))
	first := connect(t, dial(), "edge-1", 40)
	rds := first.start("shop", "shop/v1", "shop/v2", "shop/v3")
	inForce(t, h, 1)
	clusters, endpoints := versions(h, TypeCluster), versions(h, TypeEndpoint)
	publish(t, h, table(2, map[string]int{"v3": 1000}, "v2"))
	first.nack(first.expect(TypeRoute), "no")
	waitStatus(t, h, "refused", func(s Status) bool { return s.Counts.Refused == 1 })
	first.cancel()
	waitStatus(t, h, "gone", func(s Status) bool { return s.Counts.Gone == 1 })
	e := connect(t, dial(), "edge-1", 40)
	e.presents(clusters, endpoints, rds.Resources[0].Version)
	e.routes(e.expect(TypeRoute), map[string]uint32{"shop/v1": 10000}) // not the refused one again
}

// What an Envoy serves that nobody here knows may be a version that was cut: so what it has decides what it
// gets at once.
func TestAnUnknownRouteIsReplacedAtOnce(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, map[string]int{"v2": 100, "v3": 200}))
	e := connect(t, dial(), "edge-1", 40)
	have := map[string]string{"shop/v1": "old", "shop/v2": "older", "shop/v0": "oldest"}
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, InitialResourceVersions: have})
	cds := e.expect(TypeCluster)
	if len(cds.Resources) != 3 || len(cds.RemovedResources) > 0 {
		t.Fatalf("clusters %v, removed %v before the route is another one", names(cds), cds.RemovedResources)
	}
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"shop"}, InitialResourceVersions: map[string]string{"shop": "unknown"}})
	rds := e.expect(TypeRoute)
	e.routes(rds, map[string]uint32{"shop/v1": 9900, "shop/v2": 100})
	e.ack(rds)
	if r := e.expect(TypeCluster); !slices.Equal(r.RemovedResources, []string{"shop/v0"}) {
		t.Errorf("removed %v", r.RemovedResources)
	}
	e.subscribe(TypeEndpoint, "shop/v1", "shop/v2", "shop/v3")
	e.ack(e.expect(TypeEndpoint))
	e.ack(cds)
	e.routes(e.expect(TypeRoute), map[string]uint32{"shop/v1": 9700, "shop/v2": 100, "shop/v3": 200})
}

func TestANewEnvoyIsServedStableWhateverTheCanaryDoes(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, map[string]int{"v2": 100}))
	e := connect(t, dial(), "new-edge", 40)
	e.subscribe(TypeCluster)
	e.nack(e.expect(TypeCluster), "one is bad")
	for range 2 {
		if r := e.expect(TypeCluster); r.Resources[0].Name == "shop/v2" {
			e.nack(r, "this one")
		} else {
			e.ack(r)
		}
	}
	e.subscribe(TypeEndpoint, "shop/v1")
	e.ack(e.expect(TypeEndpoint))
	e.subscribe(TypeRoute, "shop")
	rds := e.expect(TypeRoute)
	e.routes(rds, map[string]uint32{"shop/v1": 10000})
	e.ack(rds)
	e.silence()
	s := waitStatus(t, h, "refused", func(s Status) bool { return s.Counts.Refused == 1 })
	if s.Nodes[0].Resource != "shop/v2" || s.Nodes[0].Why != "this one" {
		t.Errorf("%+v", s.Nodes)
	}
}

// A cut goes out although more routes are unanswered than any window holds.
func TestACutDoesNotCountAgainstTheWindow(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, map[string]int{"v2": 1}))
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)
	for i := range routeWindow {
		publish(t, h, table(uint64(2+i), map[string]int{"v2": 2 + i}))
		e.expect(TypeRoute)
	}
	publish(t, h, table(500, map[string]int{"v2": 5000}))
	e.silence() // the window is full
	publish(t, h, table(501, nil, "v2"))
	e.routes(e.expect(TypeRoute), map[string]uint32{"shop/v1": 10000})
}

func TestSubscribingAgainIsAnswered(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, nil))
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1")
	inForce(t, h, 1)
	for typ, name := range map[string]string{TypeEndpoint: "shop/v1", TypeRoute: "shop", TypeCluster: "shop/v1"} {
		e.subscribe(typ, name)
		if r := e.expect(typ); !slices.Equal(names(r), []string{name}) {
			t.Errorf("%v was sent", names(r))
		} else {
			e.ack(r)
		}
		if typ == TypeCluster { // it may have warmed anew
			e.ack(e.expect(TypeEndpoint))
		}
		e.silence()
	}
	inForce(t, h, 1)
}

func TestUnsubscribingUnderAWildcardIsAnswered(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, map[string]int{"v2": 100}))
	e := connect(t, dial(), "edge-1", 40)
	e.subscribe(TypeCluster, "*", "shop/v2")
	e.ack(e.expect(TypeCluster))
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResourceNamesUnsubscribe: []string{"shop/v2"}})
	r := e.expect(TypeCluster)
	if !slices.Equal(names(r), []string{"shop/v2"}) {
		t.Errorf("%v was sent", names(r))
	}
	e.ack(r)
	publish(t, h, table(2, nil, "v2"))
	if r := e.expect(TypeCluster); !slices.Equal(r.RemovedResources, []string{"shop/v2"}) {
		t.Errorf("removed %v", r.RemovedResources)
	}
}

func TestOnlyListenersClustersAndScopesHaveAWildcard(t *testing.T) {
	h, _, dial := server(t)
	tab := table(1, map[string]int{"v2": 100})
	tab.Policy.Route.Testers = &policy.Testers{Header: "x-canary", Key: "s3cret"}
	publish(t, h, tab)
	e := connect(t, dial(), "anybody", 40)
	for _, typ := range []string{TypeRoute, TypeEndpoint} {
		e.subscribe(typ)
		e.subscribe(typ, "*")
	}
	e.silence()
}

func TestADeletedServiceLosesItsListenerFirst(t *testing.T) {
	h, _, dial := server(t)
	tab := table(1, nil)
	tab.Policy.Route.Listener = "0.0.0.0:10000"
	publish(t, h, tab)
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1")
	e.subscribe(TypeListener)
	e.ack(e.expect(TypeListener))
	inForce(t, h, 1)
	if err := h.Remove("shop"); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ typ, name string }{{TypeListener, "0.0.0.0:10000"}, {TypeRoute, "shop"}, {TypeCluster, "shop/v1"}} {
		r := e.expect(step.typ)
		if !slices.Equal(r.RemovedResources, []string{step.name}) {
			t.Errorf("removed %v", r.RemovedResources)
		}
		e.silence()
		e.ack(r)
	}
}

// What is held is neither sent nor removed, and goes on when it is published.
func TestAHeldServiceStays(t *testing.T) {
	h, _, dial := server(t)
	h.Hold("shop")
	e := connect(t, dial(), "edge-1", 40)
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, InitialResourceVersions: map[string]string{"shop/v1": "old", "gone/v1": "old"}})
	cds := e.expect(TypeCluster)
	e.silence()
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"shop"}, InitialResourceVersions: map[string]string{"shop": "old"}})
	e.ack(cds)
	if r := e.expect(TypeCluster); !slices.Equal(r.RemovedResources, []string{"gone/v1"}) {
		t.Errorf("removed %v", r.RemovedResources)
	}
	e.silence()
	publish(t, h, table(1, nil))
	if got := shares(t, e.expect(TypeRoute)); got["shop/v1"] != 10000 {
		t.Errorf("weights %v", got)
	}
}

func TestRefusedClustersAreSentAgain(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, nil))
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1")
	publish(t, h, table(2, map[string]int{"v2": 100}))
	later := time.Now()
	h.mu.Lock()
	h.now = func() time.Time { return later }
	h.mu.Unlock()
	for i, wait := range []time.Duration{time.Minute, 2 * time.Minute} {
		e.nack(e.expect(TypeCluster), "not now")
		waitStatus(t, h, "refused", func(s Status) bool { return s.Counts.Refused == 1 && h.Figures().Nacks["cluster"] == i+1 })
		e.silence()
		h.mu.Lock()
		later = later.Add(wait - time.Second)
		h.sessions[1].poke()
		h.mu.Unlock()
		e.silence()
		h.mu.Lock()
		later = later.Add(time.Second)
		h.sessions[1].poke()
		h.mu.Unlock()
	}
	e.nack(e.expect(TypeCluster), "not now")
	waitStatus(t, h, "refused", func(s Status) bool { return s.Counts.Refused == 1 && h.Figures().Nacks["cluster"] == 3 })
	h.Retry("shop") // a person asks
	cds := e.expect(TypeCluster)
	e.subscribe(TypeEndpoint, "shop/v2")
	e.ack(e.expect(TypeEndpoint))
	e.ack(cds)
	e.ack(e.expect(TypeRoute))
	inForce(t, h, 2)
}

// An Envoy brought along what is published only later: then it is known what it routes to.
func TestWhatWasBroughtAlongIsRecognisedLater(t *testing.T) {
	h, _, dial := server(t)
	later := table(2, map[string]int{"v2": 100})
	f, err := buildRoute(later, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.Hold("shop")
	e := connect(t, dial(), "edge-1", 40)
	have := map[string]string{"shop/v1": "x", "shop/v2": "x", "shop/v3": "x"}
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, InitialResourceVersions: have})
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"shop"}, InitialResourceVersions: map[string]string{"shop": f.whole.Version}})
	e.ack(e.expect(TypeCluster))
	e.silence()
	publish(t, h, later)
	if r := e.expect(TypeCluster); !slices.Equal(r.RemovedResources, []string{"shop/v3"}) || len(r.Resources) != 2 {
		t.Errorf("sent %v, removed %v", names(r), r.RemovedResources)
	}
	e.silence()
	inForce(t, h, 2)
	if v, _ := h.vouch(Node{ID: "edge-1", by: "bufconn"}, []string{"shop/v1"}); !slices.Equal(v.served["shop"].Slots, later.Slots) {
		t.Errorf("it serves %v", v.served)
	}
}

// Envoy applies the good ones of several routes and refuses the response all the same, without a name. So it
// may have what it refused: the present table is sent even if the last accepted one was the same.
func TestARouteThatMayHaveBeenAppliedIsReplaced(t *testing.T) {
	h := NewHub(quietLog())
	other := func(g uint64, v2 int) rollout.Table {
		tab := table(g, map[string]int{"v2": v2})
		tab.Service, tab.Policy.Service = "pay", "pay"
		return tab
	}
	publish(t, h, table(1, nil))
	publish(t, h, other(1, 100))
	s := h.open(Node{ID: "edge-1", Cluster: "edge"})
	take := func(why string) reply {
		r, nonce, ok := s.next()
		if !ok {
			t.Fatal("nothing goes out")
		}
		req := &discovery.DeltaDiscoveryRequest{TypeUrl: r.typ, ResponseNonce: nonce}
		if why != "" {
			req.ErrorDetail = &rpcstatus.Status{Message: why}
		}
		s.receive(req)
		return r
	}
	s.receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"shop", "pay"}})
	take("")
	publish(t, h, table(2, map[string]int{"v2": 5000}))
	publish(t, h, other(2, 200))
	if r := take("one of them is bad"); len(r.parcels) != 2 {
		t.Fatalf("%d routes", len(r.parcels))
	}
	publish(t, h, table(3, nil, "v2"))
	for range 2 {
		if r := take(""); r.parcels[0].ref.Name == "shop" && slices.Equal(r.parcels[0].res.clusters, []ClusterID{{"shop", "v1", Users}}) {
			return
		}
	}
	t.Error("the cut did not go out, because it is what was accepted before")
}

// A removal came with something that was refused, and the cluster was sent again before that was known: Envoy has
// removed it all the same, so nothing may be routed to what it presented once.
func TestARemovalThatCameWithARefusalIsBooked(t *testing.T) {
	inv := newInventory(&lists{})
	gone, bad := Ref{TypeCluster, "shop/v2"}, Ref{TypeCluster, "shop/v1"}
	inv.wild(TypeCluster, nil)
	inv.present(gone, &Resource{Type: TypeCluster, Name: gone.Name, Version: "old"})
	k, _ := inv.kind(TypeCluster)
	first := []parcel{{ref: gone, item: k.has(gone.Name)}, {ref: bad, res: &Resource{Type: TypeCluster, Name: bad.Name}, item: k.has(bad.Name)}}
	again := []parcel{{ref: gone, res: &Resource{Type: TypeCluster, Name: gone.Name, Version: "new"}, item: k.has(gone.Name)}}
	inv.sends(TypeCluster, first)
	inv.sends(TypeCluster, again)
	inv.refuse(TypeCluster, first, newCatalog(), time.Now())
	inv.refuse(TypeCluster, again, newCatalog(), time.Now())
	if it := inv.item(gone); it.acked != nil || it.sent != nil {
		t.Errorf("the Envoy is taken to have %+v", it.acked)
	}
	if (gate{inv: inv, cat: newCatalog()}).brought(ClusterID{"shop", "v2", Users}) {
		t.Error("a route may name it")
	}
}

// anew is shop with another attempt of v2, which runs elsewhere.
func anew(generation uint64, number, weight int) rollout.Table {
	tab := onTrial(generation, map[string]int{"v2": weight}, map[string]int{"v2": number})
	tab.Clusters[1].Endpoints = []string{fmt.Sprint("127.0.0.1:80", number)}
	return tab
}

// An Envoy that does not answer gives the second attempt of v2 nothing of what it still gives the first: it hears of it
// when it has accepted a route without.
func TestAnotherAttemptWaitsForTheRouteWithoutTheLast(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, anew(1, 1, 5000))
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)
	publish(t, h, table(2, nil, "v2"))
	cut := e.expect(TypeRoute) // it lags
	publish(t, h, anew(3, 2, 100))
	e.silence()
	e.ack(cut)
	eds := e.expect(TypeEndpoint)
	if !slices.Equal(names(eds), []string{"shop/v2"}) {
		t.Errorf("sent %v", names(eds))
	}
	e.silence() // no share before the new endpoints are there
	e.ack(eds)
	e.routes(e.expect(TypeRoute), map[string]uint32{"shop/v1": 9900, "shop/v2": 100})
}

// It was never told of the cut: the route without the version goes first, though the new one gives it the same share.
func TestARouteForTheLastAttemptIsReplacedFirst(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, anew(1, 1, 100))
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)
	publish(t, h, anew(2, 2, 100))
	without := e.expect(TypeRoute)
	e.routes(without, map[string]uint32{"shop/v1": 10000})
	e.silence()
	if s := h.status("shop"); s.InForce {
		t.Error("it has the endpoints of the first attempt, and the second is in force")
	}
	e.ack(without)
	e.ack(e.expect(TypeEndpoint))
	e.ack(e.expect(TypeRoute))
	inForce(t, h, 2)
	moved := anew(3, 2, 100)
	moved.Clusters[1].Endpoints = []string{"127.0.0.1:8099"} // within an attempt nothing waits
	publish(t, h, moved)
	e.expect(TypeEndpoint)
	e.silence()
}

// It refuses the table with the second attempt, and still serves the first: the minimal route takes that one out.
func TestWhoRefusesAnotherAttemptGetsTheMinimalRoute(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, anew(1, 1, 100))
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)
	second := anew(2, 2, 100)
	second.Policy.Sessions = &policy.Sessions{Cookie: "c"} // else the route without v2 is the minimal one
	publish(t, h, second)
	e.nack(e.expect(TypeRoute), "no")
	minimal := e.expect(TypeRoute)
	e.routes(minimal, map[string]uint32{"shop/v1": 10000})
	e.silence()
	e.ack(minimal)
	if r := e.expect(TypeEndpoint); !slices.Equal(names(r), []string{"shop/v2"}) {
		t.Errorf("sent %v", names(r))
	}
}

// canaryd restarted, and knows the route no more that an Envoy comes back with: it may be for any attempt.
func TestAnUnknownRouteIsTakenToBeForAnEarlierAttempt(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, anew(1, 2, 100))
	e := connect(t, dial(), "edge-1", 40)
	clusters, endpoints := versions(h, TypeCluster), versions(h, TypeEndpoint)
	endpoints["shop/v2"] = "of another attempt"
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, InitialResourceVersions: clusters})
	cds := e.expect(TypeCluster)
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeEndpoint, ResourceNamesSubscribe: []string{"shop/v1", "shop/v2"}, InitialResourceVersions: endpoints})
	e.silence() // before it has said which route it has
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"shop"}, InitialResourceVersions: map[string]string{"shop": "unknown"}})
	e.ack(cds)
	without := e.expect(TypeRoute)
	e.routes(without, map[string]uint32{"shop/v1": 10000})
	e.silence()
	e.ack(without)
	e.ack(e.expect(TypeEndpoint))
	e.routes(e.expect(TypeRoute), map[string]uint32{"shop/v1": 9900, "shop/v2": 100})
}

// A new Envoy refuses what it gets before its other clusters are warm, and accepts the minimal route: the whole one, which
// it did not refuse, follows.
func TestTheWholeRouteFollowsTheMinimalOne(t *testing.T) {
	h, _, dial := server(t)
	tab := table(1, map[string]int{"v2": 100})
	tab.Policy.Sessions = &policy.Sessions{Cookie: "c"}
	publish(t, h, tab)
	e := connect(t, dial(), "edge-1", 40)
	e.subscribe(TypeCluster)
	e.ack(e.expect(TypeCluster))
	e.subscribe(TypeEndpoint, "shop/v1")
	e.ack(e.expect(TypeEndpoint))
	e.subscribe(TypeRoute, "shop")
	e.nack(e.expect(TypeRoute), "no")
	minimal := e.expect(TypeRoute)
	e.subscribe(TypeEndpoint, "shop/v2")
	e.ack(e.expect(TypeEndpoint))
	e.silence()
	e.ack(minimal)
	e.routes(e.expect(TypeRoute), map[string]uint32{"shop/v1": 9900, "shop/v2": 100})
}

// crowd is an edge that has everything of many services, and what they are.
func crowd(t *testing.T, services int, listener string) (h *Hub, s *session, tables []rollout.Table) {
	t.Helper()
	h = NewHub(quietLog())
	var names, clusters []string
	for i := range services {
		tab := table(1, map[string]int{"v2": 100})
		tab.Service = fmt.Sprintf("s-%04d", i)
		tab.Policy.Service, tab.Policy.Route.Listener, tab.Policy.Route.Domains = tab.Service, listener, []string{tab.Service + ".example.com"}
		publish(t, h, tab)
		names, tables = append(names, tab.Service), append(tables, tab)
		for _, v := range []string{"v1", "v2"} {
			clusters = append(clusters, ClusterID{tab.Service, v, Users}.String())
		}
	}
	s = h.open(Node{ID: "edge-1", Version: [2]uint32{1, 36}})
	for typ, of := range map[string][]string{TypeCluster: nil, TypeListener: nil, TypeScope: nil, TypeEndpoint: clusters, TypeRoute: names} {
		says(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResourceNamesSubscribe: of})
	}
	answersAll(t, s, "")
	return h, s, tables
}

// deaf takes what it is sent and does not answer, until nothing more comes. looks is how many routes were looked at as urgent.
func deaf(s *session) (last reply, looks int) {
	for {
		looks += len(s.inv.kinds[TypeRoute].had.m)
		r, _, ok := s.next()
		if !ok {
			return last, looks
		}
		last = r
	}
}

// Of an Envoy that does not answer thousands of routes wait for their turn. None of them is looked at again for another one
// that changes; and a cut goes out all the same, of one that was looked at and waits as well.
func TestWhatWaitsForItsTurnIsNotLookedAtAgain(t *testing.T) {
	const services = 4 * routeWindow
	h, s, tables := crowd(t, services, "")
	looks := 0
	change := func(i int, weights map[string]int, cut ...string) reply {
		was := tables[i]
		tables[i] = table(was.Generation+1, weights, cut...)
		tables[i].Service, tables[i].Policy = was.Service, was.Policy
		publish(t, h, tables[i])
		last, more := deaf(s)
		looks += more
		return last
	}
	for i := range services {
		change(i, map[string]int{"v2": 200})
	}
	for i := range services {
		change(i, map[string]int{"v2": 300, "v3": 100}) // waits for a cluster that is not answered either
	}
	if most := 12 * services; looks > most { // a change is one of the route, and one of each cluster that it brings
		t.Errorf("%d looks at routes for %d changes, want at most %d", looks, 2*services, most)
	}
	k := s.inv.kinds[TypeRoute]
	if k.inflight != routeWindow || len(k.had.m) > 0 {
		t.Errorf("%d responses in flight, %d routes taken for urgent", k.inflight, len(k.had.m))
	}
	for _, i := range []int{0, services / 2, services - 1} {
		r := change(i, map[string]int{}, "v2")
		if len(r.parcels) != 1 || r.typ != TypeRoute || r.parcels[0].ref.Name != tables[i].Service || r.parcels[0].res.names(ClusterID{tables[i].Service, "v2", Users}) {
			t.Errorf("the cut in %s is not sent, but %+v", tables[i].Service, r)
		}
	}
}

// A cut that waits until the new stable version's cluster is there goes out when it is, however many responses are in flight.
func TestACutThatWaitsForAClusterIsUrgentWhenThatIsThere(t *testing.T) {
	h, s, tables := crowd(t, 1, "")
	s.inv.kinds[TypeRoute].inflight += routeWindow // of what is never answered
	cut := table(2, map[string]int{"v3": 1}, "v2")
	cut.Service, cut.Policy, cut.Stable = tables[0].Service, tables[0].Policy, "v3"
	cut.Slots = []rollout.Run{{Version: "v3", Count: policy.FullWeight}}
	publish(t, h, cut)
	v3 := ClusterID{cut.Service, "v3", Users}.String()
	answersAll(t, s, "")
	if it := s.inv.item(Ref{TypeRoute, cut.Service}); !it.acked.names(ClusterID{cut.Service, "v2", Users}) || len(s.inv.kinds[TypeRoute].had.m) > 0 {
		t.Fatalf("%+v, want the route to wait", it)
	}
	if err := s.receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeEndpoint, ResourceNamesSubscribe: []string{v3}}); err != nil {
		t.Fatal(err)
	}
	answersAll(t, s, "")
	if it := s.inv.item(Ref{TypeRoute, cut.Service}); it.acked.names(ClusterID{cut.Service, "v2", Users}) {
		t.Errorf("it still serves what was cut: %+v", it)
	}
}

// What was refused is sent again as urgent when its time has come, and not looked at as such before.
func TestARefusedCutIsUrgentWhenItsTimeHasCome(t *testing.T) {
	h, s, tables := crowd(t, 1, "")
	refuse := func(r reply, nonce string) {
		t.Helper()
		if err := s.receive(&discovery.DeltaDiscoveryRequest{TypeUrl: r.typ, ResponseNonce: nonce, ErrorDetail: &rpcstatus.Status{Message: "no"}}); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Now()
	h.now = func() time.Time { return at }
	cut := table(2, map[string]int{}, "v2")
	cut.Service, cut.Policy = tables[0].Service, tables[0].Policy
	publish(t, h, cut)
	s.inv.kinds[TypeRoute].inflight += routeWindow // of what is never answered
	minimal := h.cat.routes[cut.Service].minimal.Version
	for i := range 3 { // the cut and the minimal route are the same
		r, nonce, ok := s.next()
		if !ok || r.typ != TypeRoute || r.parcels[0].res.Version != minimal {
			t.Fatalf("%d: sent %v %+v, want the minimal route", i, ok, r)
		}
		refuse(r, nonce)
		for _, _, ok := s.next(); ok; _, _, ok = s.next() {
		}
		if _, urgent := s.inv.kinds[TypeRoute].had.m[cut.Service]; urgent {
			t.Errorf("%d: what was refused is looked at as urgent", i)
		}
		at = at.Add(retryMinimalAt)
	}
}

// With a listener that services share there is a scope for each of them: that none is to be removed any more is looked for once
// a response, however many routes wait for it.
func TestWhetherListenersLeaveIsAskedOnceAResponse(t *testing.T) {
	const services = 50
	h, s, tables := crowd(t, services, "0.0.0.0:10000")
	for _, tab := range tables[:services-2] {
		if err := h.Remove(tab.Service); err != nil {
			t.Fatal(err)
		}
	}
	asked, removed := 0, 0
	for {
		g := s.gate()
		g.pass = &pass{}
		r, ok := g.next()
		if asked = max(asked, g.pass.asked); !ok {
			break
		}
		for _, p := range r.parcels {
			if r.typ == TypeRoute && p.res == nil {
				if removed++; g.listenersLeave() {
					t.Fatal("a route is removed before a scope")
				}
			}
		}
		s.inv.accept(r.typ, r.parcels)
	}
	if asked != 1 || removed != services-2 {
		t.Errorf("asked %d times in a response, and %d routes are removed", asked, removed)
	}
}

// A route that takes something away waits for its turn and for the stable version, of which the Envoy has no endpoints. When it
// says that it has, the route is urgent: it goes out past the window.
func TestARouteIsUrgentOnceItIsKnownWhatTheEnvoyHas(t *testing.T) {
	h := NewHub(quietLog())
	publish(t, h, table(1, nil, "v2"))
	s := h.open(Node{ID: "edge-1"})
	say := func(req *discovery.DeltaDiscoveryRequest) {
		t.Helper()
		if err := s.receive(req); err != nil {
			t.Fatal(err)
		}
	}
	say(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster})
	_, nonce, _ := s.next()
	say(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResponseNonce: nonce})
	say(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"shop"}, InitialResourceVersions: map[string]string{"shop": "unknown"}})
	s.inv.kinds[TypeRoute].inflight += routeWindow
	if r, _, ok := s.next(); ok {
		t.Fatalf("%+v goes out", r)
	}
	say(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeEndpoint, ResourceNamesSubscribe: []string{"shop/v1"}, InitialResourceVersions: versions(h, TypeEndpoint)})
	if r, _, ok := s.next(); !ok || r.typ != TypeRoute {
		t.Errorf("%v, not the route: %+v", ok, r)
	}
}
