package xds

import (
	"context"
	"slices"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	sotwstream "github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

func grpcTable(generation uint64, canaries map[string]int) rollout.Table {
	t := table(generation, canaries)
	t.Policy.Route.Protocol = policy.ProtocolGRPC
	return t
}

// Who publishes waits for no gRPC client, and keeps the mutex from nobody while the caches look for what each of them gets.
// What comes meanwhile goes together after that.
func TestACutWaitsForNoGRPCClient(t *testing.T) {
	h := NewHub(quietLog())
	routes := h.clients.caches[TypeRoute]
	answers := make(chan cache.Response) // the cache waits until somebody reads
	watch := func(version string, has map[string]string) {
		t.Helper()
		sub := sotwstream.NewSotwSubscription([]string{"shop"}, false)
		sub.SetReturnedResources(has)
		if _, err := routes.CreateWatch(&discovery.DiscoveryRequest{TypeUrl: TypeRoute, VersionInfo: version}, &sub, answers); err != nil {
			t.Fatal(err)
		}
	}
	watch("0", map[string]string{})
	published := make(chan struct{})
	go func() {
		defer close(published)
		for g, w := range []int{100, 200, 300, 400} {
			if err := h.PublishTable(grpcTable(uint64(g+1), map[string]int{"v2": w})); err != nil {
				t.Error(err)
			}
			for g == 0 && h.clients.feed.pending() { // until the cache waits for the client
				time.Sleep(time.Millisecond)
			}
		}
		h.status("shop")
	}()
	select {
	case <-published:
	case <-time.After(time.Minute):
		t.Fatal("a publish waits for a gRPC client")
	}
	first := <-answers
	h.clients.feed.wait()
	has := first.GetReturnedResources()
	answers = make(chan cache.Response, 1)
	watch("1", has)
	last := <-answers
	version, err := last.GetVersion()
	if err != nil {
		t.Fatal(err)
	}
	body, err := last.GetDiscoveryResponse()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := contentVersion(body.GetResources()[0].GetValue()), h.services["shop"].edition.view.version; got != want {
		t.Error("the newest route is not what the cache has")
	}
	if version != "2" {
		t.Errorf("three changes that came while the cache was busy were brought there one by one: it is at version %s", version)
	}
}

// pending reports whether something waits for its turn.
func (f *feed) pending() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next != nil
}

// A hub that ends has brought everything where gRPC clients get it, and whoever publishes after that does too.
func TestNothingIsLostToGRPCClientsWhenAHubEnds(t *testing.T) {
	h := NewHub(quietLog())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for g, w := range []int{100, 200} {
		if err := h.PublishTable(grpcTable(uint64(g+1), map[string]int{"v2": w})); err != nil {
			t.Fatal(err)
		}
		if err := h.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if got := h.clients.caches[TypeRoute].GetResources()["shop"]; got != h.services["shop"].edition.view.resources[TypeRoute]["shop"] {
			t.Errorf("the cache has %v", got)
		}
	}
}

// Of what comes before the caches have what came last, only the newest gets there: what came back is there, and what has
// gone is not.
func TestTheNewestGetsIntoTheCaches(t *testing.T) {
	h := NewHub(quietLog())
	f := h.clients.feed
	f.busy = true // as if it were
	a, b := apiListener("a"), apiListener("b")
	f.put(supply{TypeListener: {"a": a, "b": b}})
	f.put(supply{TypeListener: {"a": nil, "b": nil}})
	f.put(supply{TypeListener: {"a": a}})
	go f.run()
	f.wait()
	if got := h.clients.caches[TypeListener].GetResources(); len(got) != 1 || got["a"] == nil {
		t.Errorf("the cache has %v", got)
	}
}

// Who asks after a cut is answered when the caches have it; what was made for it before, and goes out after that, is booked as what it is:
// whoever has it may go on with it.
func TestAGRPCClientIsBookedWithWhatItIsSent(t *testing.T) {
	h := NewHub(quietLog())
	c := h.clients
	publish := func(generation uint64, canaries map[string]int) {
		t.Helper()
		if err := h.PublishTable(grpcTable(generation, canaries)); err != nil {
			t.Fatal(err)
		}
	}
	publish(1, map[string]int{"v2": 2500})
	if err := c.OnStreamOpen(t.Context(), 1, ""); err != nil {
		t.Fatal(err)
	}
	req := &discovery.DiscoveryRequest{Node: &core.Node{Id: "client-1", UserAgentName: "gRPC Go"}, TypeUrl: TypeRoute, ResourceNames: []string{"shop"}}
	if err := c.OnStreamRequest(1, req); err != nil {
		t.Fatal(err)
	}
	ask := func() *discovery.DiscoveryResponse {
		t.Helper()
		sub, answers := sotwstream.NewSotwSubscription([]string{"shop"}, false), make(chan cache.Response, 1)
		if _, err := (fed{c.caches[TypeRoute], c.feed}).CreateWatch(req, &sub, answers); err != nil {
			t.Fatal(err)
		}
		resp, err := (<-answers).GetDiscoveryResponse()
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	before := ask()
	before.Nonce = "1"
	for g := range uint64(5) { // v2 is cut, and more
		publish(2+g, map[string]int{"v3": 100 + int(g)})
		if resp := ask(); contentVersion(resp.GetResources()[0].GetValue()) != h.services["shop"].edition.view.version {
			t.Fatal("who asks after a change is sent what was before it")
		}
	}
	c.OnStreamResponse(t.Context(), 1, req, before)
	if err := c.OnStreamRequest(1, &discovery.DiscoveryRequest{TypeUrl: TypeRoute, ResourceNames: []string{"shop"}, ResponseNonce: "1", VersionInfo: "1"}); err != nil {
		t.Fatal(err)
	}
	c.OnStreamClosed(1, nil)
	f := h.services["shop"].force
	for _, m := range f.of("client-1") {
		if !slices.ContainsFunc(m.unrest.accepted.Slots, func(r rollout.Run) bool { return r.Version == "v2" }) {
			t.Errorf("it has %v", m.unrest.accepted)
		}
		return
	}
	t.Error("its connection ended, and nobody knows that it still sends requests to v2")
}
