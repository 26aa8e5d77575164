package xds

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

// reports runs a server whose reports come out of a channel. a may change what it admits.
func reports(t *testing.T, a func(*Admission)) (*Hub, *Loads, chan Report, func() *grpc.ClientConn) {
	t.Helper()
	hub, got := NewHub(quietLog()), make(chan Report, 100)
	if a != nil {
		a(&hub.Admission)
	}
	loads := NewLoads(time.Second, func(r Report) { got <- r })
	l, dial := listen(t)
	s := NewServer(hub, loads, nil)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return hub, loads, got, dial
}

// lrs is a stream of load reports.
type lrs struct {
	t  *testing.T
	st loadstats.LoadReportingService_StreamLoadStatsClient
}

// reportsAs opens a stream of load reports. What is counted of one that is refused comes with its first message: there may be no
// second.
func reportsAs(t *testing.T, c *grpc.ClientConn, node string, stats ...*endpoint.ClusterStats) lrs {
	t.Helper()
	st, err := loadstats.NewLoadReportingServiceClient(c).StreamLoadStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(&loadstats.LoadStatsRequest{Node: &core.Node{Id: node, Cluster: "edge"}, ClusterStats: stats}); err != nil {
		t.Fatal(err)
	}
	return lrs{t, st}
}

func (l lrs) send(stats ...*endpoint.ClusterStats) {
	l.t.Helper()
	if err := l.st.Send(&loadstats.LoadStatsRequest{ClusterStats: stats}); err != nil {
		l.t.Fatal(err)
	}
}

func loadOf(cluster string, ok, failed uint64) *endpoint.ClusterStats {
	return &endpoint.ClusterStats{ClusterName: cluster, LoadReportInterval: durationpb.New(time.Second),
		UpstreamLocalityStats: []*endpoint.UpstreamLocalityStats{{TotalSuccessfulRequests: ok, TotalErrorRequests: failed}}}
}

// counted waits until so much was refused for a reason.
func counted(t *testing.T, h *Hub, reason Reason, want int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); h.Figures().Refused[reason] != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("refused: %v, want %s %d", h.Figures().Refused, reason, want)
		}
	}
}

// accepted waits until a node is known to have accepted a cluster.
func accepted(t *testing.T, h *Hub, node, cluster string) {
	t.Helper()
	has := func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, s := range h.sessions {
			if s.ID == node && s.has(cluster) {
				return true
			}
		}
		return false
	}
	for deadline := time.Now().Add(time.Minute); !has(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s never accepted %s", node, cluster)
		}
	}
}

func TestReportsCountFromWhoHasTheCluster(t *testing.T) {
	h, loads, got, dial := reports(t, nil)
	publish(t, h, table(1, map[string]int{"v2": 100}))
	connect(t, dial(), "edge-1", 40).start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)

	stranger := reportsAs(t, dial(), "nobody-knows-me")
	stranger.send(loadOf("shop/v2", 0, 1000))
	counted(t, h, unknownNode, 1)
	dump := connect(t, dial(), "dump", 40)
	dump.node = Dump{NodeID: "dump", Cluster: "edge"}.node()
	dump.start("shop", "shop/v1", "shop/v2")
	reportsAs(t, dial(), "dump").send(loadOf("shop/v2", 0, 1000))
	counted(t, h, unknownNode, 2)
	newcomer := connect(t, dial(), "edge-2", 40) // it has v1 and no more
	newcomer.subscribe(TypeCluster, "shop/v1")
	newcomer.ack(newcomer.expect(TypeCluster))
	accepted(t, h, "edge-2", "shop/v1") // the report comes on another connection, and may overtake that
	second := reportsAs(t, dial(), "edge-2")
	second.send(loadOf("shop/v2", 0, 1000), loadOf("shop/v1", 90, 10), loadOf("pay/v1", 1, 1), loadOf("", 1, 1))
	counted(t, h, unknownCluster, 3)
	if r := <-got; r.Node != "edge-2" || len(r.Clusters) != 1 || r.Clusters["shop/v1"].Counts.Errors != 10 {
		t.Errorf("%+v", r)
	}
	if !slices.Equal(loads.Nodes(), []string{"edge-2"}) {
		t.Errorf("nodes %v", loads.Nodes())
	}

	reportsAs(t, dial(), "edge-1").send(loadOf("shop/v2", 50, 50))
	first := <-got
	reportsAs(t, dial(), "edge-1").send(loadOf("shop/v2", 70, 30)) // beside the first one, not in its place
	other := <-got
	if first.Stream == other.Stream || first.Clusters["shop/v2"].Counts.Errors != 50 || other.Clusters["shop/v2"].Counts.Errors != 30 {
		t.Errorf("%+v %+v", first, other)
	}
	if len(got) != 0 {
		t.Errorf("%d more reports", len(got))
	}
}

func TestReportsEndWithTheADSStream(t *testing.T) {
	h, _, got, dial := reports(t, nil)
	publish(t, h, table(1, nil))
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1")
	inForce(t, h, 1)
	l := reportsAs(t, dial(), "edge-1")
	l.send(loadOf("shop/v1", 1, 0))
	<-got
	e.cancel()
	waitStatus(t, h, "gone", func(s Status) bool { return s.Counts.Gone == 1 })
	l.send(loadOf("shop/v1", 1, 0))
	counted(t, h, unknownNode, 1)
	if len(h.speakers) != 0 {
		t.Errorf("%v", h.speakers)
	}
}

func TestImplausibleReportsAreNotCounted(t *testing.T) {
	at := func(ok, failed uint64) []*endpoint.UpstreamEndpointStats {
		return []*endpoint.UpstreamEndpointStats{{TotalSuccessfulRequests: ok, TotalErrorRequests: failed}}
	}
	for _, c := range []struct {
		name     string
		interval time.Duration
		ok, err  uint64
		dropped  uint64
		ends     []*endpoint.UpstreamEndpointStats
		want     string
	}{
		{name: "as Envoy counts", interval: time.Second, ok: 90, err: 8, dropped: 2, ends: at(90, 8)},
		{name: "after a break", interval: 5 * time.Minute, ok: 1e6},
		{name: "no interval", ok: 5},
		{name: "negative", interval: -time.Second, ok: 5, want: "an interval of -1s"},
		{name: "long", interval: 5*time.Minute + 1, ok: 5, want: "an interval of 5m0"},
		{name: "overflow", interval: time.Second, ok: math.MaxUint64, err: 2, want: "requests in 1s"},
		{name: "too many", interval: time.Second, ok: 1e9, want: "1000000000 requests in 1s"},
		{name: "dropped too many", interval: time.Second, dropped: math.MaxUint64, want: "dropped requests in 1s"},
		{name: "more errors at an endpoint", interval: time.Second, ok: 90, err: 8, ends: at(0, 9), want: "9 errors in 9 requests of :0, more"},
		{name: "more requests at an endpoint", interval: time.Second, ok: 90, err: 8, ends: at(99, 0), want: "more than of the cluster"},
	} {
		cs := &endpoint.ClusterStats{ClusterName: "shop/v1", LoadReportInterval: durationpb.New(c.interval), TotalDroppedRequests: c.dropped,
			UpstreamLocalityStats: []*endpoint.UpstreamLocalityStats{{TotalSuccessfulRequests: c.ok, TotalErrorRequests: c.err, UpstreamEndpointStats: c.ends}}}
		load, err := read(cs, ClusterLoad{})
		if c.want == "" && (err != nil || load.Counts.Requests != float64(c.ok+c.err) || load.Counts.Errors != float64(c.err) || load.Dropped != float64(c.dropped)) {
			t.Errorf("%s: %+v %v", c.name, load, err)
		}
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	h, _, got, dial := reports(t, nil)
	publish(t, h, table(1, nil))
	connect(t, dial(), "edge-1", 40).start("shop", "shop/v1")
	inForce(t, h, 1)
	l := reportsAs(t, dial(), "edge-1")
	l.send(loadOf("shop/v1", math.MaxUint64, 2))
	counted(t, h, badNumbers, 1)
	l.send(loadOf("shop/v1", 3, 1))
	if r := <-got; r.Clusters["shop/v1"].Counts.Requests != 4 {
		t.Errorf("%+v", r)
	}
}
