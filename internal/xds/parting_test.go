package xds

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/rollout"
)

// waitRemaining waits until these nodes may still send requests to shop.
func waitRemaining(t *testing.T, h *Hub, want ...string) {
	t.Helper()
	for range 500 {
		if slices.Equal(h.Remaining("shop"), want) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%v remain, want %v", h.Remaining("shop"), want)
}

// Of a service that is removed is waited for whoever has not accepted that: one that lags, one that is away, and one
// that comes back with what it had.
func TestWhoMaySendRequestsToARemovedService(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, nil))
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1")
	inForce(t, h, 1)
	clusters := versions(h, TypeCluster)
	if err := h.Remove("shop"); err != nil {
		t.Fatal(err)
	}
	e.ack(e.expect(TypeRoute))
	removal := e.expect(TypeCluster)
	waitRemaining(t, h, "edge-1")
	e.cancel()
	time.Sleep(50 * time.Millisecond)
	waitRemaining(t, h, "edge-1") // its answer was lost
	e = connect(t, dial(), "edge-1", 40)
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, InitialResourceVersions: maps.Clone(clusters)})
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"shop"}, InitialResourceVersions: map[string]string{"shop": "unknown"}})
	for { // which comes first depends on whether the server has read both requests by then
		r := <-e.in
		e.ack(r)
		if removal = r; slices.Equal(removal.RemovedResources, []string{"shop/v1"}) {
			break
		}
	}
	waitRemaining(t, h)
}

// It has taken the removal and restarts, or comes back without the service: nobody waits for it.
func TestWhoComesBackWithoutARemovedServiceHasLetGo(t *testing.T) {
	for _, has := range []map[string]string{nil, {"pay/v1": "another service's"}} {
		h, _, dial := server(t)
		publish(t, h, table(1, nil))
		e := connect(t, dial(), "edge-1", 40)
		e.start("shop", "shop/v1")
		inForce(t, h, 1)
		e.cancel()
		waitStatus(t, h, "gone", func(s Status) bool { return s.Counts.Gone == 1 })
		if err := h.Remove("shop"); err != nil {
			t.Fatal(err)
		}
		waitRemaining(t, h, "edge-1")
		connect(t, dial(), "edge-1", 40).send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, InitialResourceVersions: has})
		waitRemaining(t, h)
	}
}

// An Envoy never answers the removal of a service, and goes on sending requests: it is asked to report them, and as long as it
// does it is waited for. Of one that lags the same holds for what was cut.
func TestWhoReportsRequestsIsWaitedFor(t *testing.T) {
	for what, takeAway := range map[string]func(h *Hub, e *envoy){
		"the service is removed": func(h *Hub, e *envoy) {
			if err := h.Remove("shop"); err != nil {
				t.Fatal(err)
			}
		},
		"v2 is cut": func(h *Hub, e *envoy) {
			publish(t, h, table(2, nil, "v2"))
			e.expect(TypeRoute)
			h.tick(h.now())
			passes(h, LaggingAfter)
		},
	} {
		h, loads, got, dial := reports(t, nil)
		publish(t, h, table(1, map[string]int{"v2": 5000}))
		conn := dial()
		e := connect(t, conn, "edge-1", 40)
		e.start("shop", "shop/v1", "shop/v2")
		inForce(t, h, 1)
		loads.Ask([]Asked{{Cluster: "shop/v1"}, {Cluster: "shop/v2"}})
		lrs := reportsAs(t, conn, "edge-1")
		lrs.told(time.Second, "shop/v1", "shop/v2")
		takeAway(h, e)
		loads.Ask([]Asked{{Cluster: "pay/v1"}, {Cluster: "shop/v1"}})
		for range 3 {
			passes(h, 50*time.Minute)
			lrs.send(loadOf("shop/v2", 1, 0))
			<-got
			if !waitsFor(h, "edge-1") {
				t.Fatalf("%s: who reports requests is waited for no longer", what)
			}
		}
		passes(h, 50*time.Minute)
		lrs.send(loadOf("shop/v2", 0, 0))
		<-got
		if !waitsFor(h, "edge-1") {
			t.Errorf("%s: it reported requests 50 minutes ago", what)
		}
		if passes(h, 10*time.Minute); waitsFor(h, "edge-1") {
			t.Errorf("%s: its last report of requests is an hour old, and it is waited for", what)
		}
	}
}

// passes lets time pass.
func passes(h *Hub, d time.Duration) {
	h.mu.Lock()
	now := h.now().Add(d)
	h.now = func() time.Time { return now }
	h.mu.Unlock()
	h.tick(now)
}

// waitsFor reports whether something of shop waits for an Envoy.
func waitsFor(h *Hub, node string) bool {
	if slices.Contains(h.Remaining("shop"), node) {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.services["shop"]
	return s != nil && slices.ContainsFunc(s.force.crowds(h.now()), func(c rollout.Crowd) bool {
		return !c.Present && slices.Contains(c.Nodes, node)
	})
}

// An Envoy that took the removal of a route in goes on by it. When the service begins anew it is waited for, until it has another one.
func TestWhoGoesOnByARemovedRouteIsWaitedFor(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, map[string]int{"v2": 5000}))
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)
	if err := h.Remove("shop"); err != nil {
		t.Fatal(err)
	}
	e.ack(e.expect(TypeRoute))
	e.expect(TypeCluster) // and no answer to that
	publish(t, h, table(2, nil))
	if !waitsFor(h, "edge-1") {
		t.Errorf("%+v: it may still send users to v2", h.status("shop").Counts)
	}
}

// That an Envoy took in the removal of a service costs what that Envoy has, however many others have the service.
func TestARemovalCostsEachEnvoyItsOwn(t *testing.T) {
	h := NewHub(logrus.New())
	publish(t, h, table(1, map[string]int{"v1": 1}))
	ref := Ref{TypeCluster, "shop/v1"}
	cluster, book := h.cat.resources[ref], h.services["shop"].force
	streams := make([]*session, 3000)
	for i := range streams {
		s := h.open(Node{ID: fmt.Sprintf("edge-%d", i)})
		s.inv.present(ref, cluster)
		book.Join(s.stream, *book.envoys, h.now())
		streams[i] = s
	}
	if err := h.Remove("shop"); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for i, s := range streams {
		h.accepted(s, parcel{ref: Ref{TypeRoute, "shop"}}, begin)
		if i == 0 && len(h.Remaining("shop")) != len(streams) {
			t.Error("who lost the route only is not waited for")
		}
		s.inv.forget(ref)
		h.accepted(s, parcel{ref: ref}, begin)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("%d Envoys kept the mutex for %s", len(streams), took)
	}
	if left := h.parting["shop"].force.members; len(left) > 0 {
		t.Errorf("%d are waited for", len(left))
	}
}

// Whether a removed service is waited for costs a look, however many Envoys it is waited for; those that are waited for no longer are not
// looked at again.
func TestWhetherSomebodyRemainsIsFoundAtOnce(t *testing.T) {
	h, at, looks := NewHub(quietLog()), time.Unix(1e9, 0), 0
	h.now = func() time.Time { looks++; return at }
	var nodes []string
	for i := range 1000 {
		nodes = append(nodes, fmt.Sprintf("edge-%04d", i))
	}
	h.Remained("shop", []rollout.Crowd{{Version: "t1", Nodes: nodes[:500]}})
	at = at.Add(time.Minute)
	h.restore(h.parting["shop"].force, []rollout.Crowd{{Version: "t1", Nodes: nodes[500:]}})
	remains := func(want bool, most int) {
		t.Helper()
		if looks = 0; h.Remains("shop") != want || looks > most {
			t.Errorf("%d looks, want at most %d; it was to say %v", looks, most, want)
		}
	}
	remains(true, 1)
	at = at.Add(h.ForgetAfter - time.Minute)
	remains(true, 501)
	remains(true, 1)
	if got := h.Remaining("shop"); !slices.Equal(got, nodes[500:]) {
		t.Errorf("%d remain", len(got))
	}
	at = at.Add(time.Minute)
	remains(false, 1001)
	if len(h.parting) > 0 {
		t.Error("it is not forgotten")
	}
	remains(false, 0)
}

// Thousands of services are removed. An Envoy that comes back costs what it brought along and what its node is away from.
func TestWhoComesBackCostsWhatItHas(t *testing.T) {
	h := NewHub(quietLog())
	const removed = 3000
	for i := range removed {
		nodes := []string{"away"}
		if i < 3 {
			nodes = append(nodes, "edge-1")
		}
		h.Remained(fmt.Sprint("s", i), []rollout.Crowd{{Version: "t1", Nodes: nodes}})
	}
	s := h.open(Node{ID: "edge-1"})
	s.taking = true // what it has is not known yet
	l := &shift{h: h}
	b := &breaks{mu: l}
	h.mu.Lock()
	h.returnsWith(b, s, map[string]string{"s1/v1": "x", "s1/v2": "x", "s5/v1": "x", "there/v1": "x"})
	h.mu.Unlock()
	if b.looked > 10 || l.taken > 0 {
		t.Errorf("it took %d looks", b.looked)
	}
	for i := range removed {
		want := []string{"away"}
		if i == 1 || i == 5 {
			want = append(want, "edge-1")
		}
		if got := h.Remaining(fmt.Sprint("s", i)); !slices.Equal(got, want) {
			t.Fatalf("s%d: %v remain, want %v", i, got, want)
		}
	}
}

// A service is removed while an Envoy comes back with very much: it is waited for where it brought clusters of it.
func TestAServiceIsRemovedWhileAnEnvoyComesBack(t *testing.T) {
	h := NewHub(quietLog())
	const services = 5000
	brought := map[string]string{}
	for i := range services {
		name := fmt.Sprint("s", i)
		if i > 0 {
			h.services[name] = &service{force: NewForce(name, h.ForgetAfter)}
			h.restore(h.services[name].force, []rollout.Crowd{{Version: "t1", Nodes: []string{"edge-1"}}})
		}
		if i%2 == 0 {
			brought[name+"/v1"] = "x"
		}
	}
	h.Remained("s0", []rollout.Crowd{{Version: "t1", Nodes: []string{"edge-1"}}})
	s := h.open(Node{ID: "edge-1"})
	s.taking = true
	l := &shift{h: h}
	l.happens = func() {
		for i := range services {
			if name := fmt.Sprint("s", i); i%8 == l.taken && h.services[name] != nil {
				f := h.services[name].force
				delete(h.services, name)
				h.part(name, f)
			}
		}
	}
	h.mu.Lock()
	h.returnsWith(&breaks{mu: l}, s, brought)
	h.mu.Unlock()
	if l.taken < 5 || len(h.parting) < services/2 {
		t.Errorf("the mutex was taken %d times, %d services are removed", l.taken, len(h.parting))
	}
	for i := 0; i < services; i += 2 {
		if name := fmt.Sprint("s", i); h.parting[name] != nil && !h.Remains(name) {
			t.Fatalf("%s: nobody waits for who brought it along", name)
		}
	}
}

// An Envoy comes back with clusters of a removed service among very many others, and is asked about before all of them are taken in.
func TestWhatIsBroughtAlongIsNotGoneBeforeItIsTakenIn(t *testing.T) {
	h := NewHub(quietLog())
	h.Remained("shop", []rollout.Crowd{{Version: "t1", Nodes: []string{"edge-1"}}})
	s := h.open(Node{ID: "edge-1"})
	s.taking = true
	h.returns(s, map[string]string{"shop/v1": "x"})
	if got := h.Remaining("shop"); !h.Remains("shop") || !slices.Equal(got, []string{"edge-1"}) {
		t.Errorf("%v remain", got)
	}
	if s.taking = false; h.Remains("shop") {
		t.Error("it has no clusters, and is waited for")
	}
}

// The stream of an Envoy with very many names ends bit by bit. Meanwhile the Envoy is as little gone as it is afterwards, when it is away.
func TestWhoseStreamIsEndingIsWaitedFor(t *testing.T) {
	h := NewHub(quietLog())
	publish(t, h, table(1, map[string]int{"v1": 1}))
	s := h.open(Node{ID: "edge-1"})
	h.services["shop"].force.Join(s.stream, *h.services["shop"].force.envoys, h.now())
	s.inv.present(Ref{TypeCluster, "shop/v1"}, h.cat.resources[Ref{TypeCluster, "shop/v1"}])
	if err := h.Remove("shop"); err != nil {
		t.Fatal(err)
	}
	passes(h, 2*clientsFollow)
	delete(h.sessions, s.id)
	waitRemaining(t, h, "edge-1")
	s.close()
	waitRemaining(t, h, "edge-1")
}
