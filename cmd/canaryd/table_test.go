package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/web"
	"github.com/canaryd/canaryd/internal/xds"
)

var update = flag.Bool("update", false, "rewrite the goldens in testdata")

// fleetOfServices has what a status has to show: long names, several canaries, trouble, ended versions, a new service.
func fleetOfServices(now time.Time) web.Services {
	stable, deadline := "2026-11-27T18-04-11-3f9c2d7a1b", analysis.DeadlinePassed
	at := func(ago time.Duration) *time.Time { t := now.Add(-ago); return &t }
	rate := func(r float64) *float64 { return &r }
	verdict := func(o analysis.Outcome, c analysis.Code, reason string) *analysis.Verdict {
		return &analysis.Verdict{Outcome: o, Code: c, Reason: reason}
	}
	steps := []float64{0.01, 0.05, 0.25, 0.5, 1}
	shop := web.Service{Service: "shop", Stable: &stable, Rate: 140.4, Envoys: web.Envoys{Applied: 2, Behind: 1, Joining: 1}, Versions: []web.Version{
		{Version: "v0", Phase: rollout.Retired, InForce: true, Requests: 1e9, Errors: 1, ErrorRate: rate(1e-9), Steps: steps},
		{Version: stable, Phase: rollout.Stable, Weight: 0.74, Share: 0.7417, Requests: 39190, Errors: 260, ErrorRate: rate(0.00663), Step: 5, Steps: steps, StepSince: at(50 * time.Hour),
			Verdict: verdict(analysis.Pass, analysis.ByHand, "promoted by hand")},
		{Version: "v4", Phase: rollout.Canary, Weight: 0.25, InForce: true, Share: 0.2483, Requests: 1100, Errors: 0, ErrorRate: rate(0), Step: 3, Steps: steps, StepSince: at(40 * time.Second), ToDecide: rate(76),
			Verdict: verdict(analysis.Wait, analysis.Budget, "waiting for more data: at 50% up to 21 requests could fail before a rollback (judge.budget: 20)")},
		{Version: "v5", Phase: rollout.Canary, Weight: 0.01, InForce: true, Share: 0.0101, Requests: 3, Errors: 1, ErrorRate: rate(1.0 / 3), Step: 1, Steps: steps, StepSince: at(26 * time.Hour), Held: &deadline,
			Verdict: verdict(analysis.Wait, analysis.NoTraffic, "no requests to judge since 12:03:04")},
		{Version: "v6", Phase: rollout.Failed, InForce: true, Share: 8.056e-44, Requests: 22751, Errors: 7584, ErrorRate: rate(0.3333), Steps: steps,
			Verdict: verdict(analysis.Fail, analysis.Worse, "error rate 33.33% (7584 of the last 22751) against stable's 0.66% (3 of 450): evidence 1.2e+03 reached 1000")},
		{Version: "v7", Phase: rollout.Queued, InForce: true, Steps: steps,
			Verdict: verdict(analysis.Wait, analysis.Holding, "2 versions may be under test at once (ramp.canaries); the oldest of them is v4")},
		{Version: "v3", Phase: rollout.Warm, InForce: true, Share: 0.00004, Requests: 123456789, Errors: 600, ErrorRate: rate(4.86e-6), Steps: steps},
	}, Warnings: []string{`Envoy legacy-1 refuses the route shop: unknown weighted cluster 'shop/v4'`}}
	return web.Services{Services: []web.Service{
		{Service: "pay", Warnings: []string{}},
		shop,
	}}
}

func TestStatusAsItIsShown(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		width int
		all   bool
	}{"terminal-80": {80, false}, "terminal-120": {120, false}, "terminal-60": {60, false}, "ci": {0, false}, "one-service-80": {80, true}} {
		table := newTable(c.width, now)
		table.all = c.all
		var out bytes.Buffer
		if err := table.write(&out, fleetOfServices(now)); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); c.width > 0 && n >= max(c.width, 80) {
				t.Errorf("%s: %d columns: %s", name, n, line)
			}
			if strings.Contains(line, "e-") || strings.Contains(line, "passed: promoted by hand") {
				t.Errorf("%s: %s", name, line)
			}
		}
		golden(t, "status-"+name+".txt", out.String())
	}
}

// golden compares with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(file); err != nil || got != string(want) {
		t.Errorf("%s looks different (%v):\n%s", name, err, got)
	}
}

func TestNumbersForPeople(t *testing.T) {
	r := func(f float64) string { return rate(&f) }
	for got, want := range map[string]string{
		percent(8.056e-44): "0%", percent(0.0001): "0.01%", percent(0.035417): "3.54%", percent(1): "100%", percent(0.75): "75%",
		r(0): "0%", r(1e-9): "<.001%", r(0.00004): "0.004%", r(0.00663): "0.663%", r(0.12345): "12.35%",
		short(-time.Second): "0s", short(76 * time.Second): "1m16s", short(130 * time.Minute): "2h10m", short(50 * time.Hour): "2d02h",
		amount(9999999): "9999999", amount(123456789): "123457k", amount(1e13): "10000G",
		shorten("v2", 14): "v2", shorten("3f9c2d7a1b0e4c5f6a7b", 14): "3f9c2d7…5f6a7b",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// What is printed in CI about a rollout: a line per change, with the reason.
func TestProgressIsALinePerChange(t *testing.T) {
	now := time.Now()
	s := fleetOfServices(now).Services[1]
	var out bytes.Buffer
	p := progressLog{out: &out}
	v := *s.Find("v4")
	for _, w := range []float64{0.05, 0.05, 0.25} {
		v.Weight = w
		p.show(v, s)
	}
	if n := strings.Count(out.String(), "\n"); n != 2 || !strings.Contains(out.String(), "v4 canary weight 25%, step 3 of 5, about 1m16s to go (budget: waiting for more data: at 50%") {
		t.Errorf("%d lines:\n%s", n, &out)
	}
	if line := progressLine(v, s, 150); !strings.HasPrefix(line, "v4 canary [#####---------------] 25%  step 3 of 5  about 1m16s to go  1100 requests, errors 0% (stable 0.663%)  budget") {
		t.Error(line)
	}
	if line := progressLine(v, s, 112); line != "v4 canary 25%  step 3 of 5  about 1m16s to go  1100 requests, errors 0% (stable 0.663%)  budget  evidence 0/0" {
		t.Error(line)
	}
}

// History and Envoys fit a terminal, where what does not fit stands below; elsewhere each has a line of its own.
func TestHistoryAndEnvoysFit(t *testing.T) {
	at := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	entry := controller.Entry{PolicyHash: "b948927a8d91", Record: rollout.Record{At: at, Version: "v2", Kind: rollout.KindRolledBack, By: "ci-shop (root)", Before: map[string]int{"v1": 9000, "v2": 1000}, After: map[string]int{"v1": 10000},
		Reason: "worse: POST /checkout answers 502 on all 3 endpoints; stable: never", Receipt: &rollout.Receipt{Since: at.Add(-time.Minute), Requests: 100, Errors: 50}}}
	nodes := []web.Node{
		{Node: "edge-1", Cluster: "edge", Build: "1.40.0", Standing: xds.Applied, Since: at, Services: map[string]web.NodeService{"shop": {Weights: map[string]float64{"v1": 1}}}},
		{Node: "edge-2", Cluster: "edge", Build: "1.40.0", Standing: xds.Refused, Since: at, Services: map[string]web.NodeService{"shop": {Type: "route", Resource: "shop", Why: "unknown weighted cluster 'shop/v2', which it does not know at all"}}},
	}
	for width, lines := range map[int][2]int{80: {6, 5}, 0: {2, 3}} {
		var out bytes.Buffer
		table := newTable(width, at)
		if err := table.envoys(&out, nodes); err != nil {
			t.Fatal(err)
		}
		for i, text := range []string{string(historyText(width, []controller.Entry{entry})), out.String()} {
			for line := range strings.Lines(text) {
				if width > 0 && len([]rune(strings.TrimSuffix(line, "\n"))) > width {
					t.Errorf("too long: %s", line)
				}
			}
			if n := strings.Count(text, "\n"); n != lines[i] {
				t.Errorf("%d lines at %d columns, want %d:\n%s", n, width, lines[i], text)
			}
			if words := strings.Join(strings.Fields(text), " "); !strings.Contains(words, "worse: POST /checkout answers 502 on all 3 endpoints; stable: never") && !strings.Contains(words, "edge-1 edge 1.40.0 applied 0s v1 100%") {
				t.Errorf("something is missing:\n%s", text)
			}
		}
	}
}
