package metrics

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// recorded answers queries from series in memory and counts them.
type recorded struct {
	queries []string
	series  []series
	err     error
	status  int
	body    string

	live     func() []series // instead of series
	refuses  string          // queries with this in them
	hangs    string          // so do these, until nobody waits for them
	warnings []string
	header   http.Header
	ahead    *time.Duration // of its clock; nil: it tells no Date
}

type series struct {
	labels map[string]string
	values [][2]any // seconds, text
}

func (r *recorded) RoundTrip(req *http.Request) (*http.Response, error) {
	form := req.URL.Query()
	if req.Body != nil { // else it is the try with GET after a refused POST
		raw, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		if form, err = url.ParseQuery(string(raw)); err != nil {
			return nil, err
		}
	}
	r.queries = append(r.queries, form.Get("query"))
	if r.err != nil {
		return nil, r.err
	}
	if r.status != 0 {
		resp := answer(r.status, r.body)
		maps.Copy(resp.Header, r.header)
		return resp, nil
	}
	if r.refuses != "" && strings.Contains(form.Get("query"), r.refuses) {
		return answer(422, `{"status":"error","errorType":"execution","error":"boom"}`), nil
	}
	if r.hangs != "" && strings.Contains(form.Get("query"), r.hangs) {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	if strings.HasPrefix(form.Get("query"), "up") {
		return answer(200, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"job":"envoy","instance":"a"},"value":[1,"1"]}]}}`), nil
	}
	var result []map[string]any
	fits := selects(form.Get("query"))
	if r.live != nil {
		r.series = r.live()
	}
	for _, s := range r.series {
		if fits(s.labels) {
			result = append(result, map[string]any{"metric": s.labels, "values": s.values})
		}
	}
	data, err := json.Marshal(map[string]any{"status": "success", "warnings": r.warnings, "data": map[string]any{"resultType": "matrix", "result": result}})
	resp := answer(200, string(data))
	if r.ahead != nil {
		resp.Header.Set("Date", time.Now().Add(*r.ahead).UTC().Format(http.TimeFormat))
	}
	return resp, err
}

// streamsOf are series as a query's answer shows them.
func streamsOf(t Target, list ...series) (out []stream) {
	for _, s := range list {
		st := stream{labels: model.Metric{}}
		if s.labels["envoy_response_code_class"] != "" {
			st.kind = failures
		}
		for k, v := range s.labels {
			st.labels[model.LabelName(k)] = model.LabelValue(v)
		}
		for _, v := range t.Versions {
			if s.labels["envoy_cluster_name"] == t.Service+"/"+policy.WireName(v) {
				st.version = v
			}
		}
		for _, v := range s.values {
			x, _ := strconv.ParseFloat(v[1].(string), 64)
			st.samples = append(st.samples, model.SamplePair{Timestamp: model.Time(1000 * v[0].(float64)), Value: model.SampleValue(x)})
		}
		out = append(out, st)
	}
	return out
}

// selects understands as much of a selector as the source writes.
func selects(query string) func(labels map[string]string) bool {
	res := map[string]*regexp.Regexp{}
	for _, m := range regexp.MustCompile(`(\w+)=~"((?:[^"\\]|\\.)*)"`).FindAllStringSubmatch(query, -1) {
		res[m[1]] = regexp.MustCompile("^(?:" + strings.ReplaceAll(m[2], `\\`, `\`) + ")$")
	}
	return func(labels map[string]string) bool {
		if !strings.HasPrefix(query, "{") && !strings.HasPrefix(query, labels["__name__"]+"{") {
			return false
		}
		for name, re := range res {
			if !re.MatchString(labels[name]) {
				return false
			}
		}
		return true
	}
}

func answer(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewBufferString(body))}
}

func scraped(name, cluster, class string, base time.Time, values ...any) series {
	s := series{labels: map[string]string{"__name__": name, "job": "envoy", "instance": "a", "envoy_cluster_name": cluster}}
	if class != "" {
		s.labels["envoy_response_code_class"] = class
	}
	for i, v := range values {
		if v != nil {
			s.values = append(s.values, [2]any{float64(base.Unix() + int64(i)*5), fmt.Sprint(v)})
		}
	}
	return s
}

const (
	completed = "envoy_cluster_upstream_rq_completed"
	retried   = "envoy_cluster_retry_upstream_rq_completed"
	byClass   = "envoy_cluster_upstream_rq_xx"
	retriedBy = "envoy_cluster_retry_upstream_rq_xx"
	pending   = "envoy_cluster_upstream_rq_pending_overflow"
	active    = "envoy_cluster_upstream_rq_active_overflow"
)

func source(t *testing.T, r *recorded) *Prometheus {
	t.Helper()
	p, err := NewPrometheus("http://prometheus", r, time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var shop = Target{Service: "shop", Stable: "v1", Versions: []string{"v1", "v1.2"}}

func TestCountersBecomeCells(t *testing.T) {
	base := time.Now().Add(-30 * time.Second).Truncate(time.Second)
	for _, c := range []struct {
		name   string
		series []series
		want   string // per cell: requests/errors of v1 and of v1.2
	}{
		{"plain", []series{
			scraped(completed, "shop/v1", "", base, 100, 200, 300), scraped(completed, "shop/v1_2", "", base, 10, 20, 40),
			scraped(byClass, "shop/v1", "5", base, 1, 2, 2), scraped(byClass, "shop/v1_2", "5", base, 0, 5, 5),
		}, "100/1 10/5; 100/0 20/0"},
		{"retries count, other classes do not", []series{
			scraped(completed, "shop/v1", "", base, 100, 200), scraped(completed, "shop/v1_2", "", base, 10, 20), scraped(retried, "shop/v1_2", "", base, 0, 4),
			scraped(retriedBy, "shop/v1_2", "5", base, 0, 4), scraped(byClass, "shop/v1_2", "2", base, 10, 20), scraped(byClass, "shop/v1_2", "4", base, 0, 3),
		}, "100/0 14/4"},
		{"a series that is not there yet is 0", []series{
			scraped(completed, "shop/v1", "", base, 100, 200, 300), scraped(completed, "shop/v1_2", "", base, nil, 7, 9), scraped(byClass, "shop/v1_2", "5", base, nil, nil, 2),
		}, "100/0 7/0; 100/0 2/2"},
		{"a reset drops the cell for both", []series{
			scraped(completed, "shop/v1", "", base, 100, 50, 90), scraped(completed, "shop/v1_2", "", base, 10, 2, 7),
		}, "40/0 5/0"},
		{"nor is the way back counted to where it fell from", []series{
			scraped(completed, "shop/v1", "", base, 100, 50, 150, 170), scraped(completed, "shop/v1_2", "", base, 10, 2, 12, 13),
		}, "20/0 1/0"},
		{"a series that was away did not begin at 0", []series{
			scraped(completed, "shop/v1", "", base, 100, 110, 120, 130), scraped(completed, "shop/v1_2", "", base, 5000, nil, 5010, 5011),
		}, "10/0 1/0"},
		{"the newest scrape may not be there as a whole yet", []series{
			scraped(completed, "shop/v1", "", base, 100, 110, 120), scraped(completed, "shop/v1_2", "", base, 5000, 5001, nil),
		}, "10/0 1/0"},
		{"a reset of one part drops it too", []series{
			scraped(completed, "shop/v1", "", base, 100, 200, 300), scraped(completed, "shop/v1_2", "", base, 10, 20, 30), scraped(byClass, "shop/v1_2", "5", base, 5, 3, 3),
		}, "100/0 10/0"},
		{"a missed scrape makes a longer cell", []series{
			scraped(completed, "shop/v1", "", base, 100, nil, 300), scraped(completed, "shop/v1_2", "", base, 10, nil, 30),
		}, "200/0 20/0"},
		{"NaN is no sample", []series{
			scraped(completed, "shop/v1", "", base, 100, "NaN", 300), scraped(completed, "shop/v1_2", "", base, 10, 20, 30),
		}, "200/0 20/0"},
		{"what circuit breakers dropped is neither a request nor an error", []series{
			scraped(completed, "shop/v1", "", base, 100, 200, 300), scraped(byClass, "shop/v1", "5", base, 1, 2, 62), scraped(pending, "shop/v1", "", base, nil, nil, 50), scraped(active, "shop/v1", "", base, 0, 0, 10),
			scraped(completed, "shop/v1_2", "", base, 10, 20, 120), scraped(byClass, "shop/v1_2", "5", base, 0, 5, 100), scraped(pending, "shop/v1_2", "", base, 7, 7, 87),
		}, "100/1 10/5; 40/0 20/15"},
		{"without stable's total there is no cell", []series{scraped(completed, "shop/v1_2", "", base, 10, 20, 30)}, ""},
	} {
		p := source(t, &recorded{series: c.series})
		var got []string
		for _, ev := range p.Round(t.Context(), []Target{shop}) {
			for _, cell := range ev.Cells {
				a, b := cell.Counts["v1"], cell.Counts["v1.2"]
				got = append(got, fmt.Sprintf("%g/%g %g/%g", a.Requests, a.Errors, b.Requests, b.Errors))
			}
		}
		if s := strings.Join(got, "; "); s != c.want {
			t.Errorf("%s: %s, want %s", c.name, s, c.want)
		}
	}
}

func TestASampleIsUsedOnce(t *testing.T) {
	base := time.Now().Add(-30 * time.Second).Truncate(time.Second)
	r := &recorded{series: []series{scraped(completed, "shop/v1", "", base, 1, 2, 3)}}
	p := source(t, r)
	if n := len(cellsOf(p.Round(t.Context(), []Target{shop}))); n != 2 {
		t.Fatalf("%d cells at first", n)
	}
	if n := len(cellsOf(p.Round(t.Context(), []Target{shop}))); n != 0 {
		t.Errorf("%d cells the second time", n)
	}
	if !strings.HasSuffix(r.queries[0], "[5m]") || strings.HasSuffix(r.queries[1], "[5m]") {
		t.Errorf("windows: %v", r.queries)
	}
}

func cellsOf(evs []Evidence) (cells []rollout.Cell) {
	for _, ev := range evs {
		cells = append(cells, ev.Cells...)
	}
	return cells
}

// One query for all rollouts, whatever their number, up to the size at which it is split.
func TestTheNumberOfQueriesDoesNotGrowWithTheServices(t *testing.T) {
	count := func(n int) int {
		r := &recorded{}
		base := time.Now().Add(-10 * time.Second).Truncate(time.Second)
		var targets []Target
		for i := range n {
			name := fmt.Sprintf("svc%d", i)
			targets = append(targets, Target{Service: name, Stable: "v1", Versions: []string{"v1", "v2"}})
			r.series = append(r.series, scraped(completed, name+"/v1", "", base, 1, 2))
		}
		evs := source(t, r).Round(t.Context(), targets)
		if len(evs) != n {
			t.Errorf("%d of %d services have evidence", len(evs), n)
		}
		return len(r.queries)
	}
	if a, b := count(10), count(1000); a != 1 || b != 1 {
		t.Errorf("10 rollouts take %d queries, 1 000 take %d", a, b)
	}
	if n := count(2000); n != 2 {
		t.Errorf("2 000 rollouts take %d queries, want 2: split by size", n)
	}
}

func TestOwnCountersReplaceEnvoys(t *testing.T) {
	base := time.Now().Add(-30 * time.Second).Truncate(time.Second)
	own := func(name, version string, values ...any) series {
		s := scraped(name, "", "", base, values...)
		s.labels["version"] = version
		return s
	}
	r := &recorded{series: []series{own("app_requests_total", "v1", 10, 20), own("app_requests_total", "v1.2", 1, 3), own("app_errors_total", "v1.2", 0, 2)}}
	target := shop
	target.Queries = &policy.Queries{Requests: `app_requests_total{service="shop"}`, Errors: "app_errors_total"}
	cells := cellsOf(source(t, r).Round(t.Context(), []Target{target}))
	if len(cells) != 1 || cells[0].Counts["v1.2"] != (analysis.Counts{Requests: 2, Errors: 2}) || cells[0].Counts["v1"].Requests != 10 {
		t.Errorf("%+v from %v", cells, r.queries)
	}
}

func TestFailuresAreToldApart(t *testing.T) {
	for _, c := range []struct {
		r     recorded
		want  analysis.Code
		words string
	}{
		{recorded{err: errors.New("connection refused")}, analysis.SourceUnreachable, "does not answer"},
		{recorded{status: 503, body: "busy"}, analysis.SourceUnreachable, "503 Service Unavailable): busy"},
		{recorded{status: 502, body: strings.Repeat("<html>", 1000)}, analysis.SourceUnreachable, "502 Bad Gateway): <html>"},
		{recorded{status: 400, body: `{"status":"error","errorType":"bad_data","error":"parse error"}`}, analysis.QueryError, "refused the query: parse error"},
		{recorded{status: 422, body: `{"status":"error","errorType":"execution","error":"too many samples"}`}, analysis.QueryError, "refused the query: too many samples"},
		{recorded{status: 401}, analysis.SourceUnreachable, "basic_auth, authorization or tls_config"},
		{recorded{status: 403}, analysis.SourceUnreachable, "does not let canaryd query"},
		{recorded{status: 429}, analysis.SourceUnreachable, "the next one is sent in 10s"},
		{recorded{status: 429, header: http.Header{"Retry-After": {"90"}}}, analysis.SourceUnreachable, "the next one is sent in 1m30s"},
		{recorded{status: 404, body: "no such page"}, analysis.SourceUnreachable, "lack a path, such as /prometheus?"},
		{recorded{status: 302}, analysis.SourceUnreachable, "is not the Prometheus API (302 Found"},
		{recorded{status: 200, body: "<html>log in"}, analysis.SourceUnreachable, "is not the Prometheus API (200 OK"},
	} {
		evs := source(t, &c.r).Round(t.Context(), []Target{shop})
		if len(evs) != 1 || evs[0].Missing == nil || evs[0].Missing.Code != c.want || !strings.Contains(evs[0].Missing.Reason, c.words) || len(evs[0].Missing.Reason) > 500 {
			t.Errorf("%d %v: %+v, want %s, %q", c.r.status, c.r.err, evs, c.want, c.words)
		}
	}
}
