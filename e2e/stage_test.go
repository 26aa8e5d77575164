// Package e2e tests canaryd with the real parts: Envoy (the newest and the oldest supported),
// Prometheus, a service in several versions, and a steady load.
package e2e

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/web"
)

// part finds a binary that `make e2e` has fetched; a missing one is a failure, never a skip.
func part(t *testing.T, name string) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Join(root, ".tools/bin"), filepath.Join(root, "bin")} {
		if p := filepath.Join(dir, name); exists(p) {
			return p
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: run `make e2e`, which fetches it", name)
	}
	return p
}

func exists(p string) bool { _, err := os.Stat(p); return err == nil }

// patience is by how much longer than on an idle machine a test waits for what must come: nothing but a defect may
// exhaust it, and it costs time only then.
const patience = 4

// within judges how long something took. A busy machine may miss the goal; ten times that is a defect. `make figures`
// wants the goal itself.
func within(t *testing.T, what string, took, goal time.Duration) {
	t.Helper()
	t.Logf("%s took %.2f s, the goal is %s", what, took.Seconds(), goal)
	if os.Getenv("FIGURES") == "" {
		goal *= 10
	}
	if took > goal {
		t.Errorf("%s took %s, at most %s will do", what, took, goal)
	}
}

// scene is a stage with an edge Envoy on canaryd's listener and a few versions.
type scene struct {
	*rig.Stage
	t        *testing.T
	front    string
	relay    *relay
	admin    string
	versions map[string]*rig.Service
}

type setting struct {
	source string // envoy or prometheus
	scrape time.Duration
	envoy  string
	route  string // more YAML inside `route: {…}`
	first  string // address of v1 where the test runs it itself
	ramp   string // YAML under `ramp:` and below
	extra  string // more canaryd.yml
	relay  bool   // the Envoy reaches canaryd through something that may break its connections
	home   string // directory of canaryd's own files, its log too; empty: one with the others'
}

// policyText is a policy for v1 with short holds.
func policyText(front, v1, more string) string {
	return fmt.Sprintf("service: shop\nroute: {listener: %q}\nversions: [{version: v1, endpoints: [%q], stable: true}]\n%s", front, v1, more)
}

func newScene(t *testing.T, set setting) *scene {
	t.Helper()
	if set.envoy == "" {
		set.envoy = "envoy-newest"
	}
	s := &scene{t: t, front: rig.FreeAddress(), versions: map[string]*rig.Service{}}
	extra, prom := set.extra, rig.FreeAddress()
	if set.source == "prometheus" {
		extra += fmt.Sprintf("metrics: {source: prometheus, prometheus: {url: \"http://%s\"}}\n", prom)
	}
	if set.first == "" {
		set.first = s.version("v1").Address
	}
	var err error
	text := policyText(s.front, set.first, set.ramp)
	if set.route != "" {
		text = strings.Replace(text, "route: {", "route: {"+set.route+", ", 1)
	}
	aside := t.TempDir()
	s.Stage, err = rig.NewStage(cmp.Or(set.home, aside), part(t, "canaryd"), extra, map[string]string{"shop.yml": text})
	if err != nil {
		t.Fatal(err)
	}
	s.Aside, s.Envoy, s.Prometheus = aside, part(t, set.envoy), part(t, "prometheus")
	if set.envoy == "envoy-oldest" {
		s.EnvoyVersion = "1.36"
	}
	t.Cleanup(s.Close)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("canaryd's log ends:\n%s", s.Daemon().Tail())
		}
	})
	if err := s.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	if set.relay {
		s.relay = newRelay(t, s.XDS)
		s.XDS = s.relay.address
	}
	if _, s.admin, err = s.StartEnvoy(t.Context(), "edge-1", "edge", nil); err != nil {
		t.Fatal(err)
	}
	if set.source == "prometheus" {
		if _, err := s.StartPrometheusAt(t.Context(), prom, set.scrape, s.admin); err != nil {
			t.Fatal(err)
		}
	}
	s.until(10*time.Second, "the first answer through Envoy", func() bool {
		resp, err := http.Get("http://" + s.front + "/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode != http.StatusServiceUnavailable // of gRPC services this is a refusal that came through
	})
	if set.source == "prometheus" { // a new Prometheus begins to scrape after some seconds
		s.until(30*time.Second, "the first scrape", func() bool {
			_, body := get(t, s.PrometheusURL+"/api/v1/query?query=envoy_cluster_upstream_rq_completed")
			return strings.Contains(body, "shop/v1")
		})
	}
	return s
}

func (s *scene) version(name string) *rig.Service {
	s.t.Helper()
	v, err := rig.NewService(name, "")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(v.Close)
	s.versions[name] = v
	return v
}

func (s *scene) until(most time.Duration, what string, f func() bool) {
	s.t.Helper()
	if err := rig.WaitFor(s.t.Context(), patience*most, what, f); err != nil {
		s.t.Fatal(err)
	}
}

// load sends requests to the edge until the test ends.
func (s *scene) load(rate int) *rig.Load {
	l := &rig.Load{URL: "http://" + s.front + "/", Rate: rate}
	l.Start(context.WithoutCancel(s.t.Context()))
	s.t.Cleanup(func() { l.Stop() })
	return l
}

// run runs a client verb and checks its exit code. What a slow disk has not stored within two seconds is decided and
// carried out all the same: that is no failure, unless it is what the test wants.
func (s *scene) run(want int, args ...string) string {
	s.t.Helper()
	code, out, errOut, err := s.Run(s.t.Context(), args...)
	if code == 1 && want == 0 && strings.Contains(errOut, "not stored yet") {
		s.t.Logf("canaryd %s: the disk is slow: %s", strings.Join(args, " "), errOut)
		code = 0
	}
	if err != nil || code != want {
		s.t.Fatalf("canaryd %s: exit %d, want %d: %v\n%s\n%s", strings.Join(args, " "), code, want, err, out, errOut)
	}
	return out + errOut
}

// tells waits until the history of a service says all that: a decision is seen before a slow disk has it, and recorded after.
func (s *scene) tells(service string, wants ...string) {
	s.t.Helper()
	var h string
	lacks := func(want string) bool { return !strings.Contains(h, want) }
	said := func() bool {
		h = s.run(0, "history", service)
		return !slices.ContainsFunc(wants, lacks)
	}
	if err := rig.WaitFor(s.t.Context(), patience*5*time.Second, "the history", said); err != nil {
		s.t.Errorf("the history lacks %q:\n%s", slices.DeleteFunc(wants, func(want string) bool { return !lacks(want) }), h)
	}
}

func (s *scene) deploy(v *rig.Service, more ...string) []string {
	return append([]string{"deploy", "shop", v.Version, "--endpoint", v.Address}, more...)
}

func (s *scene) phase(version string, most time.Duration, want rollout.Phase) web.Version {
	s.t.Helper()
	var v web.Version
	err := rig.WaitFor(s.t.Context(), patience*most, fmt.Sprintf("%s to be %s", version, want), func() bool {
		v = s.Version("shop", version)
		return v.Phase == want
	})
	if err != nil {
		s.t.Fatalf("%v; it is %s at %g: %+v", err, v.Phase, v.Weight, v.Verdict)
	}
	return v
}

// nothingReaches checks that a version that was cut gets nothing once that is in force, which shows at another's weight.
func (s *scene) nothingReaches(cut *rig.Service, other string) {
	s.t.Helper()
	s.until(10*time.Second, "the cut in force", func() bool { return s.Version("shop", other).InForce })
	time.Sleep(time.Second) // for what was on its way
	before := cut.Count().Requests
	time.Sleep(time.Second)
	if n := cut.Count().Requests - before; n > 0 {
		s.t.Errorf("%s got %d requests after the cut was in force", cut.Version, n)
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func post(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Post(url, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
