package metrics

import (
	"fmt"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

func reported(node string, to time.Time, requests float64) Report {
	return Report{Node: node, From: to.Add(-time.Second), To: to,
		Counts: map[string]map[string]analysis.Counts{
			"shop":  {"v1": {Requests: requests}, "v1.2": {Requests: 1, Errors: 1}, "v0": {Requests: 7}},
			"other": {"v1": {Requests: 1e6}},
		},
		Slices: map[string]map[string]map[string]analysis.Counts{"shop": {"v1": {"10.0.0.1:80": {Requests: requests}}}},
	}
}

// A loop that does not come for its evidence costs a few cells per Envoy, however many reports arrive.
func TestReportsAreSummedWhileTheLoopIsBusy(t *testing.T) {
	e := NewEnvoy(everySecond, func() []string { return nil })
	e.Watch([]Target{shop})
	base := time.Now()
	for i := range 1000 {
		for _, node := range []string{"b", "a"} {
			e.Add(reported(node, base.Add(time.Duration(i)*time.Second), 10))
		}
	}
	if n := len(e.targets["shop"].counts); n != 2 {
		t.Errorf("%d cells are kept", n)
	}
	evs := e.round(base)
	if len(evs) != 1 || len(evs[0].Cells) != 2*apartMost {
		t.Fatalf("%+v", evs)
	}
	for i, want := range []string{"a", "b"} {
		c := rollout.Cell{}
		for _, part := range evs[0].Cells[i*apartMost : (i+1)*apartMost] {
			from := c.From
			if c.Join(part); !from.IsZero() {
				c.From = from
			}
		}
		if c.Slice != want || c.Counts["v1"].Requests != 10_000 || c.Counts["v1.2"] != (analysis.Counts{Requests: 1000, Errors: 1000}) || len(c.Counts) != 2 ||
			!c.From.Equal(base.Add(-time.Second)) || !c.To.Equal(base.Add(999*time.Second)) || c.Endpoints["v1"][0].Requests != 10_000 {
			t.Errorf("%+v", c)
		}
	}
	if evs = e.round(base); len(cellsOf(evs)) != 0 {
		t.Errorf("counted twice: %+v", evs)
	}
}

func TestWhoeverReportsIsBounded(t *testing.T) {
	e := NewEnvoy(everySecond, func() []string { return nil })
	e.Watch([]Target{shop})
	for i := range reportersMost + 100 {
		e.Add(reported(fmt.Sprint(i), time.Now(), 1))
	}
	if n := len(e.targets["shop"].counts); n != reportersMost || e.Figures().Failures != 100 {
		t.Errorf("%d cells are kept, %d failures", n, e.Figures().Failures)
	}
}

// Two Envoys with one node.id are two cells, each with what it served itself, by its last report.
func TestACellSaysWhatItsEnvoyServed(t *testing.T) {
	e := NewEnvoy(everySecond, func() []string { return nil })
	e.Watch([]Target{shop})
	began := time.Now()
	share := func(stream, i int) int { return stream*1000 + i }
	for i := range 2 * apartMost {
		for _, stream := range []int{1, 2} {
			r := reported("a", began.Add(time.Duration(i)*time.Second), 1)
			r.Stream, r.Served = uint64(stream), map[string]Served{"shop": {[]rollout.Run{{Version: "v1", Count: share(stream, i)}}, began.Add(time.Duration(i))}}
			e.Add(r)
		}
	}
	found := map[int]bool{}
	for _, c := range cellsOf(e.round(time.Now())) {
		found[c.Has[0].Count] = c.HasSince.Equal(began.Add(time.Duration(c.Has[0].Count % 1000)))
	}
	for _, stream := range []int{1, 2} {
		for _, i := range []int{0, 1, 2, 2*apartMost - 1} {
			if !found[share(stream, i)] {
				t.Errorf("stream %d, report %d: %v", stream, i, found)
			}
		}
	}
}

// A report whose Envoy serves nobody knows what says so: it is no source that knows of none.
func TestACellSaysThatItsEnvoysTableIsUnknown(t *testing.T) {
	e := NewEnvoy(everySecond, func() []string { return nil })
	e.Watch([]Target{shop})
	known, unknown := reported("a", time.Now(), 1), reported("b", time.Now(), 1)
	known.Served = map[string]Served{"shop": {[]rollout.Run{{Version: "v1", Count: 10000}}, time.Now()}}
	e.Add(known)
	e.Add(unknown)
	for _, c := range cellsOf(e.round(time.Now())) {
		if c.Unknown != (c.Slice == "b") {
			t.Errorf("%s: unknown %v", c.Slice, c.Unknown)
		}
	}
}

// An Envoy and a gRPC client of the same name count differently: they are never one cell.
func TestAClientIsNoEnvoy(t *testing.T) {
	e := NewEnvoy(everySecond, func() []string { return nil })
	e.Watch([]Target{shop})
	r := reported("n", time.Now(), 1)
	e.Add(r)
	r.Proxy = rollout.Client
	e.Add(r)
	if cells := cellsOf(e.round(time.Now())); len(cells) != 2 || cells[0].Proxy == cells[1].Proxy {
		t.Errorf("%+v", cells)
	}
}

// What pending drops is no error in a load report, what requests drops is one of the endpoint's.
func TestWhatCircuitBreakersDropIsNoEvidence(t *testing.T) {
	for _, c := range []struct {
		limited bool
		proxy   rollout.Proxy
	}{{false, 0}, {true, 0}, {true, rollout.Client}} {
		e := NewEnvoy(everySecond, func() []string { return nil })
		target := shop
		target.Limited = c.limited
		e.Watch([]Target{target})
		r := reported("a", time.Now(), 100)
		r.Proxy = c.proxy
		r.Counts["shop"]["v1.2"] = analysis.Counts{Requests: 50, Errors: 12}
		r.Slices = map[string]map[string]map[string]analysis.Counts{"shop": {"v1.2": {"x:1": {Requests: 20, Errors: 3}, "y:1": {Requests: 30, Errors: 9}}}}
		r.Dropped = map[string]map[string]float64{"shop": {"v1.2": 8, "v1": 5}}
		e.Add(r)
		cell := e.round(time.Now())[0].Cells[0]
		want, endpoint := analysis.Counts{Requests: 50, Errors: 12}, analysis.Counts{Requests: 30, Errors: 9}
		if c.limited && c.proxy != rollout.Client {
			want, endpoint = analysis.Counts{Requests: 42, Errors: 4}, analysis.Counts{Requests: 24, Errors: 3}
		}
		if got := cell.Counts["v1.2"]; got != want || cell.Counts["v1"].Requests != 100 || cell.Endpoints["v1.2"][1].Counts != endpoint {
			t.Errorf("%+v: %+v", c, cell)
		}
		if got := e.Dropped("shop"); len(got) != 2 || got[0] != (Dropped{"v1", 5, 5}) || got[1] != (Dropped{"v1.2", 8, 8}) {
			t.Errorf("dropped: %+v", got)
		}
	}
}

func TestDropsAreShownForAMinuteAndKeptForAnHour(t *testing.T) {
	var d drops
	base := time.Now()
	for i := range 10_000 {
		d.add("shop", "v1", 1, base.Add(time.Duration(i)*10*time.Millisecond))
	}
	end := base.Add(100 * time.Second)
	if got := d.at("shop", end); len(got) != 1 || got[0].Total != 10_000 || got[0].Lately < 5900 || got[0].Lately > 6100 {
		t.Errorf("%+v", got)
	}
	if n := len(d.services["shop"]["v1"].times); n > 61 {
		t.Errorf("%d moments are kept", n)
	}
	d.keep([]Target{{Service: "shop", Versions: []string{"v2"}}}, end.Add(time.Minute))
	if got := d.at("shop", end.Add(time.Minute)); len(got) != 1 || got[0].Lately != 0 {
		t.Errorf("after a minute: %+v", got)
	}
	d.keep([]Target{{Service: "shop", Versions: []string{"v1"}}}, end.Add(3*time.Hour))
	if len(d.at("shop", end)) != 1 {
		t.Error("a version that is looked at was forgotten")
	}
	d.keep(nil, end.Add(2*time.Hour))
	if len(d.services) != 0 {
		t.Errorf("%+v", d.services)
	}
}

// An overflow of a gRPC service is counted as 503 and, where grpc_stats runs, as UNAVAILABLE.
func TestADroppedCallIsNoErrorTwice(t *testing.T) {
	base := time.Now().Add(-30 * time.Second).Truncate(time.Second)
	target := shop
	target.Statuses = []int{13, 14}
	p := source(t, &recorded{series: []series{
		scraped(completed, "shop/v1", "", base, 100, 200), scraped(byClass, "shop/v1", "5", base, 0, 40), scraped(active, "shop/v1", "", base, 0, 40),
		scraped("envoy_cluster_grpc_14", "shop/v1", "", base, 0, 42), scraped("envoy_cluster_grpc_13", "shop/v1", "", base, 0, 1),
	}})
	c := cellsOf(p.Round(t.Context(), []Target{target}))
	if len(c) != 1 || c[0].Counts["v1"] != (analysis.Counts{Requests: 60, Errors: 3}) {
		t.Errorf("%+v", c)
	}
	if got := p.Dropped("shop"); len(got) != 1 || got[0].Total != 40 {
		t.Errorf("dropped: %+v", got)
	}
}

func everySecond() time.Duration { return time.Second }
