package e2e

import (
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/web"
)

const holdRamp = "ramp: {steps: [5%, 50%, 100%], hold: 2s}\njudge: {clump: 1, budget: 0.001}\n" // never steps up

// What the sources count is what the services counted.
func TestBothSourcesCountWhatTheServicesCounted(t *testing.T) {
	t.Parallel()
	for _, source := range []string{"envoy", "prometheus"} {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			// Tolerant, so that 20 % of errors is no reason to cut.
			s := newScene(t, setting{source: source, scrape: time.Second,
				ramp: "ramp: {steps: [50%, 100%], hold: 1h}\njudge: {tolerate: {ratio: 100, margin: 50%}, promote_within: {ratio: 100, margin: 60%}}\n"})
			v2 := s.version("v2")
			v2.Fail(0.2)
			s.run(0, s.deploy(v2)...)
			s.until(10*time.Second, "v2 in force", func() bool { return s.Version("shop", "v2").InForce })
			l := s.load(400)
			time.Sleep(8 * time.Second)
			l.Stop()
			made := v2.Count()
			told := s.lastReport(made.Requests)
			t.Logf("canaryd counted %.0f requests and %.0f errors, v2 itself %d and %d", told.Requests, told.Errors, made.Requests, made.Failed)
			if math.Abs(told.Requests-float64(made.Requests)) > 0.01*float64(made.Requests)+2 || math.Abs(told.Errors-float64(made.Failed)) > 0.01*float64(made.Failed)+2 || made.Failed == 0 {
				t.Errorf("they differ by more than 1 %%")
			}
		})
	}
}

// lastReport waits until what canaryd counts of v2 is near what v2 counted, or does not grow any more.
func (s *scene) lastReport(made int) web.Version {
	s.t.Helper()
	v := s.Version("shop", "v2")
	for still := 0; still < 30 && v.Requests < 0.99*float64(made); still++ {
		time.Sleep(200 * time.Millisecond)
		if now := s.Version("shop", "v2"); now.Requests > v.Requests {
			v, still = now, 0
		}
	}
	time.Sleep(2 * time.Second) // it may be more than there was
	return s.Version("shop", "v2")
}

// exposition stands between Prometheus and Envoy's statistics, so that a test can take them away.
type exposition struct {
	admin  string
	empty  atomic.Bool
	server *http.Server
	addr   string
}

func (x *exposition) open(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", x.addr)
	if err != nil {
		t.Fatal(err)
	}
	x.server = &http.Server{Handler: x}
	go func() { _ = x.server.Serve(l) }()
	t.Cleanup(func() { x.server.Close() })
}

func (x *exposition) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if x.empty.Load() {
		fmt.Fprintln(w, "nothing 1")
		return
	}
	resp, err := http.Get("http://" + x.admin + "/stats/prometheus")
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	_, _ = io.Copy(w, resp.Body)
}

// Only here a real Prometheus loses its series, targets and itself, and each takes it some scrapes to show: each of the six
// kinds of missing evidence really happens; none cuts, none lets the weight rise.
func TestSixKindsOfMissingEvidenceFromPrometheus(t *testing.T) {
	t.Parallel()
	prom := rig.FreeAddress()
	s := newScene(t, setting{ramp: holdRamp, extra: fmt.Sprintf("metrics: {source: prometheus, prometheus: {url: \"http://%s\"}}\n", prom)})
	x := &exposition{admin: s.admin, addr: rig.FreeAddress()}
	x.empty.Store(true)
	x.open(t)
	p, err := s.StartPrometheusAt(t.Context(), prom, time.Second, x.addr)
	if err != nil {
		t.Fatal(err)
	}
	s.run(0, s.deploy(s.version("v2"))...)
	s.code(t, analysis.NoSeries, 20*time.Second)
	x.empty.Store(false)
	s.code(t, analysis.NoTraffic, 90*time.Second)
	s.load(200)
	s.code(t, analysis.Budget, 20*time.Second)
	x.empty.Store(true)
	s.code(t, analysis.Stale, 20*time.Second)
	x.server.Close()
	s.code(t, analysis.TargetDown, 20*time.Second)
	p.Kill()
	s.code(t, analysis.SourceUnreachable, 20*time.Second)
	s.PrometheusArgs = []string{"--query.max-samples=1"}
	x.empty.Store(false)
	x.open(t)
	if p, err = s.StartPrometheusAt(t.Context(), prom, time.Second, x.addr); err != nil {
		t.Fatal(err)
	}
	s.code(t, analysis.QueryError, 20*time.Second)
	p.Kill()
	s.PrometheusArgs = nil
	if _, err = s.StartPrometheusAt(t.Context(), prom, time.Second, x.addr); err != nil {
		t.Fatal(err)
	}
	s.code(t, analysis.Budget, 20*time.Second)
	s.nothingMoved(t)
}

// The same without Prometheus (only here real Envoys stop to report; a version without traffic is told after 30 s), as far
// as load reports can tell.
func TestMissingEvidenceFromLoadReports(t *testing.T) {
	t.Parallel()
	s := newScene(t, setting{ramp: holdRamp})
	s.run(0, s.deploy(s.version("v2"))...)
	s.code(t, analysis.NoTraffic, 90*time.Second)
	s.load(200)
	s.code(t, analysis.Budget, 10*time.Second)
	edge := s.Process("edge-1")
	if err := edge.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.code(t, analysis.Stale, 10*time.Second)
	if err := edge.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.code(t, analysis.Budget, 10*time.Second)
	_, _, err := s.StartEnvoy(t.Context(), "edge-2", "edge", func(b string) string { // takes the route, reports nothing
		from, to := strings.Index(b, "cluster_manager:"), strings.Index(b, "dynamic_resources:")
		return b[:from] + b[to:]
	})
	if err != nil {
		t.Fatal(err)
	}
	edge.Kill()
	s.code(t, analysis.TargetDown, 10*time.Second)
	s.Daemon().Kill() // who starts anew has never seen an Envoy report
	if err := s.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.code(t, analysis.SourceUnreachable, 20*time.Second)
	s.nothingMoved(t)
}

func (s *scene) code(t *testing.T, want analysis.Code, most time.Duration) {
	t.Helper()
	got, reason := analysis.Code(""), ""
	err := rig.WaitFor(t.Context(), patience*most, "verdict "+string(want), func() bool {
		if v := s.Version("shop", "v2").Verdict; v != nil {
			got, reason = v.Code, v.Reason
		}
		return got == want
	})
	if err != nil {
		t.Fatalf("%v; it is %s: %s", err, got, reason)
	}
	t.Logf("%s: %s", got, reason)
}

func (s *scene) nothingMoved(t *testing.T) {
	t.Helper()
	if v := s.Version("shop", "v2"); v.Phase != rollout.Canary || v.Weight != 0.05 {
		t.Errorf("v2 is %s at %g, it must still be a canary at its first step", v.Phase, v.Weight)
	}
}
