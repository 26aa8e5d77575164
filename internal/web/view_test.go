package web

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// What the API says of a version under test, of the stable one, and of one that has ended.
func TestAVersionAsItIsShown(t *testing.T) {
	docs, fs := policy.Parse("test", []byte("service: shop\nroute: {probe: \"off\"}\nversions: [{version: v1, endpoints: [\"10.0.0.1:80\"], stable: true}]\nramp: {steps: [5%, 25%, 100%]}\n"))
	if len(fs.Errors()) > 0 {
		t.Fatal(fs)
	}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var s rollout.State
	for _, e := range []rollout.Event{
		rollout.PolicyChanged{At: at, Policy: docs[0].Policy, Hash: "1"},
		rollout.Announced{At: at, Version: "v2", Endpoints: []string{"10.0.0.2:80"}},
		rollout.Announced{At: at, Version: "v3", Endpoints: []string{"10.0.0.3:80"}},
		rollout.Commanded{At: at, Verb: "abort", Version: "v3"},
	} {
		s, _, _ = rollout.Step(s, e)
	}
	s, _, _ = rollout.Step(s, rollout.Applied{At: at, Generation: s.Generation, InForce: true, Subscribers: 1})
	s.Version("v3").Lately = 1000 // a moment ago
	left := 90.0
	s.Version("v2").Verdict.SecondsToDecide, s.Version("v2").Held, s.Missing = &left, true, &rollout.Missing{Code: analysis.TargetDown}
	for version, want := range map[string]string{
		"v1": `{"attempt":1,"held":null,"in_force":true,"next_step":null,"phase":"stable","request_share":0,"seconds_to_decide":null,"step":3,"step_since":"2026-01-01T00:00:00Z","took_over":"2026-01-01T00:00:00Z","trusted":true,"weight":0.95}`,
		"v2": `{"attempt":1,"held":"target_down","in_force":true,"next_step":0.25,"phase":"canary","request_share":0,"seconds_to_decide":90,"step":1,"step_since":"2026-01-01T00:00:00Z","trusted":false,"weight":0.05}`,
		"v3": `{"attempt":1,"held":null,"in_force":true,"next_step":null,"phase":"aborted","request_share":0,"seconds_to_decide":null,"step":0,"step_since":null,"trusted":false,"weight":0}`,
	} {
		raw, err := json.Marshal(viewVersion(&s, s.Version(version)))
		if err != nil {
			t.Fatal(err)
		}
		var shown, some map[string]any
		if err := json.Unmarshal(raw, &shown); err != nil {
			t.Fatal(err)
		}
		if steps, _ := json.Marshal(shown["steps"]); string(steps) != "[0.05,0.25,1]" {
			t.Errorf("%s: steps %s", version, steps)
		}
		if err := json.Unmarshal([]byte(want), &some); err != nil {
			t.Fatal(err)
		}
		for key, value := range some {
			if shown[key] != value {
				t.Errorf("%s: %s is %v, want %v", version, key, shown[key], value)
			}
		}
	}
}

// A deploy job that announces a new version at the old one's address is told: it would be compared with itself.
func TestVersionsAtOneAddressAreWarnedOf(t *testing.T) {
	version := func(name string, p rollout.Phase, endpoints ...string) *rollout.Version {
		return &rollout.Version{Name: name, Phase: p, Endpoints: endpoints}
	}
	s := rollout.State{Versions: []*rollout.Version{
		version("v0", rollout.Failed, "a:1"), version("v1", rollout.Stable, "a:1", "b:1"), version("v2", rollout.Canary, "c:1", "b:1"),
		version("v3", rollout.Warming, "c:1"), version("v4", rollout.Queued, "d:1"),
	}}
	want := []string{
		"v2 and v1 both run at b:1: one is judged by what the other does; announce where v2 runs",
		"v3 and v2 both run at c:1: one is judged by what the other does; announce where v3 runs",
	}
	if got := twinWarnings(&s); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
