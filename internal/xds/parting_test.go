package xds

import (
	"maps"
	"slices"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
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
