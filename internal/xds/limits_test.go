package xds

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ends waits for the end of a stream.
func (e *envoy) ends(want codes.Code, words string) {
	e.t.Helper()
	for {
		select {
		case _, ok := <-e.in:
			if ok {
				continue
			}
			_, err := e.stream.Recv()
			if status.Code(err) != want || !strings.Contains(err.Error(), words) {
				e.t.Errorf("the stream ended with %v, want %s and %q", err, want, words)
			}
			return
		case <-time.After(time.Minute):
			e.t.Fatal("the stream never ended")
		}
	}
}

func invented(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("shop/x", i)
	}
	return names
}

func TestNobodyAsksForMoreThanTheLimits(t *testing.T) {
	h, _, _, dial := reports(t, func(a *Admission) {
		a.Limits.NamesPerType, a.Limits.RequestBytes, a.Limits.StreamsPerPeer = 100, 1<<20, 3
	})
	h.penalties.least = 0
	publish(t, h, table(1, nil))

	e := connect(t, dial(), "edge-1", 40)
	e.subscribe("type.googleapis.com/evil.v1.Type") // not answered, and the stream goes on
	e.start("shop", "shop/v1")
	counted(t, h, overTypes, 1)
	e.subscribe(TypeEndpoint, invented(99)...) // with shop/v1 these are a hundred
	e.subscribe(TypeEndpoint, append(invented(99), "shop/v1")...)
	e.subscribe(TypeEndpoint, "shop/one-more")
	e.ends(codes.ResourceExhausted, "101 names of type endpoint: see xds.limits.names_per_type")
	counted(t, h, overNames, 1)

	e = connect(t, dial(), "edge-1", 40)
	e.subscribe(TypeRoute, strings.Repeat("x", 1000))
	e.ends(codes.ResourceExhausted, "a name of 1000 bytes")
	e = connect(t, dial(), "edge-1", 40)
	e.subscribe(TypeRoute, invented(101)...)
	e.ends(codes.ResourceExhausted, "101 names in one request")
	e = connect(t, dial(), "edge-1", 40)
	e.subscribe(TypeRoute, strings.Repeat("x", 2<<20))
	e.ends(codes.ResourceExhausted, "larger than max")
	counted(t, h, overRequest, 1)
	e = connect(t, dial(), strings.Repeat("x", 1000), 40)
	e.subscribe(TypeRoute, "shop")
	e.ends(codes.InvalidArgument, "node.id has 1000 bytes")
	e = connect(t, dial(), "", 40)
	e.subscribe(TypeRoute, "shop")
	e.ends(codes.InvalidArgument, "no node.id")
	counted(t, h, badNode, 2)

	c := dial()
	for i := range 3 {
		connect(t, c, fmt.Sprint("edge-", i), 40).start("shop", "shop/v1")
	}
	connect(t, dial(), "edge-3", 40).ends(codes.ResourceExhausted, "bufconn has 3 streams already: see xds.limits.streams_per_peer")
	counted(t, h, overStreams, 1)
}

func TestASilentStreamEnds(t *testing.T) {
	h, _, _, dial := reports(t, func(a *Admission) { a.Limits.FirstMessage = 50 * time.Millisecond })
	connect(t, dial(), "silent", 40).ends(codes.DeadlineExceeded, "no message arrived within 50ms")
	counted(t, h, overFirst, 1)
}

func TestWhatAnEnvoySaysIsBounded(t *testing.T) {
	h, _, got, dial := reports(t, func(a *Admission) {
		a.Limits.RefusalBytes, a.Limits.EndpointsPerReport, a.Limits.ReportsPerSecond = 100, 2, 2
	})
	publish(t, h, table(1, nil))
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1")
	inForce(t, h, 1)
	publish(t, h, table(2, map[string]int{"v2": 1}))
	e.nack(e.expect(TypeCluster), "bad "+strings.Repeat("é", 2000))
	s := waitStatus(t, h, "refused", func(s Status) bool { return len(s.Nodes) == 1 && s.Nodes[0].Why != "" })
	if why := s.Nodes[0].Why; !strings.HasPrefix(why, "bad éé") || len(why) > 100 {
		t.Errorf("%d bytes: %q", len(why), why)
	}
	counted(t, h, overRefusal, 1)

	l := reportsAs(t, dial(), "edge-1")
	many := loadOf("shop/v1", 100, 3)
	for range 3 {
		many.UpstreamLocalityStats[0].UpstreamEndpointStats = append(many.UpstreamLocalityStats[0].UpstreamEndpointStats, &endpoint.UpstreamEndpointStats{TotalErrorRequests: 1})
	}
	l.send(many)
	if r := <-got; r.Clusters["shop/v1"].Counts.Errors != 3 || len(r.Clusters["shop/v1"].Endpoints) != 0 {
		t.Errorf("%+v", r)
	}
	counted(t, h, overEndpoints, 1)
	for range 5 {
		l.send(loadOf("shop/v1", 1, 0))
	}
	for deadline := time.Now().Add(time.Minute); h.Figures().Refused[overReports] == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("five reports at once, of two in a second, were all counted")
		}
	}
}

// An Envoy that is asked to connect again is as good as one that stayed: it brings along what it has, is sent
// nothing, and nobody waits for it.
func TestAConnectionAgesWithoutHarm(t *testing.T) {
	h, _, _, dial := reports(t, func(a *Admission) { a.Limits.ConnectionAge = 200 * time.Millisecond })
	publish(t, h, table(1, map[string]int{"v2": 100}))
	c := dial()
	e := connect(t, c, "edge-1", 40)
	e.start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)
	for range 2 {
		e.ends(codes.Unavailable, "")
		gone := time.Now()
		e = connect(t, c, "edge-1", 40)
		e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, InitialResourceVersions: versions(h, TypeCluster)})
		e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeEndpoint, ResourceNamesSubscribe: []string{"shop/v1", "shop/v2"}, InitialResourceVersions: versions(h, TypeEndpoint)})
		e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"shop"}, InitialResourceVersions: versions(h, TypeRoute)})
		inForce(t, h, 1)
		t.Logf("in force again %s after the connection ended", time.Since(gone).Round(time.Millisecond))
		select {
		case r, ok := <-e.in: // Envoy waits for an answer to a wildcard, even an empty one
			if ok && len(r.Resources)+len(r.RemovedResources) > 0 {
				t.Errorf("it was sent %v", names(r))
			}
		case <-time.After(80 * time.Millisecond):
		}
	}
}

// faithful is an Envoy that accepts everything, until it ends.
func faithful(t *testing.T, c *grpc.ClientConn, id string) {
	t.Helper()
	e := connect(t, c, id, 40)
	e.start("shop", "shop/v1", "shop/v2")
	go func() {
		for r := range e.in {
			if e.stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}) != nil {
				return
			}
		}
	}()
}

// hostile does everything that is not done, again and again, until ctx ends.
func hostile(ctx context.Context, dial func() *grpc.ClientConn) {
	ads := func(c *grpc.ClientConn, node string) discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient {
		st, err := discovery.NewAggregatedDiscoveryServiceClient(c).DeltaAggregatedResources(ctx)
		if err != nil {
			runtime.Goexit() // the test has ended
		}
		if node != "" {
			_ = st.Send(&discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: node, Cluster: "edge"}, TypeUrl: TypeCluster})
		}
		return st
	}
	drain := func(st discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient) { // until it ends
		_ = st.CloseSend()
		for st.RecvMsg(&discovery.DeltaDiscoveryResponse{}) == nil {
		}
	}
	big := loadOf("shop/v1", 1<<40, 1<<40)
	for i := range 100_000 {
		big.UpstreamLocalityStats[0].UpstreamEndpointStats = append(big.UpstreamLocalityStats[0].UpstreamEndpointStats,
			&endpoint.UpstreamEndpointStats{TotalErrorRequests: uint64(i), Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: fmt.Sprint("10.0.", i)}}}})
	}
	report := func(c *grpc.ClientConn, node string, n int, stats *endpoint.ClusterStats) {
		st, err := loadstats.NewLoadReportingServiceClient(c).StreamLoadStats(ctx)
		if err != nil || st.Send(&loadstats.LoadStatsRequest{Node: &core.Node{Id: node}}) != nil {
			return
		}
		for range n {
			if st.Send(&loadstats.LoadStatsRequest{ClusterStats: []*endpoint.ClusterStats{stats}}) != nil {
				break
			}
		}
		_ = st.CloseSend()
		for st.RecvMsg(&loadstats.LoadStatsResponse{}) == nil {
		}
	}
	half := invented(500_000)
	for _, attack := range []func(*grpc.ClientConn){
		func(c *grpc.ClientConn) { // names: over the limit, and as many as are allowed
			for _, n := range []int{500_000, 90_000} {
				st := ads(c, "names")
				_ = st.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: half[:n]})
				time.Sleep(100 * time.Millisecond)
				drain(st)
			}
		},
		func(c *grpc.ClientConn) { // types
			st := ads(c, "types")
			for i := range 20_000 {
				if st.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: fmt.Sprint("type.googleapis.com/evil.v1.T", i), ResourceNamesSubscribe: []string{"a"}}) != nil {
					break
				}
			}
			drain(st)
		},
		func(c *grpc.ClientConn) { // a stream that is never read, and one that never speaks
			for range 40 {
				ads(c, "deaf")
				ads(c, "")
			}
			<-ctx.Done()
		},
		func(c *grpc.ClientConn) { // a message that is too long
			st := ads(c, "long")
			_ = st.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{strings.Repeat("x", 17<<20)}})
			drain(st)
		},
		func(c *grpc.ClientConn) { // many reports of a node that nobody knows
			report(c, "forged", 50, loadOf("shop/v2", 0, 1000))
		},
		func(c *grpc.ClientConn) { // a big report of a node that has the cluster
			st := ads(c, "reporter")
			r, err := st.Recv()
			if err != nil {
				return
			}
			_ = st.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResponseNonce: r.GetNonce()})
			report(c, "reporter", 2, big)
			drain(st)
		},
		func(c *grpc.ClientConn) { // a monstrous node
			drain(ads(c, strings.Repeat("x", 1<<20)))
		},
	} {
		c := dial()
		go func() {
			for ctx.Err() == nil {
				attack(c)
				time.Sleep(20 * time.Millisecond)
			}
		}()
	}
}

// Beside a hostile client twenty honest ones go on: what they cost is measured, what it costs canaryd is
// bounded, and afterwards nothing is left of it.
func TestAHostileClientIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	h, _, got, dial := reports(t, func(a *Admission) { a.Limits.FirstMessage = 3 * time.Second })
	go func() { // evidence that nobody asked for
		for range got {
		}
	}()
	publish(t, h, table(1, map[string]int{"v2": 100}))
	for i := range 20 {
		faithful(t, dial(), fmt.Sprint("edge-", i))
	}
	inForce(t, h, 1)
	generation := uint64(1)
	cuts := func(n int) (took []time.Duration) {
		for range n {
			generation += 2
			publish(t, h, table(generation-1, map[string]int{"v2": 5000}))
			applied(t, h, generation-1)
			at := time.Now()
			publish(t, h, table(generation, map[string]int{"v2": 0}, "v2"))
			applied(t, h, generation)
			took = append(took, time.Since(at).Round(100*time.Microsecond))
		}
		return took
	}
	subs, before := len(h.subs), heapInUse()
	calm := cuts(20)
	ctx, stop := context.WithCancel(t.Context())
	hostile(ctx, dial)
	var rough, held []time.Duration
	peak := uint64(0)
	probed := make(chan struct{})
	go func() { // how long who publishes a cut waits for the mutex
		defer close(probed)
		for ctx.Err() == nil {
			at := time.Now()
			h.mu.Lock()
			held = append(held, time.Since(at).Round(time.Microsecond))
			h.mu.Unlock()
			time.Sleep(time.Millisecond)
		}
	}()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		rough = append(rough, cuts(5)...)
		peak = max(peak, heapInUse())
	}
	for _, reason := range []Reason{overTypes, overNames, overRequest, overFirst, overReports, overEndpoints, unknownNode, badNumbers, badNode, overPace, overPause} {
		for deadline := time.Now().Add(time.Minute); h.Figures().Refused[reason] == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s has not moved: %v", reason, h.Figures().Refused)
			}
		}
	}
	stop()
	<-probed
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		h.mu.Lock()
		sessions, left := len(h.sessions), len(h.subs)
		h.mu.Unlock()
		if sessions == 20 && left == subs {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d streams and %d subscriptions are left, want 20 and %d", sessions, left, subs)
		}
	}
	for what, took := range map[string][]time.Duration{"a cut alone": calm, "a cut beside it": rough, "the hub's mutex beside it": held} {
		slices.Sort(took)
		t.Logf("%s: %s in the median, %s at most, of %d", what, took[len(took)/2], took[len(took)-1], len(took))
	}
	t.Logf("heap: %d MiB alone, %d beside it at most, %d afterwards; refused %v", before>>20, peak>>20, heapInUse()>>20, h.Figures().Refused)
}

// applied waits until the twenty have a generation.
func applied(t *testing.T, h *Hub, generation uint64) {
	t.Helper()
	waitStatus(t, h, "applied", func(s Status) bool { return s.Generation == generation && s.Counts.Applied == 20 })
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
