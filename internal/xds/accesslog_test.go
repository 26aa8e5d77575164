package xds

import (
	"testing"
	"time"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// logs says that an Envoy has the cluster that records go to.
func (e *envoy) logs() {
	own, _ := structpb.NewStruct(map[string]any{recordsSaid: true})
	e.node.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{metadataKey: structpb.NewStructValue(own)}}
}

// An Envoy that does not know of access logs has the listener that it had before there were any, to the byte.
func TestListenersWithoutALogAreAsTheyWere(t *testing.T) {
	for want, of := range map[string]listenerOf{"cd53603a395d5e93": {}, "e7399a1b77b8f987": {plain: "shop", grpc: true}} {
		r, err := buildListener("127.0.0.1:8080", of)
		if err != nil || r.Version != want || r.loggedFor(&Node{}) != nil || r.logged != nil {
			t.Errorf("%+v, %v: want %s, without a log", r, err, want)
		}
		if l := r.loggedFor(&Node{Records: true}); l == nil || l.Version == want || l != r.loggedFor(&Node{Records: true}) {
			t.Errorf("%+v with a log: %+v", of, l)
		}
	}
}

// Who says that it has the cluster gets the listener with the log, who refuses that gets it without, and nothing waits for that.
func TestTheAccessLogIsForWhoHasItsCluster(t *testing.T) {
	h, _, dial := server(t)
	tab := table(1, nil)
	tab.Policy.Route.Listener = "127.0.0.1:8080"
	publish(t, h, tab)
	l := h.cat.resources[Ref{TypeListener, "127.0.0.1:8080"}]
	listens := func(e *envoy) *discovery.DeltaDiscoveryResponse {
		e.start("shop", "shop/v1")
		e.subscribe(TypeListener)
		return e.expect(TypeListener)
	}
	old, recent := connect(t, dial(), "old", 40), connect(t, dial(), "recent", 40)
	recent.logs()
	r := listens(old)
	if old.ack(r); r.Resources[0].Version != l.Version {
		t.Errorf("an Envoy that says nothing of logs has %s, not %s", r.Resources[0].Version, l.Version)
	}
	r = listens(recent)
	if r.Resources[0].Version != l.logged.Version {
		t.Errorf("an Envoy that has the cluster has %s, not %s", r.Resources[0].Version, l.logged.Version)
	}
	recent.nack(r, "unknown cluster canaryd")
	r = recent.expect(TypeListener)
	if recent.ack(r); r.Resources[0].Version != l.Version {
		t.Errorf("who refused the log has %s, not %s", r.Resources[0].Version, l.Version)
	}
	recent.silence()
	if s := h.status("shop"); !s.InForce || len(s.Refusals) > 0 {
		t.Errorf("%+v", s)
	}

	back := connect(t, dial(), "back", 40) // it is told nothing that it has
	back.logs()
	back.start("shop", "shop/v1")
	back.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeListener, InitialResourceVersions: map[string]string{l.Name: l.logged.Version}})
	if r := back.expect(TypeListener); len(r.Resources)+len(r.RemovedResources) > 0 {
		t.Errorf("%v", names(r))
	}
	back.silence()
}

// What fails says nothing of what a service is asked for, in a log that has all failures and a sample of the rest.
func TestFailuresOfTheOwnLogAreNoSample(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, nil))
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1")
	inForce(t, h, 1)
	var node Node
	for _, p := range h.peers {
		node = p.Node
	}
	broken := recordsFor("shop/v1", 5)
	broken[0].Response = &accesslog.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(503)}
	broken[1].CommonProperties.ResponseFlags = &accesslog.ResponseFlags{UpstreamRequestTimeout: true}
	recording{hub: h}.take(node, broken, true, time.Now())
	if seen := h.Seen("shop"); seen.All() != 3 {
		t.Errorf("%g of 3 successes are remembered", seen.All())
	}
	recording{hub: h}.take(node, broken, false, time.Now())
	if seen := h.Seen("shop"); seen.All() != 8 {
		t.Errorf("%g: failures of a plain sample are a part of it", seen.All())
	}
}

// Classes are proposed from what stable serves: what a version under test is asked for may be gone tomorrow. Its failures are remembered.
func TestRecordsOfAVersionUnderTestProposeNothing(t *testing.T) {
	h, _, dial := server(t)
	publish(t, h, table(1, map[string]int{"v2": 100}))
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)
	var node Node
	for _, p := range h.peers {
		node = p.Node
	}
	fails := recordsFor("shop/v2", 1)
	fails[0].CommonProperties.ResponseFlags = &accesslog.ResponseFlags{UpstreamRequestTimeout: true}
	of := recording{hub: h}
	of.take(node, append(append(recordsFor("shop/v2", 4), recordsFor("shop/v1", 3)...), fails...), true, time.Now())
	if seen, shown := h.Seen("shop"), h.TakeExamples("shop"); seen.All() != 3 || len(shown["v2"]) != 1 {
		t.Errorf("%g requests of 3 of stable are remembered, and failures %v", seen.All(), shown)
	}
}
