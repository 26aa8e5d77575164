package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Envoy's own default turns 574 of these away.
func TestAHealthyVersionTakesManyRequestsAtOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t, setting{})
	s.versions["v1"].Delay(2 * time.Second)
	codes := map[string]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	for range 2600 {
		all.Go(func() {
			what := ""
			if resp, err := client.Get("http://" + s.front + "/"); err != nil {
				what = err.Error()
			} else {
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				what = fmt.Sprint(resp.StatusCode, " ", strings.TrimSpace(string(body)))
			}
			mu.Lock()
			defer mu.Unlock()
			codes[what]++
		})
	}
	all.Wait()
	if codes["200 v1"] != 2600 {
		t.Errorf("answers: %v", codes)
	}
}

// limit edits the policy in flight.
func (s *scene) limit(limits string) {
	s.t.Helper()
	text := policyText(s.front, s.versions["v1"].Address, "ramp: {steps: [50%, 100%], hold: 1h}\n")
	if err := s.WritePolicy("shop.yml", strings.Replace(text, "route: {", "route: {limits: "+limits+", ", 1)); err != nil {
		s.t.Fatal(err)
	}
	if code, body := post(s.t, "http://"+s.Web+"/-/reload"); code >= 300 {
		s.t.Fatalf("%d %s", code, body)
	}
}

// A canary that is slower than stable meets the limits, and users are turned away. That is shown and is no error of it. What
// Envoy books for each kind of limit, and each Envoy and source for itself, only real ones show.
func TestWhatLimitsDropIsShownAndNoError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ envoy, source, limits string }{
		{"envoy-newest", "envoy", "{requests: 5}"}, {"envoy-newest", "envoy", "{connections: 4, pending: 1}"},
		{"envoy-oldest", "envoy", "{requests: 5}"}, {"envoy-newest", "prometheus", "{requests: 5}"}, {"envoy-oldest", "prometheus", "{requests: 5}"},
	} {
		t.Run(strings.Join([]string{c.envoy, c.source, c.limits}, " "), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, setting{envoy: c.envoy, source: c.source, scrape: time.Second, ramp: "ramp: {steps: [50%, 100%], hold: 1h}\n"})
			v2 := s.version("v2")
			v2.Delay(200 * time.Millisecond)
			s.run(0, s.deploy(v2)...)
			s.until(10*time.Second, "v2 in force", func() bool { return s.Version("shop", "v2").InForce })
			l := s.load(150)
			s.until(15*time.Second, "evidence", func() bool { return s.Version("shop", "v2").Requests > 30 })
			if sent := l.Count(); sent.Failed > 0 {
				t.Fatalf("users saw errors before there were limits: %s", sent)
			}
			s.limit(c.limits)
			s.until(10*time.Second, "150 drops", func() bool { return s.dropped() >= 150 })
			time.Sleep(time.Second)
			if v := s.phase("v2", time.Second, rollout.Canary); v.Errors > 0 || v.Requests == 0 {
				t.Errorf("v2 has %g errors of %g requests: %+v", v.Errors, v.Requests, v.Verdict)
			}
			if out := s.run(0, "status", "shop"); !strings.Contains(out, "requests to v2 were dropped in the last minute by route.limits") {
				t.Errorf("not shown:\n%s", out)
			}
			sent := l.Stop()
			s.until(10*time.Second, "all drops to be counted", func() bool { return s.dropped() >= 0.8*float64(sent.Failed) })
			if n := s.dropped(); n > float64(sent.Failed) {
				t.Errorf("%g drops were counted, users saw %d: %s", n, sent.Failed, sent)
			}
		})
	}
}

// dropped is what canaryd counts, of both versions: on a busy machine stable meets the limits, too.
func (s *scene) dropped() (sum float64) {
	_, body := get(s.t, "http://"+s.Web+"/metrics")
	for line := range strings.Lines(body) {
		if _, n, ok := strings.Cut(line, "} "); ok && strings.HasPrefix(line, "canaryd_version_dropped_total{") {
			var one float64
			_, _ = fmt.Sscan(n, &one)
			sum += one
		}
	}
	return sum
}
