package metrics

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// relabelledSeries is a series with other labels ("" takes one away), scraped some milliseconds later.
func relabelledSeries(s series, ms float64, labels map[string]string) series {
	out := series{labels: maps.Clone(s.labels)}
	for k, v := range labels {
		if v == "" {
			delete(out.labels, k)
		} else {
			out.labels[k] = v
		}
	}
	for _, v := range s.values {
		out.values = append(out.values, [2]any{v[0].(float64) + ms/1000, v[1]})
	}
	return out
}

// together is one series of the samples of two, which is what two targets with the same labels become.
func together(a, b series) series {
	out := series{labels: a.labels}
	for len(a.values)+len(b.values) > 0 {
		if len(b.values) == 0 || len(a.values) > 0 && a.values[0][0].(float64) < b.values[0][0].(float64) {
			out.values, a.values = append(out.values, a.values[0]), a.values[1:]
		} else {
			out.values, b.values = append(out.values, b.values[0]), b.values[1:]
		}
	}
	return out
}

func upTo(from, step, n int) (values []any) {
	for i := range n {
		values = append(values, from+i*step)
	}
	return values
}

func TestWhichEnvoyItIs(t *testing.T) {
	base := time.Now().Add(-210 * time.Second).Truncate(time.Second)
	a := scraped(completed, "shop/v1", "", base, upTo(1000, 10, 41)...)
	b := scraped(completed, "shop/v1", "", base, upTo(900_000, 10, 41)...)
	half := scraped(completed, "shop/v1", "", base, nil, nil, 1020, 1030)
	type set = map[string]string
	for _, c := range []struct {
		name     string
		series   []series
		want     float64 // requests of the 400 that each Envoy served
		missing  analysis.Code
		reason   string
		warnings string
	}{
		{"two pods, told apart by a label, without instance", []series{relabelledSeries(a, 0, set{"instance": "", "pod": "a"}), relabelledSeries(b, 1300, set{"instance": "", "pod": "b"})}, 800, "", "", ""},
		{"two Envoys in one series without instance", []series{together(relabelledSeries(a, 0, set{"instance": ""}), relabelledSeries(b, 1300, set{"instance": ""}))},
			0, analysis.QueryError, `no label ` + "`instance`: keep it", ""},
		{"two Envoys in one series with the node's name as instance", []series{together(a, relabelledSeries(b, 1300, nil))}, 0, analysis.QueryError, "give their series a label that tells them apart", ""},
		{"a pair of Prometheus servers, the same moments", []series{relabelledSeries(a, 0, set{"replica": "a"}), relabelledSeries(half, 0, set{"replica": "b"})}, 400, "", "", `values of the label replica`},
		{"a pair of Prometheus servers, other moments", []series{relabelledSeries(a, 0, set{"prometheus_replica": "a"}), relabelledSeries(a, 1300, set{"prometheus_replica": "b"})}, 400, "", "", `one Envoy twice, under different values of the label prometheus_replica`},
		{"two jobs", []series{a, relabelledSeries(a, 700, set{"job": "pods", "namespace": "edge"})}, 400, "", "", "values of the label job and namespace"},
		{"two jobs without instance", []series{relabelledSeries(a, 0, set{"instance": ""}), relabelledSeries(a, 700, set{"instance": "", "job": "pods"})}, 340, "", "", "values of the label job"},
		{"two networks with the same addresses", []series{relabelledSeries(a, 0, set{"cluster": "prod"}), relabelledSeries(b, 700, set{"cluster": "staging"})}, 800, "", "", ""},
		{"two jobs of two networks with the same addresses", []series{a, relabelledSeries(b, 700, set{"job": "staging"})}, 800, "", "", ""},
		{"two pods on a node that is the instance", []series{relabelledSeries(a, 0, set{"pod": "a"}), relabelledSeries(a, 700, set{"pod": "b"})}, 800, "", "", ""},
	} {
		p := source(t, &recorded{series: c.series})
		evs := p.Round(t.Context(), []Target{shop})
		got, warnings := 0.0, ""
		var missing analysis.Code
		reason := ""
		for _, ev := range evs {
			warnings = strings.Join(ev.Warnings, "; ")
			if ev.Missing != nil {
				missing, reason = ev.Missing.Code, ev.Missing.Reason
			}
			for _, cell := range ev.Cells {
				got += cell.Counts["v1"].Requests
			}
		}
		if got != c.want || missing != c.missing || !strings.Contains(reason, c.reason) || !strings.Contains(warnings, c.warnings) || c.warnings == "" && warnings != "" {
			t.Errorf("%s: %g requests, want %g; %s %q, warnings %q", c.name, got, c.want, missing, reason, warnings)
		} else {
			t.Logf("%s: %g; %s %s", c.name, got, reason, warnings)
		}
	}
}

// An operator's own tags of Envoy's statistics go with the version: they do not part stable from canary.
func TestTagsOfVersionsAreTheCountersOwn(t *testing.T) {
	base := time.Now().Add(-30 * time.Second).Truncate(time.Second)
	v1 := scraped(completed, "shop/v1", "", base, 100, 200, 300)
	v2 := scraped(completed, "shop/v1_2", "", base, 10, 20, 40)
	r := &recorded{series: []series{relabelledSeries(v1, 0, map[string]string{"release": "v1", "team": "x"}), relabelledSeries(v2, 0, map[string]string{"release": "v1.2", "team": "x"})}}
	var got []string
	for _, c := range cellsOf(source(t, r).Round(t.Context(), []Target{shop})) {
		got = append(got, fmt.Sprint(c.Counts["v1"].Requests, "/", c.Counts["v1.2"].Requests))
	}
	if s := strings.Join(got, " "); s != "100/10 100/20" {
		t.Errorf("cells: %s", s)
	}
}

// What judge.queries selects is summed over all labels but job and instance, unless two processes hide there.
func TestOwnCountersAreSummedWithinAnInstance(t *testing.T) {
	base := time.Now().Add(-60 * time.Second).Truncate(time.Second)
	own := func(name, version, code string, ms float64, labels map[string]string, values ...any) series {
		s := relabelledSeries(scraped(name, "", "", base, values...), ms, labels)
		s.labels["version"], s.labels["code"] = version, code
		return s
	}
	target := shop
	target.Queries = &policy.Queries{Requests: "app_requests_total", Errors: `app_requests_total{code=~"5.."}`}
	sum := func(series ...series) (total analysis.Counts, ev Evidence) {
		for _, ev = range source(t, &recorded{series: series}).Round(t.Context(), []Target{target}) {
			for _, c := range ev.Cells {
				total = total.Add(c.Counts["v1"])
			}
		}
		return total, ev
	}
	two := func(ms float64, labels map[string]string) []series {
		return []series{own("app_requests_total", "v1", "200", ms, labels, upTo(1000, 10, 10)...), own("app_requests_total", "v1", "500", ms, labels, upTo(50, 1, 10)...)}
	}
	if n, ev := sum(two(0, nil)...); n != (analysis.Counts{Requests: 99, Errors: 9}) {
		t.Errorf("one process: %v, %+v", n, ev)
	}
	if n, ev := sum(append(two(0, nil), two(2000, map[string]string{"instance": "b"})...)...); n != (analysis.Counts{Requests: 198, Errors: 18}) {
		t.Errorf("two processes: %v, %+v", n, ev)
	}
	bare := map[string]string{"instance": "", "pod": "a"}
	if n, ev := sum(append(two(0, bare), two(2000, map[string]string{"instance": "", "pod": "b"})...)...); n.Requests != 0 || ev.Missing == nil || ev.Missing.Code != analysis.QueryError {
		t.Errorf("two processes without instance: %v, %+v", n, ev.Missing)
	}
}

// Instances that are gone are forgotten when others are there, and a reason names a few.
func TestGoneInstancesAreForgotten(t *testing.T) {
	now := time.Now()
	pr := newProgress(now)
	begin := now.Add(-time.Hour)
	stream := func(instance string, at time.Time) []stream {
		s := scraped(completed, "shop/v1", "", at, 1, 2, 3)
		s.labels["instance"] = instance
		return streamsOf(shop, s)
	}
	for i := range 500 {
		pr.read(shop, stream(fmt.Sprintf("10.0.0.%d:9901", i), begin))
	}
	if len(pr.instances) != 500 {
		t.Errorf("%d instances are remembered", len(pr.instances))
	}
	m := why(pr, shop, map[target]bool{}, now)
	if m.Code != analysis.TargetDown || !strings.HasSuffix(m.Reason, "… and 497 more") || len(m.Reason) > 150 {
		t.Errorf("%d bytes: %.200s", len(m.Reason), m.Reason)
	}
	pr.read(shop, stream("new", begin.Add(10*time.Minute)))
	if len(pr.instances) != 1 || len(pr.names) != 1 {
		t.Errorf("%d instances are remembered after they were replaced", len(pr.instances))
	}
}

// One gap of minutes does not make the scrapes look rare.
func TestAGapDoesNotMakeItDeaf(t *testing.T) {
	values := make([]any, 51)
	values[0], values[48], values[49], values[50] = 1, 100, 101, 102
	pr := newProgress(time.Now())
	cells := pr.read(shop, streamsOf(shop, scraped(completed, "shop/v1", "", time.Now().Add(-250*time.Second), values...)))
	if len(cells) != 3 || pr.scrape() != 5*time.Second {
		t.Errorf("%d cells, a scrape in %s", len(cells), pr.scrape())
	}
}

// A version that is judged again, after it was not asked about for a while, does not begin at 0.
func TestAVersionThatComesBackDoesNotBeginAtZero(t *testing.T) {
	begin := time.Now().Add(-time.Minute).Truncate(time.Second)
	v1 := func(from, n int) series {
		return scraped(completed, "shop/v1", "", begin.Add(time.Duration(from)*5*time.Second), upTo(100+from, 1, n)...)
	}
	v2 := func(from, n int) series {
		return scraped(completed, "shop/v1_2", "", begin.Add(time.Duration(from)*5*time.Second), upTo(5000+from, 1, n)...)
	}
	alone := Target{Service: "shop", Stable: "v1", Versions: []string{"v1"}}
	for name, from := range map[string]int{"the last reading is still there": 2, "it is not": 3} {
		pr := newProgress(begin)
		pr.read(alone, streamsOf(alone, v1(0, 3)))
		sum := 0.0
		for _, c := range pr.read(shop, streamsOf(shop, v1(from, 4), v2(from, 4))) {
			sum += c.Counts["v1.2"].Requests
		}
		if sum != 3 { // of four samples
			t.Errorf("%s: %g requests, want 3", name, sum)
		}
	}
}
