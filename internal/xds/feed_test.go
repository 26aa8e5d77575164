package xds

import (
	"context"
	"testing"
	"time"

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
	f.done = make(chan struct{}) // as if it were busy
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
