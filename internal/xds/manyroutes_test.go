package xds

import (
	"fmt"
	"slices"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// watched are the times that one stream has held the mutex.
type watched struct {
	times int
	end   func() // no more are counted
}

// watchHolds counts how often a stream takes the mutex, and looks after each time, before it can take it again.
func watchHolds(h *Hub, look func()) *watched {
	door, over, ended := make(chan struct{}), make(chan struct{}), make(chan struct{}) // who enters waits for the watcher, and who leaves does
	h.doors = door
	w := &watched{}
	w.end = func() {
		close(over)
		<-ended
		h.doors = make(chan struct{}, doors)
	}
	go func() {
		defer close(ended)
		for {
			select {
			case <-door:
			case <-over:
				return
			}
			door <- struct{}{}
			w.times++
			h.mu.Lock()
			look()
			h.mu.Unlock()
		}
	}()
	return w
}

// asksFor has a gRPC client ask for routes, or answer a response.
func asksFor(t *testing.T, h *Hub, nonce string, names []string) {
	t.Helper()
	req := &discovery.DiscoveryRequest{Node: &core.Node{Id: "g", UserAgentName: "gRPC Go"}, TypeUrl: TypeRoute, ResourceNames: slices.Clone(names), ResponseNonce: nonce}
	if err := h.clients.OnStreamRequest(1, req); err != nil {
		t.Fatal(err)
	}
}

func opensClient(t *testing.T, h *Hub) *client {
	t.Helper()
	if err := h.clients.OnStreamOpen(t.Context(), 1, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.clients.OnStreamClosed(1, nil) })
	return h.clients.streams[1]
}

// A gRPC client that asks for thousands of names keeps the mutex for a hundred of them at a time, and for none that it has
// asked for already.
func TestAGRPCClientWithManyNamesLetsOthersIn(t *testing.T) {
	h := NewHub(quietLog())
	cl := opensClient(t, h)
	names := func(of string) (out []string) {
		for i := range 10_000 {
			out = append(out, fmt.Sprint(of, i))
		}
		return out
	}
	asksFor(t, h, "", nil) // who it is
	for _, ask := range []struct {
		names []string
		most  int // times
	}{{names("a"), 1000}, {names("a"), 1}, {names("b"), 1000}, {append(names("b"), "c"), 1}, {names("b"), 1}} {
		had, longest := len(cl.routes), 0
		w := watchHolds(h, func() {
			longest = max(longest, len(cl.routes)-had, had-len(cl.routes))
			had = len(cl.routes)
		})
		asksFor(t, h, "", ask.names)
		w.end()
		if longest > atOnce || w.times > ask.most || len(cl.routes) != len(ask.names) {
			t.Errorf("a client that asks for %d names took the mutex %d times, and took in up to %d of them at once", len(cl.routes), w.times, longest)
		}
	}
}

// What gRPC clients are sent of many routes, and answer, is booked in portions.
func TestManyRoutesOfAGRPCClientAreBookedInPortions(t *testing.T) {
	const services = 5 * atOnce
	h, names, resp := manyRoutes(t, services)
	cl := opensClient(t, h)
	asksFor(t, h, "", names)
	books := func(what string, do func()) {
		t.Helper()
		w := watchHolds(h, func() {})
		do()
		w.end()
		if w.times < services/atOnce {
			t.Errorf("%d routes are %s while the mutex is held %d times", services, what, w.times)
		}
	}
	books("sent", func() { h.clients.OnStreamResponse(t.Context(), 1, nil, resp) })
	if len(cl.sent["1"]) != services {
		t.Errorf("%d routes are on their way", len(cl.sent["1"]))
	}
	books("accepted", func() { asksFor(t, h, "1", names) })
	for _, name := range names {
		if st := h.status(name); !st.InForce || st.Subscribers != 1 {
			t.Fatalf("what was accepted is not in force: %+v", st)
		}
	}
}

// What a response costs is that of the routes in it, and not of all that its client has.
func TestARouteToAGRPCClientCostsItsOwn(t *testing.T) {
	costs := func(services int) float64 {
		h, names, resp := manyRoutes(t, services)
		cl := opensClient(t, h)
		asksFor(t, h, "", names)
		resp.Resources = resp.GetResources()[:1]
		h.clients.feed.wait()
		n := testing.AllocsPerRun(100, func() { h.clients.OnStreamResponse(t.Context(), 1, nil, resp) })
		if len(cl.sent["1"]) != 1 {
			t.Errorf("%d routes are on their way", len(cl.sent["1"]))
		}
		return n
	}
	if few, many := costs(10), costs(2000); many > few+2 {
		t.Errorf("a route costs %.0f allocations for a client that has ten, and %.0f for one that has 2 000", few, many)
	}
}

// manyRoutes publishes services, and makes the response that has all of them.
func manyRoutes(t *testing.T, n int) (h *Hub, names []string, resp *discovery.DiscoveryResponse) {
	t.Helper()
	h, resp = NewHub(quietLog()), &discovery.DiscoveryResponse{TypeUrl: TypeRoute, Nonce: "1"}
	var all []Prepared
	for i := range n {
		tab := grpcTable(1, map[string]int{"v2": 100})
		tab.Service = fmt.Sprintf("s%d", i)
		tab.Policy.Service = tab.Service
		names = append(names, tab.Service)
		all = append(all, h.Prepare(tab))
	}
	for _, err := range h.Publish(all...) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(h.services[name].edition.view.resources[TypeRoute][name])
		if err != nil {
			t.Fatal(err)
		}
		resp.Resources = append(resp.Resources, &anypb.Any{Value: body})
	}
	return h, names, resp
}
