package e2e

import (
	"net/http"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Testers look at a release at weight 0. What they see is no evidence, and nobody else sees it.
func TestTestersReachAVersionAtWeight0(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, envoy string) {
		for _, way := range []struct{ name, policy, header, value string }{
			{"header", "testers: {header: X-Canary, key: s3cret}", "X-Canary", "s3cret:v2"},
			{"cookie", "testers: {cookie: canary}", "Cookie", "a=b; canary=v2"},
		} {
			t.Run(way.name, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, setting{envoy: envoy, route: way.policy, ramp: "ramp: {steps: [50%, 100%], hold: 1h}\n"})
				v2 := s.version("v2")
				s.run(0, s.deploy(v2, "--paused")...)
				v2.Fail(1)
				ask := func(value string) string {
					req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.front+"/", nil)
					if err != nil {
						t.Fatal(err)
					}
					if value != "" {
						req.Header.Set(way.header, value)
					}
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					resp.Body.Close()
					return resp.Header.Get("X-Version")
				}
				s.until(10*time.Second, "the testers' route", func() bool { return ask(way.value) == "v2" })
				s.load(200)
				for range 100 {
					if got := ask(way.value); got != "v2" {
						t.Fatalf("a tester got %q", got)
					}
					if got := ask("v3"); got != "v1" {
						t.Fatalf("a tester of nothing got %q", got)
					}
				}
				time.Sleep(3 * time.Second)
				v := s.Version("shop", "v2")
				if v.Phase != rollout.Paused || v.Weight != 0 || v.Requests != 0 {
					t.Errorf("after 100 failed requests of testers v2 is %s at %g with %.0f requests counted", v.Phase, v.Weight, v.Requests)
				}
				if n := v2.Count().Requests; n > 150 {
					t.Errorf("v2 got %d requests, testers made a hundred or so", n)
				}
				v2.Fail(0)
				s.run(0, "resume", "shop", "v2")
				s.until(10*time.Second, "the first step", func() bool { v := s.Version("shop", "v2"); return v.InForce && v.Weight == 0.5 })
				s.run(0, "abort", "shop", "v2")
				s.until(10*time.Second, "the cut in force", func() bool { return s.Version("shop", "v1").InForce })
				if got := ask(way.value); got != "v1" {
					t.Errorf("after the abort a tester still got %q", got)
				}
			})
		}
	})
}
