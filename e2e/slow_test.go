package e2e

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
)

// laggard is a version of which one in some requests takes long, and of which none is answered from some moment on.
type laggard struct {
	version string
	every   atomic.Int64
	hangs   atomic.Bool
	asked   atomic.Int64
}

func (l *laggard) handler() http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		wait := time.Duration(0)
		if n := l.asked.Add(1); l.every.Load() > 0 && n%l.every.Load() == 0 {
			wait = 600 * time.Millisecond // far beyond the edge, and what a busy machine adds
		}
		if l.hangs.Load() {
			wait = time.Hour
		}
		select {
		case <-time.After(wait):
		case <-r.Context().Done():
			return
		}
		w.Header().Set("X-Version", l.version)
	}
}

// lags serves it, in the manner of a version whose one path fails.
func lags(t *testing.T, version string, every int64) (l *laggard, address string) {
	l = &laggard{version: version}
	l.every.Store(every)
	a := &ailing{path: "/", how: l.handler()}
	a.fails.Store(true)
	return l, a.listen(t)
}

// A real Envoy tells how long answers took; of stable's one in a hundred is slow, of the canary's one in twenty.
func TestASlowerCanaryIsHeld(t *testing.T) {
	t.Parallel()
	_, first := lags(t, "v1", 100)
	second, address := lags(t, "v2", 20)
	s := newScene(t, setting{first: first, ramp: "ramp: {steps: [50%, 90%, 100%], hold: 10m}\njudge: {clump: 1, budget: 100000, slow: {edges: [500ms], warm_up: 1s}}\n"})
	l := &rig.Load{URL: "http://" + s.front + "/", Rate: 200}
	l.Start(context.WithoutCancel(t.Context()))
	t.Cleanup(func() { l.Stop() })
	s.run(0, "deploy", "shop", "v2", "--endpoint", address)
	deployed := time.Now()
	s.until(3*time.Minute, "v2 to be held", func() bool {
		v := s.Version("shop", "v2").Verdict
		return v != nil && v.Code == analysis.Slower
	})
	v := s.Version("shop", "v2")
	if v.Phase != rollout.Canary || v.Verdict.Outcome != analysis.Wait || len(v.Verdict.Slow) != 1 || v.Verdict.Slow[0].Edge != 0.5 || !strings.Contains(v.Verdict.Reason, "of its answers took longer than 500ms") {
		t.Errorf("%s: %+v", v.Phase, v.Verdict)
	}
	if shown := s.run(0, "explain", "shop", "v2"); !strings.Contains(shown, v.Verdict.Reason[:30]) || !strings.Contains(shown, "docs/verdicts.md#slower") {
		t.Error(shown)
	}
	t.Logf("FIGURE load reports, 100 requests/s of each, 1 -> 5 %% slow: held after %.0f s: %s", v.Verdict.At.Sub(deployed).Seconds(), v.Verdict.Reason)
	// From now on nothing is answered: requests that never end cut it, long before Envoy gives up on them.
	second.hangs.Store(true)
	began := time.Now()
	s.phase("v2", time.Minute, rollout.Failed)
	cut := s.Version("shop", "v2").Verdict
	if cut.Code != analysis.Worse || !strings.Contains(cut.Reason, "have had no answer for 5s (judge.hang)") {
		t.Errorf("%s: %s", cut.Code, cut.Reason)
	}
	t.Logf("FIGURE everything hangs, 100 requests/s of it: cut after %.1f s: %s", cut.At.Sub(began).Seconds(), cut.Reason)
}

// The same, told by the histograms of a real Envoy in Prometheus. These do not tell instances.
func TestPrometheusHasASlowerCanaryHeld(t *testing.T) {
	t.Parallel()
	_, first := lags(t, "v1", 100)
	_, address := lags(t, "v2", 20)
	s := newScene(t, setting{source: "prometheus", scrape: time.Second, first: first, ramp: "ramp: {steps: [50%, 90%, 100%], hold: 30m}\njudge: {clump: 1, budget: 100000, slow: {edges: [500ms], warm_up: 1s}}\n"})
	l := &rig.Load{URL: "http://" + s.front + "/", Rate: 200}
	l.Start(context.WithoutCancel(t.Context()))
	t.Cleanup(func() { l.Stop() })
	s.run(0, "deploy", "shop", "v2", "--endpoint", address)
	began := time.Now()
	s.until(5*time.Minute, "v2 to be held", func() bool {
		v := s.Version("shop", "v2").Verdict
		return v != nil && v.Code == analysis.Slower
	})
	v := s.Version("shop", "v2")
	t.Logf("FIGURE Prometheus, scraped every second, 100 requests/s of each, 1 -> 5 %% slow: held after %.0f s: %s", time.Since(began).Seconds(), v.Verdict.Reason)
	if v.Phase != rollout.Canary || v.Verdict.Outcome != analysis.Wait || len(v.Verdict.Slow) != 1 || v.Verdict.Slow[0].Edge != 0.5 {
		t.Fatalf("%s: %+v", v.Phase, v.Verdict)
	}
	if p := v.Verdict.Slow[0]; p.Slow/p.Requests < 2*p.StableSlow/p.StableRequests {
		t.Errorf("%+v", p)
	}
	if shown := s.run(0, "explain", "shop", "v2"); !strings.Contains(shown, "Longer than 500ms took lately: ") {
		t.Error(shown)
	}
}
