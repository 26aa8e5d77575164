package xds

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/xds"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// backend is a gRPC service that counts its calls and may fail them.
type backend struct {
	grpc_health_v1.UnimplementedHealthServer
	calls atomic.Int64
	fails atomic.Bool
	addr  string
}

func newBackend(t *testing.T) *backend {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{addr: l.Addr().String()}
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, b)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return b
}

func (b *backend) Check(context.Context, *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	b.calls.Add(1)
	if b.fails.Load() {
		return nil, status.Error(codes.Internal, "broken")
	}
	return &grpc_health_v1.HealthCheckResponse{}, nil
}

// A grpc-go client without a proxy sees the weights, a change of them is in force when it has
// accepted it, and its load reports come apart from an Envoy's.
func TestAGRPCClientSeesTheSameWeights(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	hub := NewHub(log)
	reports := make(chan Report, 100)
	loads := NewLoads(200*time.Millisecond, func(r Report) {
		select {
		case reports <- r:
		default:
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(hub, loads, nil)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	v1, v2 := newBackend(t), newBackend(t)
	p := policy.Default()
	p.Service, p.Route.Protocol = "shop", policy.ProtocolGRPC
	table := func(generation uint64, w int) rollout.Table {
		return rollout.Table{Service: "shop", Generation: generation, Policy: &p, Stable: "v1",
			Slots:    []rollout.Run{{Version: "v1", Count: 3000}, {Version: "v2", Count: w}, {Version: "v1", Count: 7000 - w}},
			Clusters: []rollout.Cluster{{Version: "v1", Endpoints: []string{v1.addr}}, {Version: "v2", Endpoints: []string{v2.addr}}}}
	}
	publish := func(tab rollout.Table) {
		if err := hub.PublishTable(tab); err != nil {
			t.Fatal(err)
		}
	}
	publish(table(1, 2500))
	build, err := xds.NewXDSResolverWithConfigForTesting(fmt.Appendf(nil, `{"xds_servers":[{"server_uri":%q,"channel_creds":[{"type":"insecure"}],"server_features":["xds_v3"]}],"node":{"id":"client-1"}}`, l.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///shop", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithResolvers(build.(resolver.Builder)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := grpc_health_v1.NewHealthClient(conn)
	call := func(n int) (ok, failed int) {
		for range n {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if _, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil {
				failed++
			} else {
				ok++
			}
			cancel()
		}
		return ok, failed
	}
	if _, failed := call(4000); failed > 0 {
		t.Fatalf("%d calls failed", failed)
	}
	if share := float64(v2.calls.Load()) / 4000; share < 0.22 || share > 0.28 {
		t.Errorf("v2 got %.3f of the calls, want 0.25", share)
	}
	clientHas(t, hub, 1)

	publish(table(2, 0)) // v2 is cut
	clientHas(t, hub, 2)
	before := v2.calls.Load()
	for call(50); v2.calls.Load() != before; call(50) { // a client says that it has a route a moment before its calls follow it
		before = v2.calls.Load()
	}
	call(500)
	if n := v2.calls.Load() - before; n != 0 {
		t.Errorf("%d calls reached v2 after the cut was in force", n)
	}

	v2.fails.Store(true)
	publish(table(3, 5000))
	clientHas(t, hub, 3)
	for len(reports) > 0 {
		<-reports
	}
	call(1000)
	for deadline := time.After(time.Minute); ; {
		select {
		case r := <-reports:
			if n := r.Clusters["shop/v2"].Counts; n.Errors > 0 {
				if !r.Client || r.Node != "client-1" || len(r.Served["shop"].Slots) == 0 {
					t.Errorf("the report is %+v", r)
				}
				if _, known := hub.Forget("client-1"); !known {
					t.Error("the client is not known by its name")
				}
				return
			}
		case <-deadline:
			t.Fatal("no load report of the failing version")
		}
	}
}

// clientHas waits until the client's ACK is booked.
func clientHas(t *testing.T, hub *Hub, generation uint64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		st := hub.status("shop")
		if st.InForce && st.Generation == generation && st.Subscribers == 1 {
			return
		}
	}
	t.Fatalf("not in force: %+v", hub.status("shop"))
}

// An Envoy that asks for the state of the world is told what to write instead.
func TestAnEnvoyWithoutDeltasIsToldSo(t *testing.T) {
	c := newClients(NewHub(logrus.New()))
	if err := c.OnStreamOpen(t.Context(), 1, ""); err != nil {
		t.Fatal(err)
	}
	if err := c.OnStreamRequest(1, envoyRequest()); status.Code(err) != codes.InvalidArgument {
		t.Errorf("%v", err)
	}
	c.OnStreamClosed(1, nil)
}

func envoyRequest() *discovery.DiscoveryRequest {
	return &discovery.DiscoveryRequest{Node: &core.Node{Id: "e", UserAgentName: "envoy"}, TypeUrl: TypeRoute}
}

// What gRPC clients get of a service costs what that service costs, however many others they may ask for; and what is
// gone is gone from their caches.
func TestAGRPCServiceCostsItsOwn(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	h := NewHub(log)
	const services = 1500
	var all []Prepared
	for i := range services {
		tab := table(1, map[string]int{"v2": 100})
		tab.Service, tab.Policy.Route.Protocol = fmt.Sprintf("s%d", i), policy.ProtocolGRPC
		tab.Policy.Service = tab.Service
		all = append(all, h.Prepare(tab))
	}
	begin := time.Now()
	for _, err := range h.Publish(all...) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("%d services kept the mutex for %s", services, took)
	}
	has := func(want int) {
		t.Helper()
		h.clients.feed.wait()
		for typ, c := range h.clients.caches {
			n := want
			if typ == TypeCluster || typ == TypeEndpoint {
				n *= 2
			}
			if got := len(c.GetResources()); got != n {
				t.Errorf("%s: the caches have %d, want %d", shortType(typ), got, n)
			}
		}
		if len(h.clients.has) != want {
			t.Errorf("%d services are known to be there", len(h.clients.has))
		}
	}
	has(services)
	for i := range services {
		if err := h.Remove(fmt.Sprintf("s%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	has(0)
}
