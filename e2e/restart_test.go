package e2e

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Only here a load runs through a whole ramp with canaryd killed in it: over a ramp, a kill -9 with a restart, and a
// promotion, all under load, no user sees an error.
func TestNoUserSeesARestartOrAPromotion(t *testing.T) {
	t.Parallel()
	s := newScene(t, setting{ramp: quickRamp})
	l := s.load(500)
	v2 := s.version("v2")
	s.run(0, s.deploy(v2)...)
	s.until(30*time.Second, "5 % in force", func() bool { v := s.Version("shop", "v2"); return v.InForce && v.Weight >= 0.05 })
	s.run(0, "pause", "shop", "v2") // no step while the kill is on its way
	s.until(10*time.Second, "the pause in force", func() bool { return s.Version("shop", "v2").InForce })
	before := s.routeVersions(t)
	told := s.Version("shop", "v2")
	s.Daemon().Kill()
	time.Sleep(2 * time.Second) // the Envoys keep the last weights
	if got := s.routeVersions(t); got != before {
		t.Errorf("the route changed while canaryd was away: %s, was %s", got, before)
	}
	if err := s.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := s.Version("shop", "v2"); v.Weight != told.Weight || v.Phase != rollout.Paused {
		t.Errorf("after the restart v2 is %s at %g, it was %s at %g", v.Phase, v.Weight, told.Phase, told.Weight)
	}
	s.run(0, "resume", "shop", "v2")
	s.run(0, "wait", "shop", "v2", "--timeout", "5m")
	sent := l.Stop()
	t.Log(sent)
	if sent.Failed != 0 {
		t.Errorf("users saw %d failures: %s", sent.Failed, sent)
	}
}

// An Envoy that is up to date is told nothing new after a restart.
func TestARestartResendsNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t, setting{ramp: "ramp: {steps: [10%, 100%], hold: 1h}\n"})
	s.run(0, s.deploy(s.version("v2"))...)
	s.until(10*time.Second, "v2 in force", func() bool { v := s.Version("shop", "v2"); return v.InForce && v.Weight == 0.1 })
	before := s.stat(t, "update_success")
	for range 3 {
		s.Daemon().Kill()
		if err := s.StartDaemon(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.until(15*time.Second, "v2 in force again", func() bool { return s.Version("shop", "v2").InForce })
	}
	after := s.stat(t, "update_success")
	for name, n := range after {
		// The wildcard types are answered once a stream, with nothing in it.
		if limit := before[name] + 3; strings.Contains(name, "rds") && n > before[name] || n > limit {
			t.Errorf("%s went from %d to %d over three restarts", name, before[name], n)
		}
	}
	if len(after) == 0 {
		t.Fatal("no update_success statistics: the test sees nothing")
	}
}

// Only here the real process is killed again and again, on a real disk: kill -9 at any moment loses no decision: what the
// API had told before is still so afterwards.
func TestKillLosesNoDecision(t *testing.T) {
	t.Parallel()
	s := newScene(t, setting{ramp: "ramp: {steps: [1%, 2%, 3%, 5%, 8%, 10%, 15%, 20%, 30%, 40%, 50%, 60%, 100%], hold: 0s}\njudge: {clump: 1, budget: 1000000}\n"})
	s.load(300)
	s.run(0, s.deploy(s.version("v2"))...)
	for i := range 6 {
		s.until(30*time.Second, "another step", func() bool { return s.Version("shop", "v2").Weight >= 0.01*float64(i+1) })
		told := s.Version("shop", "v2")
		if err := s.Daemon().Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-s.Daemon().Ended()
		if err := s.StartDaemon(t.Context()); err != nil {
			t.Fatal(err)
		}
		now := s.Version("shop", "v2")
		// A raise becomes visible in force only after it was stored.
		if told.InForce && now.Weight < told.Weight {
			t.Errorf("kill %d: v2 had %g in force and has %g after the restart", i, told.Weight, now.Weight)
		}
	}
}

// routeVersions is what Envoy itself says about the route it uses.
func (s *scene) routeVersions(t *testing.T) string {
	_, body := get(t, "http://"+s.admin+"/config_dump?resource=dynamic_route_configs&mask=version_info,route_config.name")
	return body
}

// stat reads the Envoy counters whose name ends in suffix.
func (s *scene) stat(t *testing.T, suffix string) map[string]int {
	_, body := get(t, "http://"+s.admin+"/stats?format=json&filter="+suffix)
	var doc struct {
		Stats []struct {
			Name  string `json:"name"`
			Value any    `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	out := map[string]int{}
	for _, st := range doc.Stats {
		if n, ok := st.Value.(float64); ok && strings.HasSuffix(st.Name, suffix) {
			out[st.Name] = int(n)
		}
	}
	return out
}

// The metrics are clean for promtool, and the names of the contract are there.
func TestMetricsAreClean(t *testing.T) {
	t.Parallel()
	s := newScene(t, setting{ramp: quickRamp})
	s.load(200)
	s.run(0, s.deploy(s.version("v2"))...)
	s.until(30*time.Second, "a step up", func() bool { return s.Version("shop", "v2").Weight > 0.01 })
	_, body := get(t, "http://"+s.Web+"/metrics")
	checkMetrics(t, part(t, "promtool"), body)
	for _, name := range []string{"canaryd_version_weight_ratio", "canaryd_version_requests_total", "canaryd_version_errors_total", "canaryd_version_phase",
		"canaryd_verdicts_total", "canaryd_source_queries_total", "canaryd_source_failures_total", "canaryd_source_age_seconds", "canaryd_decision_seconds_bucket",
		"canaryd_xds_streams", "canaryd_xds_unapplied_nodes", "canaryd_leader", "canaryd_config_last_reload_successful", "canaryd_build_info"} {
		if !strings.Contains(body, "\n"+name) {
			t.Errorf("/metrics lacks %s", name)
		}
	}
	for _, path := range []string{"/-/healthy", "/-/ready", "/api/v1/openapi.json", "/debug/pprof/"} {
		if !rig.Answers("http://" + s.Web + path) {
			t.Errorf("%s does not answer", path)
		}
	}
	s.run(0, "healthcheck")
}
