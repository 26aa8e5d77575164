package e2e

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/xds"

	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
)

// grpcVersion is a version that answers gRPC calls, with a status of the test's choice.
type grpcVersion struct {
	grpc_health_v1.UnimplementedHealthServer
	address string
	status  atomic.Uint32
	calls   atomic.Int64
	onset   atomic.Int64 // unix nanoseconds of the first failure
	last    atomic.Int64 // of the last call
}

func newGRPCVersion(t *testing.T) *grpcVersion {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &grpcVersion{address: l.Addr().String()}
	srv := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, v)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	return v
}

func (v *grpcVersion) Check(context.Context, *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	v.calls.Add(1)
	now := time.Now().UnixNano()
	v.last.Store(now)
	if c := codes.Code(v.status.Load()); c != codes.OK {
		if c != codes.NotFound {
			v.onset.CompareAndSwap(0, now)
		}
		return nil, status.Error(c, "as the test wants it")
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

// caller makes calls at a steady rate until the test ends, and counts the answers by status.
type caller struct {
	mu     sync.Mutex
	counts map[codes.Code]int
}

func (c *caller) run(ctx context.Context, conn *grpc.ClientConn, perSecond int) {
	client := grpc_health_v1.NewHealthClient(conn)
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		wg.Go(func() {
			call, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			_, err := client.Check(call, &grpc_health_v1.HealthCheckRequest{})
			c.mu.Lock()
			defer c.mu.Unlock()
			c.counts[status.Code(err)]++
		})
	}
}

func (c *caller) count(code codes.Code) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[code]
}

// grpcScene is a scene whose service speaks gRPC.
func grpcScene(t *testing.T, set setting, judge string) (*scene, *grpcVersion) {
	t.Helper()
	v1 := newGRPCVersion(t)
	set.first = v1.address
	set.route = "protocol: grpc"
	set.ramp = "ramp: {steps: [10%, 20%, 100%], hold: 3s}\njudge: {clump: 1, budget: 100000" + judge + "}\n"
	return newScene(t, set), v1
}

func calls(t *testing.T, target string, perSecond int, more ...grpc.DialOption) *caller {
	t.Helper()
	conn, err := grpc.NewClient(target, append(more, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	c := &caller{counts: map[codes.Code]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { c.run(ctx, conn, perSecond); close(done) }()
	t.Cleanup(func() { cancel(); <-done; _ = conn.Close() })
	return c
}

// Only here errors are trailers: a gRPC failure travels as HTTP 200. It is cut as a 503 is, with both sources; a status that
// is no error of the service (NOT_FOUND) is not.
func TestAFailingGRPCStatusIsCut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		envoy, source string
		goal          time.Duration // from the first failure to the last call
	}{{"envoy-oldest", "envoy", 3 * time.Second}, {"envoy-newest", "envoy", 3 * time.Second}, {"envoy-newest", "prometheus", 8 * time.Second}} {
		t.Run(c.source+" "+c.envoy, func(t *testing.T) {
			t.Parallel()
			s, _ := grpcScene(t, setting{envoy: c.envoy, source: c.source, scrape: 2 * time.Second}, "")
			load := calls(t, s.front, 300)
			v2 := newGRPCVersion(t)
			v2.status.Store(uint32(codes.NotFound))
			s.run(0, "deploy", "shop", "v2", "--endpoint", v2.address)
			s.until(40*time.Second, "v2 to advance although it answers NOT_FOUND", func() bool { v := s.Version("shop", "v2"); return v.InForce && v.Weight == 0.2 })
			time.Sleep(5 * time.Second) // the failure comes late, not with the step
			v2.status.Store(uint32(codes.Internal))
			v := s.phase("v2", 40*time.Second, rollout.Failed)
			s.until(10*time.Second, "the cut in force", func() bool { return s.Version("shop", "v1").InForce })
			time.Sleep(500 * time.Millisecond)
			took := time.Duration(v2.last.Load() - v2.onset.Load())
			t.Logf("INTERNAL over HTTP 200 was cut %.2f s after the first one, %d calls failed: %s", took.Seconds(), load.count(codes.Internal), v.Verdict.Reason)
			within(t, "the cut", took, c.goal)
			if n := load.count(codes.Unavailable) + load.count(codes.DeadlineExceeded) + load.count(codes.Unknown); n > 0 {
				t.Errorf("%d calls failed for reasons of canaryd's or Envoy's", n)
			}
		})
	}
}

// Which statuses count is the policy's choice, where the source can tell them apart.
func TestGRPCErrorsByChoice(t *testing.T) {
	t.Parallel()
	s, _ := grpcScene(t, setting{source: "prometheus", scrape: time.Second}, ", grpc_errors: [NOT_FOUND]")
	calls(t, s.front, 300)
	v2 := newGRPCVersion(t)
	s.run(0, "deploy", "shop", "v2", "--endpoint", v2.address)
	s.until(20*time.Second, "v2 in force", func() bool { return s.Version("shop", "v2").InForce && v2.calls.Load() > 0 })
	v2.status.Store(uint32(codes.NotFound))
	s.phase("v2", 30*time.Second, rollout.Failed)
	code, _, _, err := s.Run(t.Context(), "check", s.Dir+"/policies/shop.yml")
	if err != nil || code != 0 {
		t.Errorf("check: exit %d %v", code, err)
	}
}

// A gRPC client without a proxy sees the same weights, and what it reports is judged, apart from what
// Envoy reports.
func TestAClientWithoutAProxy(t *testing.T) {
	t.Parallel()
	s, _ := grpcScene(t, setting{}, "")
	build, err := xds.NewXDSResolverWithConfigForTesting(fmt.Appendf(nil, `{"xds_servers":[{"server_uri":%q,"channel_creds":[{"type":"insecure"}],"server_features":["xds_v3"]}],"node":{"id":"client-1"}}`, s.XDS))
	if err != nil {
		t.Fatal(err)
	}
	load := calls(t, "xds:///shop", 300, grpc.WithResolvers(build.(resolver.Builder)))
	s.until(10*time.Second, "the first answers", func() bool { return load.count(codes.OK) > 10 })
	v2 := newGRPCVersion(t)
	s.run(0, "deploy", "shop", "v2", "--endpoint", v2.address)
	s.until(20*time.Second, "v2 in force at Envoy and client", func() bool { return s.Version("shop", "v2").InForce && v2.calls.Load() > 0 })
	s.until(30*time.Second, "a step up on the client's reports alone", func() bool { v := s.Version("shop", "v2"); return v.InForce && v.Weight == 0.2 })
	before, all := v2.calls.Load(), load.count(codes.OK)
	time.Sleep(2500 * time.Millisecond)
	share := float64(v2.calls.Load()-before) / float64(load.count(codes.OK)-all)
	t.Logf("the client sends %.3f of its calls to v2 at 20 %%", share)
	if share < 0.14 || share > 0.26 {
		t.Errorf("share %.3f", share)
	}
	v2.status.Store(uint32(codes.Internal))
	s.phase("v2", 20*time.Second, rollout.Failed)
	s.until(10*time.Second, "the cut in force", func() bool { return s.Version("shop", "v1").InForce })
	time.Sleep(200 * time.Millisecond)
	at := v2.calls.Load()
	time.Sleep(time.Second)
	if n := v2.calls.Load() - at; n > 0 {
		t.Errorf("%d calls reached v2 after the cut was in force", n)
	}
	if n := load.count(codes.Unavailable); n > 0 {
		t.Errorf("%d calls found no server", n)
	}
}

// Only here Envoy itself leaves an instance out. One bad instance of three: without ejection the release is cut and the
// verdict names the instance; with it Envoy ejects the instance and the release goes on.
func TestABadInstanceIsToldFromABadRelease(t *testing.T) {
	t.Parallel()
	for _, route := range []string{"", "outlier: {errors: 3, eject_for: 1m}", "health_path: /healthz, health_check: {interval: 200ms, timeout: 10s, unhealthy: 2}"} {
		t.Run(strings.TrimSpace(route[:strings.IndexByte(route+":", ':')]), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, setting{route: route, ramp: "ramp: {steps: [20%, 30%, 100%], hold: 5s}\njudge: {clump: 1, budget: 100000}\n"})
			s.load(300)
			var at []string
			var three []*rig.Service
			for range 3 {
				v := s.version("v2")
				three, at = append(three, v), append(at, "--endpoint", v.Address)
			}
			bad := three[1]
			s.run(0, append([]string{"deploy", "shop", "v2"}, at...)...)
			s.until(10*time.Second, "v2 in force", func() bool { return s.Version("shop", "v2").InForce && bad.Count().Requests > 0 })
			bad.Sick(true)
			if strings.Contains(route, "health_check") {
				s.until(5*time.Second, "Envoy to leave the sick one out", func() bool {
					n := bad.Count().Requests
					time.Sleep(300 * time.Millisecond)
					return bad.Count().Requests == n
				})
			}
			bad.Fail(1)
			if route == "" {
				v := s.phase("v2", 20*time.Second, rollout.Failed)
				t.Log(v.Verdict.Reason)
				if !strings.Contains(v.Verdict.Reason, bad.Address) || !strings.Contains(v.Verdict.Reason, "one bad instance") {
					t.Errorf("the verdict does not name %s", bad.Address)
				}
				return
			}
			s.until(30*time.Second, "v2 to go on without the bad instance", func() bool { return s.Version("shop", "v2").Weight == 0.3 })
			t.Logf("%d requests failed on the bad instance", bad.Count().Failed)
			if n := bad.Count().Failed; n > 30 {
				t.Errorf("%d requests failed", n)
			}
		})
	}
}
