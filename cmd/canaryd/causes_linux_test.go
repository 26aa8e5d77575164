package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/web"
	"github.com/canaryd/canaryd/internal/world"
)

// cause is why a canary does not move, brought about on a daemon with an Envoy.
type cause struct {
	name         string
	steps, judge string                   // of the policy
	traffic      world.Traffic            // what the Envoy does
	more         string                   // a version that is announced beside v2, and asked about
	happens      func(w *town, e *atEdge) // once they are announced; nil: nothing
	until        func(s web.Service) bool // it stands still for this
}

// atEdge is the Envoy of a cause.
type atEdge struct {
	leave  func()
	failed atomic.Bool // stable's requests fail as well
}

func healthy(string, time.Time) float64 { return 0 }

func causes(e *atEdge) []cause {
	says := func(version string, c analysis.Code, more string) func(web.Service) bool {
		return func(s web.Service) bool {
			v := s.Find(version)
			return v != nil && v.Verdict != nil && v.Verdict.Code == c && strings.Contains(v.Verdict.Reason, more) && (v.Requests > 0 || s.Rate == 0)
		}
	}
	busy, idle := world.Traffic{PerSecond: 100, ErrorRate: healthy}, world.Traffic{ErrorRate: healthy}
	refuses, fails := idle, busy
	refuses.Refuse = func(weights map[string]uint32) string {
		return map[bool]string{true: "route: unknown weighted cluster 'shop/v2'"}[weights["shop/v2"] > 0]
	}
	fails.PerSecond = 1000 // of stable, which has hardly any past, ten errors have to come at once to be more than usual
	fails.ErrorRate = func(string, time.Time) float64 { return map[bool]float64{true: 0.6}[e.failed.Load()] }
	started := func(w *town, requests float64) {
		w.until("v2 has its first weight", func(s web.Service) bool {
			v := s.Find("v2")
			return v.Phase == rollout.Canary && v.InForce && v.Requests >= requests
		})
	}
	return []cause{
		{name: "budget", steps: "[1%, 50%, 100%]", judge: "clump: 1", traffic: busy, until: says("v2", analysis.Budget, "")},
		{name: "refusal", steps: "[10%, 100%]", traffic: refuses, until: func(s web.Service) bool {
			return says("v2", analysis.Nack, "")(s) && s.Envoys.Applied == 1 // it was given back what it had
		}},
		{name: "gone Envoy", steps: "[10%, 100%]", traffic: idle, happens: func(w *town, e *atEdge) { started(w, 0); e.leave() }, until: says("v2", analysis.NotInForce, "no other asks")},
		{name: "no evidence", steps: "[10%, 100%]", judge: "no_evidence: {for: 2s, then: hold}", traffic: idle, until: says("v2", analysis.NoTraffic, "judge.no_evidence")},
		{name: "incident", steps: "[10%, 100%]", judge: "clump: 1", traffic: fails, happens: func(w *town, e *atEdge) { started(w, 50); e.failed.Store(true) }, until: says("v2", analysis.IncidentShared, "")},
		{name: "an older canary", steps: "[10%, 30%, 100%]", judge: "clump: 1, budget: 100000", traffic: busy, more: "v3", until: func(s web.Service) bool {
			return says("v2", analysis.Holding, "gathering proof")(s) && says("v3", analysis.Holding, "older canary v2")(s)
		}},
	}
}

// Why is shop's canary not moving? Six causes, each really brought about, as status and explain print them on a terminal of 80
// columns. What depends on the moment (numbers) is not compared.
func TestWhyACanaryDoesNotMove(t *testing.T) {
	shown := make([]string, len(causes(nil)))
	t.Run("causes", func(t *testing.T) {
		for i := range shown {
			e := &atEdge{}
			c := causes(e)[i]
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				shown[i] = fmt.Sprintf("## %s\n%s", c.name, c.bringAbout(t, e))
			})
		}
	})
	whole := strings.Join(shown, "\n")
	for line := range strings.Lines(whole) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	const name = "causes-80.txt"
	if *update {
		golden(t, name, whole)
	}
	kept, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	got, want := strings.Split(numberless(whole), "\n"), strings.Split(numberless(string(kept)), "\n")
	for i := range max(len(got), len(want)) {
		if g, w := append(got, "")[min(i, len(got))], append(want, "")[min(i, len(want))]; g != w {
			t.Errorf("%s differs by more than numbers:\n%s\nwant:\n%s", name, g, w)
		}
	}
}

// bringAbout has a daemon with an Envoy come to the cause, and asks it why.
func (c *cause) bringAbout(t *testing.T, e *atEdge) string {
	w := foundTown(t, fmt.Sprintf(`service: shop
route: {probe: "off", max_stream_duration: 1h}
versions: [{version: v1, endpoints: ["127.0.0.1:1"], stable: true}]
ramp: {steps: %s, hold: 1s}
judge: {%s}
`, c.steps, c.judge))
	c.traffic.Service = "shop"
	ctx, leave := context.WithCancel(t.Context())
	e.leave = leave
	w.joinUntil(ctx, c.traffic)
	w.until("v1 in force", func(s web.Service) bool { return len(s.Versions) == 1 && s.Versions[0].InForce })
	w.want("deploy shop v2 --endpoint 127.0.0.1:2", exitOK, "")
	asked := "v2"
	if c.more != "" {
		asked = c.more
		w.want("deploy shop "+asked+" --endpoint 127.0.0.1:3", exitOK, "")
	}
	if c.happens != nil {
		c.happens(w, e)
	}
	w.until(c.name, c.until)
	text := ""
	for _, command := range []string{"status shop", "explain shop " + asked} {
		code, printed := w.print(80, deed{command: command})
		if code != exitOK {
			t.Errorf("canaryd %s: exit %d: %s", command, code, printed)
		}
		text += fmt.Sprintf("$ canaryd %s\n%s", command, somewhere(printed))
	}
	return text
}
