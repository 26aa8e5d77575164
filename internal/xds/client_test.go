package xds

import (
	"context"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	envoytype "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/sirupsen/logrus"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// server runs the hub behind real gRPC in memory.
func server(t *testing.T) (*Hub, *Loads, func() *grpc.ClientConn) {
	t.Helper()
	log := logrus.New()
	log.SetLevel(logrus.ErrorLevel)
	hub := NewHub(log)
	loads := NewLoads(time.Second, func(Report) {})
	l := bufconn.Listen(1 << 20)
	s := NewServer(hub, loads, nil)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return hub, loads, func() *grpc.ClientConn {
		c, err := grpc.NewClient("passthrough:///hub", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
}

func quietLog() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// envoy is a client that speaks as an Envoy does.
type envoy struct {
	t      *testing.T
	stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	in     chan *discovery.DeltaDiscoveryResponse
	node   *core.Node
	cancel context.CancelFunc
}

func connect(t *testing.T, c *grpc.ClientConn, id string, minor uint32) *envoy {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(c).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	e := &envoy{t: t, stream: stream, in: make(chan *discovery.DeltaDiscoveryResponse, 100), cancel: cancel, node: &core.Node{
		Id: id, Cluster: "edge", UserAgentName: "envoy",
		UserAgentVersionType: &core.Node_UserAgentBuildVersion{UserAgentBuildVersion: &core.BuildVersion{Version: &envoytype.SemanticVersion{MajorNumber: 1, MinorNumber: minor}}},
	}}
	t.Cleanup(cancel)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				close(e.in)
				return
			}
			e.in <- r
		}
	}()
	return e
}

func (e *envoy) send(r *discovery.DeltaDiscoveryRequest) {
	e.t.Helper()
	r.Node, e.node = e.node, nil
	if err := e.stream.Send(r); err != nil {
		e.t.Fatal(err)
	}
}

func (e *envoy) subscribe(typ string, names ...string) {
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResourceNamesSubscribe: names})
}

func (e *envoy) ack(r *discovery.DeltaDiscoveryResponse) {
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce})
}

func (e *envoy) nack(r *discovery.DeltaDiscoveryResponse, why string) {
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce, ErrorDetail: &rpcstatus.Status{Code: 13, Message: why}})
}

// expect waits for the next response of a type.
func (e *envoy) expect(typ string) *discovery.DeltaDiscoveryResponse {
	e.t.Helper()
	select {
	case r, ok := <-e.in:
		if !ok {
			_, err := e.stream.Recv()
			e.t.Fatalf("the stream ended: %v", err)
		}
		if r.TypeUrl != typ {
			e.t.Fatalf("got %s %v, want %s", shortType(r.TypeUrl), names(r), shortType(typ))
		}
		return r
	case <-time.After(time.Minute):
		e.t.Fatalf("no %s came", shortType(typ))
	}
	return nil
}

// silence checks that nothing comes for a while.
func (e *envoy) silence() {
	e.t.Helper()
	select {
	case r := <-e.in:
		e.t.Fatalf("unexpected %s %v, removed %v", shortType(r.TypeUrl), names(r), r.RemovedResources)
	case <-time.After(80 * time.Millisecond):
	}
}

func names(r *discovery.DeltaDiscoveryResponse) []string {
	var out []string
	for _, x := range r.Resources {
		out = append(out, x.Name)
	}
	slices.Sort(out)
	return out
}

// start is what an Envoy does at first: clusters, endpoints, listeners, route; all accepted.
func (e *envoy) start(service string, clusters ...string) *discovery.DeltaDiscoveryResponse {
	e.t.Helper()
	e.subscribe(TypeCluster)
	r := e.expect(TypeCluster)
	e.subscribe(TypeEndpoint, names(r)...)
	eds := e.expect(TypeEndpoint)
	e.ack(r)
	e.ack(eds)
	e.subscribe(TypeRoute, service)
	rds := e.expect(TypeRoute)
	e.ack(rds)
	if !slices.Equal(names(r), clusters) {
		e.t.Fatalf("clusters %v, want %v", names(r), clusters)
	}
	return rds
}

// shares reads the weights out of a route.
func shares(t *testing.T, r *discovery.DeltaDiscoveryResponse) map[string]uint32 {
	t.Helper()
	if len(r.Resources) != 1 {
		t.Fatalf("%d routes in one response", len(r.Resources))
	}
	rc := &route.RouteConfiguration{}
	if err := r.Resources[0].Resource.UnmarshalTo(rc); err != nil {
		t.Fatal(err)
	}
	routes := rc.VirtualHosts[0].Routes
	out := map[string]uint32{}
	for _, c := range routes[len(routes)-1].GetRoute().GetWeightedClusters().GetClusters() {
		out[c.Name] += c.Weight.Value
	}
	return out
}

// table is shop with v1 stable and the given weights.
func table(generation uint64, weights map[string]int, cut ...string) rollout.Table {
	p := policy.Default()
	p.Service = "shop"
	t := rollout.Table{Service: "shop", Generation: generation, Policy: &p, Stable: "v1", Cut: cut}
	rest := policy.FullWeight
	for i, v := range []string{"v1", "v2", "v3"} {
		w, ok := weights[v]
		if !ok && v != "v1" {
			continue
		}
		t.Clusters = append(t.Clusters, rollout.Cluster{Version: v, Endpoints: []string{"127.0.0.1:900" + string(rune('1'+i))}})
		if v != "v1" && w > 0 {
			t.Slots = append(t.Slots, rollout.Run{Version: v, Count: w})
			rest -= w
		}
	}
	t.Slots = append(t.Slots, rollout.Run{Version: "v1", Count: rest})
	return t
}

func publish(t *testing.T, h *Hub, tab rollout.Table) {
	t.Helper()
	if err := h.PublishTable(tab); err != nil {
		t.Fatal(err)
	}
}

// inForce waits until the hub says that a generation is in force.
func inForce(t *testing.T, h *Hub, generation uint64) {
	t.Helper()
	waitStatus(t, h, "in force", func(s Status) bool { return s.InForce && s.Generation == generation })
}

func waitStatus(t *testing.T, h *Hub, what string, ok func(Status) bool) Status {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		s := h.status("shop")
		if ok(s) {
			return s
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("never %s", what)
	return Status{}
}

// status is the present one of a service.
func (h *Hub) status(service string) Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.statusOf(h.services[service].force)
}

// versions are what an Envoy that is up to date would bring along.
func versions(h *Hub, typ string) map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]string{}
	for name := range h.cat.names[typ] {
		out[name] = h.cat.resources[Ref{typ, name}].Version
	}
	return out
}

// listen makes an in-memory listener and a dialer for it.
func listen(t testing.TB) (*bufconn.Listener, func() *grpc.ClientConn) {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	return l, func() *grpc.ClientConn {
		c, err := grpc.NewClient("passthrough:///hub", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
}
