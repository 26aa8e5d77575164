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
