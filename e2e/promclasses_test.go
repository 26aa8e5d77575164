package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
)

// instrumented is a version that counts what it answers by route, as applications do.
type instrumented struct {
	version, address string
	failing          atomic.Pointer[string] // the route that answers 502
}

func newInstrumented(t *testing.T, version string) *instrumented {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &instrumented{version: version, address: l.Addr().String()}
	a.failing.Store(new(string))
	reg := prometheus.NewRegistry()
	answered := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "app_requests_total"}, []string{"version", "handler", "code"})
	reg.MustRegister(answered)
	mux := http.NewServeMux()
	mux.Handle("/stats/prometheus", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		handler, code := "/", http.StatusOK
		if strings.HasPrefix(r.URL.Path, "/items/") {
			handler = "/items/:id"
		}
		if handler == *a.failing.Load() {
			code = http.StatusBadGateway
		}
		answered.WithLabelValues(version, handler, strconv.Itoa(code)).Inc()
		w.WriteHeader(code)
	})
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return a
}

// A route with a twentieth of the requests fails wholly. Prometheus has the counters of the application by route: the cut names it.
func TestPrometheusTellsClasses(t *testing.T) {
	t.Parallel()
	v1, v2 := newInstrumented(t, "v1"), newInstrumented(t, "v2")
	prom := rig.FreeAddress()
	s := newScene(t, setting{first: v1.address, extra: fmt.Sprintf("metrics: {source: prometheus, prometheus: {url: \"http://%s\"}}\n", prom),
		ramp: "ramp: {steps: [50%, 100%], hold: 1h}\njudge: {queries: {requests: app_requests_total, errors: 'app_requests_total{code=~\"5..\"}', class: handler}}\n"})
	if _, err := s.StartPrometheusAt(t.Context(), prom, time.Second, v1.address, v2.address); err != nil {
		t.Fatal(err)
	}
	for path, rate := range map[string]int{"/": 190, "/items/7?user=42": 10} {
		l := &rig.Load{URL: "http://" + s.front + path, Rate: rate}
		l.Start(context.WithoutCancel(t.Context()))
		t.Cleanup(func() { l.Stop() })
	}
	s.until(40*time.Second, "stable to be counted by Prometheus", func() bool {
		_, body := get(t, s.PrometheusURL+"/api/v1/query?query="+url.QueryEscape("sum(app_requests_total) > 1500"))
		return strings.Contains(body, `"value"`)
	})
	if out := s.run(0, "classes", "shop"); !strings.Contains(out, "class: handler\n    # /  ") || !strings.Contains(out, "# /items/:id") || strings.Contains(out, "user=42") {
		t.Errorf("proposed:\n%s", out)
	}
	s.run(0, "deploy", "shop", "v2", "--endpoint", v2.address)
	s.until(20*time.Second, "v2 to get requests", func() bool { return s.Version("shop", "v2").Requests > 100 })
	broken := "/items/:id"
	v2.failing.Store(&broken)
	v := s.phase("v2", 60*time.Second, rollout.Failed)
	t.Logf("%s: %s", v.Verdict.Code, v.Verdict.Reason)
	if v.Verdict.Code != analysis.Worse || !strings.Contains(v.Verdict.Reason, "class /items/:id") || !strings.Contains(v.Verdict.Reason, "502") {
		t.Errorf("the reason names neither the route nor the status: %s", v.Verdict.Reason)
	}
	if len(v.Verdict.Cause) != 1 || v.Verdict.Cause[0].Class != broken || v.Verdict.Cause[0].Kind != "502" {
		t.Errorf("the cause is %+v", v.Verdict.Cause)
	}
}

// Envoy's own histogram, with the statistics that the bootstrap keeps: every answer is in the bucket of what it took.
func TestPrometheusTellsHowLongAnswersTook(t *testing.T) {
	t.Parallel()
	s := newScene(t, setting{source: "prometheus", scrape: time.Second})
	s.versions["v1"].Delay(120 * time.Millisecond)
	src, err := metrics.NewPrometheus(s.PrometheusURL, http.DefaultTransport, time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	src.Watch([]metrics.Target{{Service: "shop", Stable: "v1", Versions: []string{"v1"}, Timed: true, Edges: []float64{0.1, 0.5}}})
	var mu sync.Mutex
	var all []analysis.Times
	go func() {
		_ = src.Run(t.Context(), func(evs []metrics.Evidence) {
			mu.Lock()
			defer mu.Unlock()
			for _, ev := range evs {
				for _, c := range ev.Cells {
					all = analysis.JoinTimes(all, c.Times["v1"])
				}
			}
		})
	}()
	time.Sleep(3 * time.Second) // what came before the delay is read
	s.load(100)
	s.until(40*time.Second, "answers with a duration", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(all) == 1 && all[0].All() > 500
	})
	mu.Lock()
	defer mu.Unlock()
	swift, slow := 0.0, 0.0
	for i, n := range all[0].N {
		if i < len(all[0].UpTo) && all[0].UpTo[i] <= 0.1 {
			swift += n
		} else {
			slow += n
		}
	}
	t.Logf("%.0f answers took up to 100 ms, %.0f longer: %v", swift, slow, all)
	if swift > 20 {
		t.Error("answers that took 120 ms are counted as swift ones")
	}
}
