package xds

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/canaryd/canaryd/internal/analysis"
)

// metricsAt are metrics as Envoy reports them.
func metricsAt(counts map[string]uint64) (all []*endpoint.EndpointLoadMetricStats) {
	for name, n := range counts {
		all = append(all, &endpoint.EndpointLoadMetricStats{MetricName: name, NumRequestsFinishedWithMetric: n, TotalMetricValue: 7})
	}
	return all
}

func endpointAt(port uint32, ok, failed uint64, counts map[string]uint64) *endpoint.UpstreamEndpointStats {
	return &endpoint.UpstreamEndpointStats{TotalSuccessfulRequests: ok, TotalErrorRequests: failed, TotalIssuedRequests: ok + failed, LoadMetricStats: metricsAt(counts),
		Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: "10.0.0.1", PortSpecifier: &core.SocketAddress_PortValue{PortValue: port}}}}}
}

// sums are answers by kind.
func sums(as []analysis.Answered) map[analysis.Answered]float64 {
	out := map[analysis.Answered]float64{}
	for _, a := range as {
		n := a.N
		a.N = 0
		out[a] += n
	}
	return out
}

func TestAnswersAreReadByEndpointClassAndCode(t *testing.T) {
	cs := loadOf("shop/v1", 95, 5)
	loc := cs.UpstreamLocalityStats[0]
	loc.TotalIssuedRequests = 104
	loc.UpstreamEndpointStats = []*endpoint.UpstreamEndpointStats{
		endpointAt(1, 50, 2, map[string]uint64{"named_metrics.checkout.200": 30, "named_metrics.checkout.503": 2, "named_metrics.rest.404": 20, "named_metrics.ms.12": 52}),
		endpointAt(2, 40, 0, map[string]uint64{"named_metrics.checkout.200": 40, "named_metrics.ms.0": 39, "named_metrics.ms.99999999999": 1, "named_metrics.ms.-": 1}),
	}
	// Of an endpoint that is gone only the sum says anything.
	loc.LoadMetricStats = metricsAt(map[string]uint64{"named_metrics.checkout.200": 75, "named_metrics.checkout.503": 2, "named_metrics.rest.404": 20, "named_metrics.ms.12": 52, "named_metrics.ms.0": 39})
	load, err := read(cs, ClusterLoad{})
	if err != nil || load.believed() != nil {
		t.Fatal(err, load.believed())
	}
	want := map[analysis.Answered]float64{{Endpoint: "10.0.0.1:1", Class: "checkout", Code: "200", N: 0}: 30, {Endpoint: "10.0.0.1:1", Class: "checkout", Code: "503", N: 0}: 2, {Endpoint: "10.0.0.1:1", Class: "rest", Code: "404", N: 0}: 20, {Endpoint: "10.0.0.1:2", Class: "checkout", Code: "200", N: 0}: 40, {Endpoint: "", Class: "checkout", Code: "200", N: 0}: 5}
	if !maps.Equal(sums(load.Answers), want) {
		t.Errorf("%v\nwant %v", load.Answers, want)
	}
	slices.SortFunc(load.Took, func(a, b analysis.Took) int {
		return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Millis, b.Millis))
	})
	if took := []analysis.Took{{Endpoint: "10.0.0.1:1", Millis: 12, N: 52}, {Endpoint: "10.0.0.1:2", Millis: 0, N: 39}, {Endpoint: "10.0.0.1:2", Millis: longestMillis, N: 1}}; !slices.Equal(load.Took, took) {
		t.Errorf("%v", load.Took)
	}
	if load.Issued != 104 || load.Counts.Requests != 100 {
		t.Errorf("%+v", load)
	}
}

func TestMetricsOfOthersAreLeftOut(t *testing.T) {
	var load ClusterLoad
	for _, name := range []string{"", "cpu_utilization", "named_metrics.", "named_metrics.checkout", "named_metrics.checkout.", "named_metrics.checkout.x", "named_metrics.checkout.99", "named_metrics.checkout.1000",
		"named_metrics.checkout.0200", "named_metrics.checkout.+20", "named_metrics.checkout.g", "named_metrics.checkout.g-1", "named_metrics.checkout.g100", "named_metrics.ms.-3", "checkout.200", "named_metrics.checkout.200.5"} {
		load.metric("e", name, 1)
	}
	if len(load.Answers)+len(load.Took) > 0 {
		t.Errorf("%+v", load)
	}
	load.metric("e", "named_metrics.-.g14", 2)
	load.metric("e", "named_metrics."+strings.Repeat("x", 40)+".200", 3)
	if want := (map[analysis.Answered]float64{{Endpoint: "e", Class: "-", Code: "grpc-14", N: 0}: 2, {Endpoint: "e", Class: "rest", Code: "200", N: 0}: 3}); !maps.Equal(sums(load.Answers), want) {
		t.Errorf("%v", load.Answers)
	}
}

// What cannot be is left out, and counted; the requests of the report count all the same.
func TestAnswersThatCannotBeAreNotCounted(t *testing.T) {
	h, _, got, dial := reports(t, func(a *Admission) { a.Limits.MetricsPerReport = 10 })
	publish(t, h, table(1, nil))
	connect(t, dial(), "edge-1", 40).start("shop", "shop/v1")
	inForce(t, h, 1)
	l := reportsAs(t, dial(), "edge-1")
	report := func(counts map[string]uint64) ClusterLoad {
		cs := loadOf("shop/v1", 1000, 0)
		cs.UpstreamLocalityStats[0].LoadMetricStats = metricsAt(counts)
		l.send(cs)
		return (<-got).Clusters["shop/v1"]
	}
	if c := report(map[string]uint64{"named_metrics.rest.200": 1100}); sums(c.Answers)[analysis.Answered{Endpoint: "", Class: "rest", Code: "200", N: 0}] != 1100 {
		t.Errorf("a few more answers than requests, as they are read one after the other: %+v", c)
	}
	for i, counts := range []map[string]uint64{{"named_metrics.rest.200": 1300}, {"named_metrics.ms.5": 1300}, {"named_metrics.rest.200": math.MaxUint64}} {
		if c := report(counts); c.Answers != nil || c.Took != nil || c.Counts.Requests != 1000 {
			t.Errorf("%v: %+v", counts, c)
		}
		counted(t, h, badNumbers, i+1)
	}
	many := map[string]uint64{}
	for i := range 11 {
		many[fmt.Sprint("named_metrics.rest.", 200+i)] = 1
	}
	if c := report(many); c.Answers != nil || c.Counts.Requests != 1000 {
		t.Errorf("%+v", c)
	}
	counted(t, h, overMetrics, 1)
}

func TestAReportAfterABreakIsReadAsOne(t *testing.T) {
	load := ClusterLoad{}
	for range 2 {
		cs := &endpoint.ClusterStats{ClusterName: "shop/v1", LoadReportInterval: durationpb.New(time.Second), UpstreamLocalityStats: []*endpoint.UpstreamLocalityStats{
			{TotalSuccessfulRequests: 5, TotalIssuedRequests: 5, LoadMetricStats: metricsAt(map[string]uint64{"named_metrics.a.200": 5})},
		}}
		var err error
		if load, err = read(cs, load); err != nil {
			t.Fatal(err)
		}
	}
	if load.Issued != 10 || sums(load.Answers)[analysis.Answered{Endpoint: "", Class: "a", Code: "200", N: 0}] != 10 {
		t.Errorf("%+v", load)
	}
}

// Whatever an upstream or an Envoy writes: what is taken in has a class and a code that fit, or a duration that can be.
func FuzzMetric(f *testing.F) {
	for _, name := range []string{"named_metrics.checkout.200", "named_metrics.rest.g14", "named_metrics.ms.151", "named_metrics.ms.-", "named_metrics..", "cpu_utilization", "named_metrics.-.503"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		var load ClusterLoad
		load.metric("e", name, 1)
		if len(load.Answers)+len(load.Took) > 1 {
			t.Fatalf("%q counts twice: %+v", name, load)
		}
		for _, a := range load.Answers {
			n, grpc := strings.CutPrefix(a.Code, "grpc-")
			if code, err := strconv.Atoi(n); err != nil || grpc && (code < 0 || code > 99) || !grpc && (code < 100 || code > 999) || a.Class == "" || len(a.Class) > classLetters || strings.Contains(a.Class, ".") {
				t.Fatalf("%q: %+v", name, a)
			}
		}
		for _, k := range load.Took {
			if k.Millis < 0 || k.Millis > longestMillis {
				t.Fatalf("%q: %+v", name, k)
			}
		}
	})
}
