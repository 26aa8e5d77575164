package metrics

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
)

// bucketed are the buckets of a histogram of one version, up to each bound and without one, at two scrapes.
func bucketed(version string, base time.Time, les []string, from, to []int) (all []series) {
	for i, le := range les {
		s := scraped(tookMetric, "shop/"+policy.WireName(version), "", base, from[i], to[i])
		s.labels["le"] = le
		all = append(all, s)
	}
	return all
}

var threeBounds = []string{"100", "250", "500", "+Inf"}

func timedShop(edges ...float64) Target {
	t := shop
	t.Timed, t.Edges = true, edges
	return t
}

func TestBucketsTellHowLongAnswersTook(t *testing.T) {
	base := time.Now().Add(-30 * time.Second).Truncate(time.Second)
	requests := []series{scraped(completed, "shop/v1", "", base, 100, 200), scraped(completed, "shop/v1_2", "", base, 10, 20)}
	stable := bucketed("v1", base, threeBounds, []int{50, 70, 90, 95}, []int{100, 160, 180, 195})
	for _, c := range []struct {
		name   string
		target Target
		more   []series
		want   string // bounds and counts of v1.2
		remark string
	}{
		{"both versions", timedShop(), slices.Concat(stable, bucketed("v1.2", base, threeBounds, []int{0, 0, 0, 0}, []int{5, 5, 8, 9})), "[0.1 0.25 0.5] [5 0 3 1]", ""},
		{"an edge that is a bucket", timedShop(0.25), slices.Concat(stable, bucketed("v1.2", base, threeBounds, []int{0, 0, 0, 0}, []int{5, 5, 8, 9})), "[0.1 0.25 0.5] [5 0 3 1]", ""},
		{"an edge that is none", timedShop(0.25, 0.3), slices.Concat(stable, bucketed("v1.2", base, threeBounds, []int{0, 0, 0, 0}, []int{5, 5, 8, 9})), "[0.1 0.25 0.5] [5 0 3 1]", "300ms is no bucket of envoy_cluster_upstream_rq_time_bucket, so of releases with that edge it is not judged how long answers take: the nearest 250ms and 500ms"},
		{"an edge above all", timedShop(0.6), stable, "", "the nearest 500ms"},
		{"none: nothing else is missing", timedShop(), nil, "", "the list of statistics in the bootstrap must have upstream_rq_time"},
		{"what was not there before is not known", timedShop(), slices.Concat(stable, bucketed("v1.2", base.Add(5*time.Second), threeBounds, []int{900, 900, 900, 900}, []int{900, 900, 900, 900})[:4]), "", ""},
		{"without the bucket that has all of them nobody knows how many took longer", timedShop(), slices.Concat(stable, bucketed("v1.2", base, threeBounds, []int{0, 0, 0, 0}, []int{5, 5, 8, 9})[:3]), "", ""},
		{"nor of stable", timedShop(), slices.Concat(stable[:3], bucketed("v1.2", base, threeBounds, []int{0, 0, 0, 0}, []int{5, 5, 8, 9})), "[0.1 0.25 0.5] [5 0 3 1]", `the bucket le="+Inf" of envoy_cluster_upstream_rq_time_bucket is missing`},
		{"one that is there no more is not missed", timedShop(), slices.Concat(stable, bucketed("v1.2", base, threeBounds, []int{0, 0, 0, 0}, []int{5, 5, 8, 9})[1:]), "[0.25 0.5] [5 3 1]", ""},
		{"one of them fell: none is used, the requests are", timedShop(), slices.Concat(stable, bucketed("v1.2", base, threeBounds, []int{9, 9, 9, 9}, []int{5, 10, 11, 12})), "", ""},
		{"nobody asked", shop, stable, "", ""},
	} {
		p := source(t, &recorded{series: append(slices.Clone(requests), c.more...)})
		evs := p.Round(t.Context(), []Target{c.target})
		if len(evs) != 1 || len(evs[0].Cells) == 0 || evs[0].Cells[0].Counts["v1"].Requests != 100 || evs[0].Cells[0].Counts["v1.2"].Requests != 10 {
			t.Errorf("%s: the requests are not counted: %+v", c.name, evs)
			continue
		}
		got := ""
		for _, ts := range evs[0].Cells[0].Times["v1.2"] {
			got += fmt.Sprint(ts.UpTo, " ", ts.N)
			if err := ts.Sound(); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if text := strings.Join(evs[0].Warnings, "; "); c.remark == "" && text != "" || !strings.Contains(text, c.remark) {
			t.Errorf("%s: it says %q, want %q", c.name, text, c.remark)
		}
	}
}

// An application's histogram is in seconds, of several series with bounds of their own.
func TestOwnBuckets(t *testing.T) {
	base := time.Now().Add(-30 * time.Second).Truncate(time.Second)
	target := timedShop(0.3)
	target.Queries = &policy.Queries{Requests: "req_total", Errors: "err_total", Buckets: `took_seconds_bucket{service="shop"}`}
	r := &recorded{series: []series{handled("req_total", "v1", "", base, 100, 200), handled("req_total", "v1.2", "", base, 0, 10)}}
	for _, b := range []struct {
		version, more string
		rose          int
	}{
		{"v1", "le=0.3,handler=/", 90}, {"v1", "le=+Inf,handler=/", 100}, {"v1.2", "le=0.1,handler=/", 2}, {"v1.2", "le=0.3,handler=/", 3},
		{"v1.2", "le=+Inf,handler=/", 4}, {"v1.2", "le=0.3,handler=/b", 5}, {"v1.2", "le=+Inf,handler=/b", 6},
	} {
		s := handled("took_seconds_bucket", b.version, b.more, base, 7, 7+b.rose)
		r.series = append(r.series, s)
	}
	cells := cellsOf(source(t, r).Round(t.Context(), []Target{target}))
	if got := fmt.Sprint(cells[0].Times["v1.2"]); got != "[{ [0.3] [8 2]}]" {
		t.Errorf("%s from %v", got, r.queries)
	}
	if q := r.queries[2]; len(r.queries) != 3 || !strings.HasPrefix(q, "took_seconds_bucket{") || strings.Contains(r.queries[0], "took") {
		t.Errorf("queries: %v", r.queries)
	}
}

// bucketless refuses the query for buckets.
type bucketless struct{ *recorded }

func (b bucketless) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.recorded.RoundTrip(req)
	if strings.Contains(b.queries[len(b.queries)-1], "took") {
		return nil, errors.New("out of memory")
	}
	return resp, err
}

func TestDurationsThatCannotBeReadHoldNothing(t *testing.T) {
	base := time.Now().Add(-30 * time.Second).Truncate(time.Second)
	target := timedShop()
	target.Queries = &policy.Queries{Requests: "req_total", Errors: "err_total", Buckets: "took_bucket"}
	r := &recorded{series: []series{handled("req_total", "v1", "", base, 100, 200), handled("req_total", "v1.2", "", base, 0, 10)}}
	p, err := NewPrometheus("http://prometheus", bucketless{r}, time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	evs := p.Round(t.Context(), []Target{target})
	if len(evs) != 1 || evs[0].Missing != nil || len(evs[0].Cells) != 1 || !strings.Contains(strings.Join(evs[0].Warnings, ";"), "does not tell how long answers took") {
		t.Errorf("%+v", evs)
	}
}
