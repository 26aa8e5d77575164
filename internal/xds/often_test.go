package xds

import (
	"fmt"
	"slices"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

func TestHowOftenIsWorthIt(t *testing.T) {
	for _, test := range []struct {
		envoys, rows int
		want         time.Duration
	}{{1, 4, 100}, {10, 20, 100}, {100, 20, 200}, {300, 6, 500}, {1000, 20, 1000}, {10, 200, 100}, {10, 20_000, 1000}, {10_000, 4, 1000}} {
		if got := often(test.envoys, test.rows); got != test.want*time.Millisecond {
			t.Errorf("%d Envoys with %d rows: every %s, want %d ms", test.envoys, test.rows, got, test.want)
		}
	}
}

// An Envoy reports ten times a second while something that it has is under judgement, and once a second before and
// after, on the same stream. Another one that has nothing of it goes on as it did, and a gRPC client hears of an interval
// only once.
func TestWhatIsUnderJudgementIsReportedMoreOften(t *testing.T) {
	hub, loads := NewHub(quietLog()), NewLoads(0, func(Report) {})
	l, dial := listen(t)
	s := NewServer(hub, loads, nil)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	for service, cluster := range map[string]string{"shop": "edge", "pay": "other"} {
		tab := table(1, nil)
		tab.Service, tab.Policy.Service, tab.Policy.Route.Nodes = service, service, []string{cluster}
		publish(t, hub, tab)
	}
	begin := func(node *core.Node) lrs {
		e := connect(t, dial(), node.Id, 40)
		e.node = node
		e.subscribe(TypeCluster, "*")
		st, err := loadstats.NewLoadReportingServiceClient(dial()).StreamLoadStats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Send(&loadstats.LoadStatsRequest{Node: node}); err != nil {
			t.Fatal(err)
		}
		return lrs{t, st}
	}
	edge, other := begin(&core.Node{Id: "edge-1", Cluster: "edge"}), begin(&core.Node{Id: "other-1", Cluster: "other"})
	grpcClient := begin(&core.Node{Id: "client-1", Cluster: "edge", UserAgentName: "gRPC Go"})
	for _, st := range []lrs{edge, other, grpcClient} {
		st.told(time.Second)
	}
	ask := func(judged bool) {
		loads.Ask([]Asked{{Cluster: "shop/v1", Endpoints: 2, Judged: judged}, {Cluster: "shop/v2", Endpoints: 2, Judged: judged}, {Cluster: "pay/v1", Endpoints: 1}})
	}
	ask(false)
	edge.told(time.Second, "shop/v1", "shop/v2")
	other.told(time.Second, "pay/v1")
	ask(true)
	edge.told(100*time.Millisecond, "shop/v1", "shop/v2")
	if loads.Often() != 100*time.Millisecond {
		t.Errorf("evidence is said to come every %s", loads.Often())
	}
	second := begin(&core.Node{Id: "edge-2", Cluster: "edge"})
	second.told(100*time.Millisecond, "shop/v1", "shop/v2")
	ask(false)
	edge.told(time.Second, "shop/v1", "shop/v2")
	second.told(time.Second, "shop/v1", "shop/v2")
	if loads.Often() != time.Second {
		t.Errorf("at rest evidence is said to come every %s", loads.Often())
	}
	loads.Ask(nil)
	other.told(time.Second) // and nothing before it
}

// Each report of an Envoy has all of its node, 61 KB. Where many are behind one address they are asked to report so seldom that they
// are read as fast as they write, and only they.
func TestEnvoysBehindOneAddressReportNoMoreThanIsRead(t *testing.T) {
	h := NewHub(quietLog())
	publish(t, h, table(1, nil))
	loads, as := NewLoads(0, func(Report) {}), newAccounts(h)
	askedBy(t, h, Node{ID: "edge"}, TypeCluster, "*")
	begin := func(ip string) *reporter {
		l := as.open(from(ip))
		s := newReporter(h, loads, Node{ID: "edge", Peer: l.RemoteAddr().String(), line: l})
		loads.open(s)
		loads.of(s, list{}, false)
		return s
	}
	every := func(s *reporter) time.Duration {
		l, _ := loads.of(s, list{}, false)
		return l.every
	}
	loads.Ask([]Asked{{Cluster: "shop/v1", Judged: true}, {Cluster: "shop/v2", Judged: true}})
	alone, local := begin("10.0.0.6"), begin("127.0.0.1")
	var crowd []*reporter
	for n, want := range map[int]time.Duration{1: 100 * time.Millisecond, 20: 500 * time.Millisecond, 110: 3 * time.Second, 1000: 20 * time.Second} {
		for len(crowd) < n {
			crowd = append(crowd, begin("10.0.0.5"))
		}
		for ; len(crowd) > n; crowd = crowd[1:] {
			loads.close(crowd[0])
		}
		for _, s := range crowd {
			select {
			case <-s.wake:
			default:
				t.Fatalf("with %d Envoys one is not told anew", n)
			}
			if every := every(s); every != want || float64(n*61<<10)/every.Seconds() > float64(h.Admission.Limits.BytesPerSecond) {
				t.Fatalf("%d Envoys of one address report every %s, want %s", n, every, want)
			}
		}
		least := often(n+2, 0)
		if a, l := every(alone), every(local); a != least || l != least || loads.Often() != least {
			t.Errorf("beside %d others one reports every %s, one of loopback every %s, and evidence is said to come every %s, want %s", n, a, l, loads.Often(), least)
		}
	}
	loads.close(alone)
	loads.close(local)
	if every := every(crowd[0]); loads.Often() != every {
		t.Errorf("all report every %s, and evidence is said to come every %s", every, loads.Often())
	}
}

// told is what the server says next.
func (l lrs) told(every time.Duration, clusters ...string) {
	l.t.Helper()
	r, err := l.st.Recv()
	if err != nil || r.GetLoadReportingInterval().AsDuration() != every || !slices.Equal(r.GetClusters(), clusters) {
		l.t.Fatalf("told %v (%v), want %s and %v", r, err, every, clusters)
	}
}

// Envoy puts the whole node into every report: it is read once.
func TestTheNodeOfALaterReportIsNotDecoded(t *testing.T) {
	meta, err := structpb.NewStruct(map[string]any{"x": "y"})
	if err != nil {
		t.Fatal(err)
	}
	report := &loadstats.LoadStatsRequest{Node: &core.Node{Id: "edge-1", Metadata: meta}}
	for i := range 20 {
		report.ClusterStats = append(report.ClusterStats, loadOf(fmt.Sprintf("shop/v%d", i), uint64(i), 1))
	}
	raw, err := proto.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	got := &loadstats.LoadStatsRequest{}
	b, err := without(raw, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(b, got); err != nil || got.GetNode() != nil || !proto.Equal(&loadstats.LoadStatsRequest{ClusterStats: report.ClusterStats}, got) {
		t.Errorf("%v: %v", err, got)
	}
	if _, err := without([]byte{0x0a, 0x7f}, 1); err == nil {
		t.Error("a message that ends early was taken")
	}
}

// All that may have all clusters have one list of them, and one encoding: a stream of reports costs the same, however many
// there are. Who may not have all has its own.
func TestStreamsOfReportsShareTheListOfClusters(t *testing.T) {
	h := NewHub(quietLog())
	loads := NewLoads(time.Second, func(Report) {})
	var asked []Asked
	for _, name := range []string{"cart", "pay", "shop"} {
		publish(t, h, onListener(name))
		asked = append(asked, Asked{Cluster: name + "/v1"})
	}
	loads.Ask(asked)
	of := func(n Node) list {
		if len(h.speakersOf(n)) == 0 {
			askedBy(t, h, n, TypeCluster, "*")
		}
		l, _ := loads.of(newReporter(h, loads, n), list{}, false)
		return l
	}
	sent := func(l list) []string {
		b, err := codec{}.Marshal(l.response())
		if err != nil {
			t.Fatal(err)
		}
		r := &loadstats.LoadStatsResponse{}
		if err := proto.Unmarshal(b.Materialize(), r); err != nil || !r.ReportEndpointGranularity || r.LoadReportingInterval.AsDuration() != time.Second {
			t.Errorf("%v: %v", err, r)
		}
		return r.Clusters
	}
	all := []string{"cart/v1", "pay/v1", "shop/v1"}
	one, two := of(Node{ID: "edge-1", Cluster: "edge"}), of(Node{ID: "edge-2", Cluster: "other"})
	if &one.clusters[0] != &two.clusters[0] || len(one.common.encode()) == 0 || &one.common.encode()[0] != &two.common.encode()[0] {
		t.Error("two streams have a list each")
	}
	scoped := of(Node{ID: "edge-3", services: []string{"pay"}})
	if !slices.Equal(sent(one), all) || !slices.Equal(sent(scoped), []string{"pay/v1"}) {
		t.Errorf("%v, %v", sent(one), sent(scoped))
	}
	grouped := onListener("pay")
	grouped.Policy.Route.Nodes = []string{"edge"}
	for range 2 {
		publish(t, h, grouped)
		edge, other, third := of(Node{Cluster: "edge"}), of(Node{Cluster: "other"}), of(Node{Cluster: "third"})
		if !slices.Equal(sent(edge), all) || !slices.Equal(sent(other), []string{"cart/v1", "shop/v1"}) || &other.common.encode()[0] != &third.common.encode()[0] {
			t.Errorf("%v, %v, %v", sent(edge), sent(other), sent(third))
		}
		if err := h.Remove("pay"); err != nil {
			t.Fatal(err)
		}
		if other := of(Node{Cluster: "other"}); len(other.common.encode()) == 0 || !slices.Equal(sent(other), all) {
			t.Error("nothing is left of a group, and the list is not shared")
		}
	}
}
