package e2e

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	yaml "go.yaml.in/yaml/v4"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/rig"
)

// Two Envoys, scraped in every way that has gone wrong somewhere. What is counted is what the services
// counted, once; where that cannot be, the reason says which label is missing.
func TestPrometheusCountsRight(t *testing.T) {
	w := newScraped(t)
	v1, v2 := w.versions["v1"], w.version("v2")
	w.run(0, w.deploy(v2)...)
	w.until(20*time.Second, "v2 in force", func() bool { return w.Version("shop", "v2").InForce })
	v2.Fail(0.2)
	views := []*view{
		w.view("two jobs scrape each Envoy", w.jobs, "", 1),
		w.view("two Prometheus servers behind one address", w.pair, "", 1),
		w.view("production, with match", w.cities, `cluster="prod"`, 1),
		w.view("production and staging, without match", w.cities, "", math.Inf(1)),
		w.view("no instance label", w.bare, "", 0),
	}
	time.Sleep(4 * time.Second) // each has seen what is there
	before := v1.Count().Requests
	l := w.load(300)
	time.Sleep(12 * time.Second)
	l.Stop()
	stable, canary := v1.Count().Requests-before, v2.Count()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end) && slices.ContainsFunc(views, func(v *view) bool { return v.lags(stable, canary) }); {
		time.Sleep(100 * time.Millisecond) // two servers agree when both have scraped
	}
	time.Sleep(3 * time.Second) // for what nobody served
	for _, v := range views {
		v.hold(stable, canary)
	}
	told := w.Version("shop", "v2")
	t.Logf("the daemon, two jobs: %.0f requests and %.0f errors of v2, served %d and %d", told.Requests, told.Errors, canary.Requests, canary.Failed)
	if !near(told.Requests, canary.Requests) || !near(told.Errors, canary.Failed) {
		t.Errorf("they differ by more than 1 %%")
	}
	if out := w.run(0, "status", "shop"); !strings.Contains(out, "Prometheus has one Envoy twice, under different values of the label job") {
		t.Errorf("status does not say that each Envoy is scraped twice:\n%s", out)
	}
	w.trouble(t)
}

// trouble takes the answers away from the daemon, in words of each kind.
func (w *scrapedWorld) trouble(t *testing.T) {
	for _, c := range []struct {
		what    string
		handler http.HandlerFunc
		code    analysis.Code
		words   string
	}{
		{"Thanos with a store down", thanos, analysis.SourceUnreachable, "partial answer: No StoreAPIs matched"},
		{"no password", refuse(http.StatusUnauthorized, ""), analysis.SourceUnreachable, "requires authentication (401 Unauthorized)"},
		{"too many queries", refuse(http.StatusTooManyRequests, "3"), analysis.SourceUnreachable, "the next one is sent in 3s"},
		{"a page to log in", func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "<html>log in") }, analysis.SourceUnreachable, "is not the Prometheus API"},
	} {
		w.front.Store(&c.handler)
		reason := ""
		w.until(15*time.Second, c.what, func() bool {
			v := w.Version("shop", "v2").Verdict
			if v == nil {
				return false
			}
			reason = v.Reason
			return v.Code == c.code && strings.Contains(reason, c.words)
		})
		t.Logf("%s: %s", c.what, reason)
	}
	w.show(w.jobs)
	w.load(100)
	w.until(15*time.Second, "evidence again", func() bool { return w.Version("shop", "v2").Verdict.Code != analysis.SourceUnreachable })
}

func thanos(rw http.ResponseWriter, _ *http.Request) {
	rw.Header().Set("Content-Type", "application/json")
	fmt.Fprint(rw, `{"status":"success","data":{"resultType":"matrix","result":[]},"warnings":["No StoreAPIs matched for this query"]}`)
}

func refuse(status int, after string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		if after != "" {
			rw.Header().Set("Retry-After", after)
		}
		rw.WriteHeader(status)
	}
}

// scrapedWorld is a scene with two Envoys and several Prometheus servers.
type scrapedWorld struct {
	*scene
	front                    atomic.Pointer[http.HandlerFunc] // what the daemon asks
	jobs, pair, bare, cities http.Handler
}

func newScraped(t *testing.T) *scrapedWorld {
	t.Helper()
	w := &scrapedWorld{}
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { (*w.front.Load())(rw, r) }))
	t.Cleanup(front.Close)
	w.show(http.NotFoundHandler())
	w.scene = newScene(t, setting{extra: fmt.Sprintf("metrics: {source: prometheus, prometheus: {url: %q}}\n", front.URL),
		ramp: "ramp: {steps: [50%, 100%], hold: 1h}\njudge: {tolerate: {ratio: 100, margin: 50%}, promote_within: {ratio: 100, margin: 60%}}\n"})
	_, second, err := w.StartEnvoy(t.Context(), "edge-2", "edge", nil)
	if err != nil {
		t.Fatal(err)
	}
	staging := httptest.NewServer(stagingEnvoy(time.Now()))
	t.Cleanup(staging.Close)
	envoys := fmt.Sprintf("targets: [%q, %q]", w.admin, second)
	job := func(name, targets, more string) string {
		return fmt.Sprintf("- {job_name: %s, metrics_path: /stats/prometheus, static_configs: [{%s}]%s}\n", name, targets, more)
	}
	plain := job("envoy", envoys, "")
	servers := w.startAll(map[string]string{
		"a": plain, "b": plain,
		"jobs":   plain + job("pods", envoys+", labels: {namespace: edge}", ""),
		"bare":   job("envoy", envoys, `, metric_relabel_configs: [{action: labeldrop, regex: instance}]`),
		"cities": job("envoy", envoys+", labels: {cluster: prod}", "") + job("staging", fmt.Sprintf("targets: [%q], labels: {cluster: staging}", strings.TrimPrefix(staging.URL, "http://")), ""),
	})
	w.jobs, w.bare, w.cities = servers["jobs"], servers["bare"], servers["cities"]
	var turn atomic.Int64
	w.pair = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		servers[[]string{"a", "b"}[turn.Add(1)%2]].ServeHTTP(rw, r)
	})
	w.show(w.jobs)
	return w
}

func (w *scrapedWorld) show(h http.Handler) { f := h.ServeHTTP; w.front.Store((*http.HandlerFunc)(&f)) }

// startAll runs Prometheus servers with the given scrape configurations until they have scraped.
func (w *scrapedWorld) startAll(configs map[string]string) map[string]http.Handler {
	w.t.Helper()
	servers, urls := map[string]http.Handler{}, map[string]string{}
	for name, scrapes := range configs {
		dir := filepath.Join(w.Dir, "prometheus-"+name)
		if err := os.MkdirAll(dir, 0o750); err != nil {
			w.t.Fatal(err)
		}
		file, addr := filepath.Join(dir, "prometheus.yml"), rig.FreeAddress()
		if err := os.WriteFile(file, []byte("global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n"+scrapes), 0o640); err != nil {
			w.t.Fatal(err)
		}
		p, err := rig.Start(dir, "prometheus", w.Prometheus, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(p.Kill)
		u := &url.URL{Scheme: "http", Host: addr}
		servers[name], urls[name] = httputil.NewSingleHostReverseProxy(u), u.String()
	}
	for name, u := range urls {
		w.until(40*time.Second, name+" to scrape", func() bool {
			resp, err := http.Get(u + "/api/v1/query?query=" + url.QueryEscape("min(up) > 0 and count(envoy_cluster_upstream_rq_completed)"))
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			var body strings.Builder
			_ = resp.Write(&body)
			return strings.Contains(body.String(), `"value"`)
		})
	}
	return servers
}

// stagingEnvoy shows an Envoy of another environment, where the same versions fail.
func stagingEnvoy(begin time.Time) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		n := int(1000 * time.Since(begin).Seconds())
		for _, v := range []string{"v1", "v2"} {
			fmt.Fprintf(rw, "envoy_cluster_upstream_rq_completed{envoy_cluster_name=\"shop/%s\"} %d\n", v, n)
			fmt.Fprintf(rw, "envoy_cluster_upstream_rq_xx{envoy_cluster_name=\"shop/%s\",envoy_response_code_class=\"5\"} %d\n", v, n/2)
		}
	})
}

// view is a source of evidence on one of the servers, and what came of it.
type view struct {
	t      *testing.T
	name   string
	factor float64 // of what was served: 1, 0, or more than it

	mu       sync.Mutex
	counted  map[string]analysis.Counts
	missing  string
	warnings string
}

func (w *scrapedWorld) view(name string, server http.Handler, match string, factor float64) *view {
	w.t.Helper()
	v := &view{t: w.t, name: name, factor: factor, counted: map[string]analysis.Counts{}}
	front := httptest.NewServer(server)
	w.t.Cleanup(front.Close)
	var m metrics.Match
	if err := yaml.Load([]byte("'"+match+"'"), &m); err != nil {
		w.t.Fatal(err)
	}
	src, err := metrics.NewPrometheus(front.URL, http.DefaultTransport, time.Second, m)
	if err != nil {
		w.t.Fatal(err)
	}
	src.Watch([]metrics.Target{{Service: "shop", Stable: "v1", Versions: []string{"v1", "v2"}}})
	ctx, cancel := context.WithCancel(w.t.Context())
	w.t.Cleanup(cancel)
	go func() { _ = src.Run(ctx, v.take) }()
	return v
}

func (v *view) take(evs []metrics.Evidence) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, ev := range evs {
		v.missing, v.warnings = "", strings.Join(ev.Warnings, "; ")
		if ev.Missing != nil {
			v.missing = fmt.Sprintf("%s: %s", ev.Missing.Code, ev.Missing.Reason)
		}
		for _, c := range ev.Cells {
			for name, n := range c.Counts {
				v.counted[name] = v.counted[name].Add(n)
			}
		}
	}
}

// lags reports that not all is counted yet.
func (v *view) lags(stable int, canary rig.Served) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.factor == 1 && (v.counted["v1"].Requests < float64(stable) || v.counted["v2"].Requests < float64(canary.Requests))
}

func (v *view) hold(stable int, canary rig.Served) {
	v.mu.Lock()
	defer v.mu.Unlock()
	got1, got2 := v.counted["v1"], v.counted["v2"]
	v.t.Logf("%s: %.0f of v1, %.0f and %.0f errors of v2; served %d, %d and %d; %s %s", v.name, got1.Requests, got2.Requests, got2.Errors, stable, canary.Requests, canary.Failed, v.missing, v.warnings)
	switch {
	case v.factor == 1 && !(near(got1.Requests, stable) && near(got2.Requests, canary.Requests) && near(got2.Errors, canary.Failed) && v.missing == ""),
		v.factor == 0 && !(got1.Requests == 0 && got2.Requests == 0 && strings.HasPrefix(v.missing, string(analysis.QueryError)) && strings.Contains(v.missing, "no label `instance`")),
		v.factor > 1 && got2.Requests < 2*float64(canary.Requests):
		v.t.Errorf("%s: counted wrong", v.name)
	}
}

func near(counted float64, served int) bool {
	return math.Abs(counted-float64(served)) <= 0.01*float64(served)+2
}
