package xds

import (
	"testing"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/canaryd/canaryd/internal/policy"
)

func TestLimitsAreHighByDefault(t *testing.T) {
	p := policy.Default()
	got := breakers(&p).Thresholds[0]
	if got.MaxConnections.Value < 10_000 || got.MaxPendingRequests.Value < 10_000 || got.MaxRequests.Value != policy.NoLimit || got.MaxRetries.Value != 3 {
		t.Errorf("%v", got)
	}
}

// An edit of the limits reaches the Envoys at once, and neither the route nor the listener moves.
func TestLimitsAreEditedInFlight(t *testing.T) {
	h, _, dial := server(t)
	tab := table(1, map[string]int{"v2": 100})
	tab.Policy.Route.Listener = "127.0.0.1:10000"
	publish(t, h, tab)
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)
	edited := table(2, map[string]int{"v2": 100})
	edited.Policy.Route.Listener = tab.Policy.Route.Listener
	edited.Policy.Route.Limits = &policy.Limits{Connections: 7, Pending: 6, Requests: 5, Retries: 0}
	publish(t, h, edited)
	r := e.expect(TypeCluster)
	if len(r.Resources) != 2 {
		t.Errorf("%d clusters were sent", len(r.Resources))
	}
	e.ack(r)
	e.ack(e.expect(TypeEndpoint)) // an Envoy that rebuilds a cluster waits for its endpoints
	e.silence()
	inForce(t, h, 2)
	if got := thresholds(t, r); got.MaxConnections.Value != 7 || got.MaxPendingRequests.Value != 6 || got.MaxRequests.Value != 5 || got.MaxRetries.Value != 0 {
		t.Errorf("after the edit: %v", got)
	}
}

// thresholds are those of the first cluster in an answer.
func thresholds(t *testing.T, r *discovery.DeltaDiscoveryResponse) *cluster.CircuitBreakers_Thresholds {
	t.Helper()
	pb := &cluster.Cluster{}
	if err := r.Resources[0].Resource.UnmarshalTo(pb); err != nil {
		t.Fatal(err)
	}
	return pb.CircuitBreakers.Thresholds[0]
}
