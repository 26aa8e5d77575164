package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
)

const quickRamp = `
ramp: {steps: [1%, 5%, 25%, 50%, 100%], hold: 1s}
judge: {promote_within: {ratio: 2, margin: 0.5%}, clump: 1}
`

// Only here one release is promoted and the next one cut, with both sources and on both Envoys: a clean release takes over,
// a failing one is cut, and no user sees an error that a version did not make.
func TestACleanReleaseTakesOverAndAFailingOneIsCut(t *testing.T) {
	t.Parallel()
	for _, set := range []setting{
		{source: "envoy", envoy: "envoy-newest"},
		{source: "envoy", envoy: "envoy-oldest"},
		{source: "prometheus", scrape: time.Second, envoy: "envoy-newest"},
	} {
		t.Run(set.source+" "+set.envoy, func(t *testing.T) {
			t.Parallel()
			set.ramp = quickRamp
			s := newScene(t, set)
			l := s.load(500)
			v2, v3 := s.version("v2"), s.version("v3")
			s.run(0, s.deploy(v2, "--wait", "--timeout", "5m")...)
			s.phase("v1", 10*time.Second, rollout.Warm)
			if c := v2.Count(); c.Requests == 0 {
				t.Fatal("v2 was promoted and served nothing")
			}
			v3.Fail(1)
			out := s.run(10, s.deploy(v3, "--wait", "--timeout", "5m")...)
			if !strings.Contains(out, "error rate 100%") {
				t.Errorf("the reason does not say the error rate: %s", out)
			}
			s.nothingReaches(v3, "v2")
			cut := v3.Count()
			s.run(10, "wait", "shop", "v3") // its fate is known at once
			sent := l.Stop()
			if made := v3.Count().Failed; sent.Failed != made {
				t.Errorf("users saw %d failures, versions made %d: %s", sent.Failed, made, sent)
			}
			t.Logf("%s; v3 failed %d requests in %.2f s", sent, cut.Failed, cut.Last.Sub(cut.Onset).Seconds())
			s.historyExplains(t)
			s.replays(t)
		})
	}
}

// replays checks that what was decided comes out of the journal, byte for byte, and what another policy had made of it.
func (s *scene) replays(t *testing.T) {
	t.Helper()
	out := s.run(0, "replay", "shop")
	for _, want := range []string{`v2 .*promoted `, `v3 .*rolled back `, `all [0-9]+ decisions came out as they were, byte for byte`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("without %q:\n%s", want, out)
		}
	}
	file := filepath.Join(t.TempDir(), "strict.yml")
	if err := os.WriteFile(file, []byte("service: shop\nramp: {steps: [1%, 5%, 25%, 50%, 100%], hold: 1h}\njudge: {clump: 1, false_rollback: 5%}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out = s.run(0, "replay", "--policy", file, "shop")
	for _, want := range []string{`v2 .*promoted .*undecided`, `v3 .*rolled back .*rolled back `} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("without %q:\n%s", want, out)
		}
	}
	t.Logf("\n%s", out)
}

func (s *scene) historyExplains(t *testing.T) {
	t.Helper()
	s.tells("shop", "announced", "started", "advanced", "promoted", "rolled_back", "policy ")
	if out := s.run(0, "explain", "shop", "v3"); !strings.Contains(out, "worse: error rate") {
		t.Errorf("explain says:\n%s", out)
	}
}

// A sidecar with a listener of its own asks for RDS `shop` and follows the same weights.
func TestASidecarWithItsOwnListenerFollows(t *testing.T) {
	t.Parallel()
	s := newScene(t, setting{ramp: "ramp: {steps: [50%, 100%], hold: 1h}\njudge: {clump: 1}\n"})
	own := rig.FreeAddress()
	_, _, err := s.StartEnvoy(t.Context(), "sidecar-1", "sidecars", func(b string) string {
		return strings.Replace(b, "static_resources:\n", ownListener(own), 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.until(10*time.Second, "an answer through the sidecar", func() bool { return rig.Answers("http://" + own + "/") })
	v2 := s.version("v2")
	s.run(0, s.deploy(v2)...)
	s.until(10*time.Second, "v2 to be in force on both", func() bool { v := s.Version("shop", "v2"); return v.InForce && v.Weight == 0.5 })
	l := &rig.Load{URL: "http://" + own + "/", Rate: 500}
	l.Start(t.Context())
	time.Sleep(4 * time.Second)
	sent := l.Stop()
	if share := float64(sent.ByName["v2"]) / float64(sent.Requests); share < 0.44 || share > 0.56 || sent.Failed > 0 {
		t.Errorf("v2 got %.3f of the sidecar's requests, want 0.5: %s", share, sent)
	}
	if svc, err := s.Service("shop"); err != nil || svc.Envoys.Applied != 2 {
		t.Errorf("%+v Envoys, want 2 (%v)", svc.Envoys, err)
	}
	s.run(0, "abort", "shop")
	s.until(5*time.Second, "the abort to be in force", func() bool { svc, _ := s.Service("shop"); return svc.Find("v1").InForce })
	before := v2.Count().Requests
	for range 200 {
		get(t, "http://"+own+"/")
	}
	if n := v2.Count().Requests - before; n > 0 {
		t.Errorf("%d requests reached v2 after the abort was in force", n)
	}
}

func ownListener(address string) string {
	host, port, _ := strings.Cut(address, ":")
	return `static_resources:
  listeners:
  - name: own
    address: {socket_address: {address: "` + host + `", port_value: ` + port + `}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: own
          rds: {route_config_name: shop, config_source: {resource_api_version: V3, ads: {}}}
          http_filters: [{name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`
}
