// Command slow simulates how releases fare whose answers are slower than stable's, or never come, through the very state machine.
//
//	go run ./bench/slow -runs 40
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/world"
)

func main() {
	runs := flag.Int("runs", 40, "releases of each kind")
	days := flag.Int("days", 6, "days of the false holds")
	only := flag.String("only", "", "only the parts whose name contains this: held, hang, pauses, cold, rollback")
	which := flag.String("world", "", "of rollback only the worlds whose name contains this")
	svg := flag.String("svg", "", "only write the picture of docs/judge.md into this directory")
	flag.Parse()
	if *svg != "" {
		if err := picture(*svg); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	for _, part := range []struct {
		name string
		run  func()
	}{{"held", func() { held(*runs) }}, {"hang", func() { hang(*runs) }}, {"pauses", func() { pauses(*days) }}, {"cold", func() { cold(*runs) }}, {"rollback", func() { rollbacks(*runs, *which) }}} {
		if strings.Contains(part.name, *only) {
			part.run()
		}
	}
}

func read(more string) policy.Policy {
	docs, fs := policy.Parse("bench", []byte("service: shop\n"+more))
	if len(fs.Errors()) > 0 {
		fmt.Fprintln(os.Stderr, fs)
		os.Exit(1)
	}
	return docs[0].Policy
}

const tolerant = "judge: {deadline: {after: 7d}, slow: {edges: [200ms]"

// slow are answers of which one in a hundred of stable's, and a share of the release's, take longer than the edge.
func slow(canary float64) world.Slow {
	return world.Slow{Edges: []float64{0.2}, Stable: 0.01, Canary: canary}
}

// each runs releases that differ by chance.
func each(n int, q world.Question) []world.Fate {
	q.Runs, q.Seed = n, 7
	return q.Fates()
}

// slowest are those that were held for slow answers, and how often.
func slowest(all []world.Fate) (held []time.Duration) {
	for _, f := range all {
		if f.Slower > 0 {
			held = append(held, f.Slower)
		}
	}
	return held
}

func quantiles(all []time.Duration) string {
	if len(all) == 0 {
		return "never"
	}
	slices.Sort(all)
	return fmt.Sprintf("median %.1f s, p90 %.1f s", all[len(all)/2].Seconds(), all[len(all)*9/10].Seconds())
}

var twenty = world.Instances{Stable: 20, Canary: 3}

func held(runs int) {
	fmt.Println("Held for slow answers, since the announcement (default ramp, warm-up of 60 s, 20 instances of stable, 3 of the canary, batches of 1 s):")
	for _, c := range []struct{ rate, canary float64 }{{10, 0.05}, {100, 0.03}, {100, 0.05}, {100, 0.2}, {1000, 0.05}} {
		at := slowest(each(runs, world.Question{Policy: read(tolerant + "}}\n"), PerSecond: c.rate, Slow: slow(c.canary), Instances: twenty, Past: 6 * time.Hour, Horizon: time.Hour, Batch: time.Second}))
		fmt.Printf("  %5.0f/s, 1 -> %g %%: held %d of %d, %s\n", c.rate, 100*c.canary, len(at), runs, quantiles(at))
	}
}

func hang(runs int) {
	fmt.Println("Everything hangs from the third minute on, 5 % of 100 requests/s (Envoy gives up after 15 s): cut, since then")
	for _, errors := range []float64{0.001, 0} {
		for _, batch := range []time.Duration{100 * time.Millisecond, time.Second} {
			for _, what := range []string{"5s", "off"} {
				var at []time.Duration
				hung := 0.0
				for _, f := range each(runs, world.Question{Policy: read("ramp: {steps: [5%, 50%, 100%], hold: 1h}\njudge: {hang: " + what + "}\n"), PerSecond: 100, Stable: errors, Canary: errors, Instances: twenty,
					Stall: world.Stall{At: 3 * time.Minute, Timeout: 15 * time.Second}, Past: 6 * time.Hour, Horizon: 10 * time.Minute, Batch: batch}) {
					if f.Phase == rollout.Failed {
						at, hung = append(at, f.After-f.Stalls), hung+f.Open/float64(runs)
					}
				}
				fmt.Printf("  %g %% fail anyway, reports every %s, judge.hang %s: %d of %d, %s, %.0f requests open then\n", 100*errors, batch, what, len(at), runs, quantiles(at), hung)
			}
		}
	}
}

func pauses(days int) {
	fmt.Println("False holds in 24 h at 50 %, each instance pauses for 0.1 to 2 s once an hour, 1 % slow:")
	for _, rate := range []float64{100, 1000} {
		q := world.Question{Policy: read("ramp: {steps: [50%, 100%], hold: 6d}\n" + tolerant + "}}\n"), PerSecond: rate, Slow: slow(0.01), Instances: world.Instances{Stable: 20, Canary: 20}, Past: 24 * time.Hour, Horizon: 24 * time.Hour, Batch: time.Second}
		q.Slow.Moments = pausing(1)
		n, longest := 0, time.Duration(0)
		for _, f := range each(days, q) {
			n += len(f.Spells)
			longest = slices.Max(append(f.Spells, longest))
		}
		fmt.Printf("  %5.0f/s: %d in %d days, the longest %s\n", rate, n, days, longest)
	}
}

func cold(runs int) {
	fmt.Println("Slow starts: 40 % slow, fading with 15 s, 100/s:")
	for _, warm := range []string{"60s", "0s"} {
		q := world.Question{Policy: read(tolerant + ", warm_up: " + warm + "}}\n"), PerSecond: 100, Slow: slow(0.01), Instances: twenty, Past: 6 * time.Hour, Horizon: time.Hour, Batch: time.Second}
		q.Slow.Cold = 0.4
		fmt.Printf("  warm_up %s: held %d of %d\n", warm, len(slowest(each(runs, q))), runs)
	}
}

// pausing are pauses of an instance, so many an hour: all that it is asked is slow then.
func pausing(perHour float64) world.Moments {
	return world.Moments{PerHour: perHour, Shortest: 100 * time.Millisecond, Longest: 2 * time.Second, Fails: 1}
}

// slowWorld is one of STATISTICS' worlds in which releases are as swift as stable.
type slowWorld struct {
	name string
	set  func(*world.Slow)
	told bool // the tolerance of the defaults; else nothing is tolerated
}

func slowWorlds() []slowWorld {
	drift := func(at time.Duration) float64 { return 0.01 * (1 - math.Cos(2*math.Pi*at.Hours())) } // 1 to 3 % and back in an hour
	return []slowWorld{
		{"independent", func(*world.Slow) {}, false},
		{"pauses once a minute", func(s *world.Slow) { s.Moments = pausing(60) }, false},
		{"pauses once in 10 min", func(s *world.Slow) { s.Moments = pausing(6) }, false},
		{"pauses once an hour", func(s *world.Slow) { s.Moments = pausing(1) }, false},
		{"all are 30 % slow for 3 min, and drift", func(s *world.Slow) {
			s.Shared = func(at time.Duration) float64 {
				if at >= 20*time.Minute && at < 23*time.Minute {
					return 0.3
				}
				return drift(at)
			}
		}, false},
		{"slow starts, 40 % fading with 15 s", func(s *world.Slow) { s.Cold = 0.4 }, false},
		{"instances differ for good by 20 %", func(s *world.Slow) { s.Differ = 0.2 }, true},
		{"instances differ for good by 50 %", func(s *world.Slow) { s.Differ = 0.5 }, true},
		{"noisy neighbours, 20 % for 30 to 120 s once in 2 h", func(s *world.Slow) {
			s.Moments = world.Moments{PerHour: 0.5, Shortest: 30 * time.Second, Longest: 2 * time.Minute, Fails: 0.2}
		}, false},
		{"pauses of up to two minutes once in 2 h", func(s *world.Slow) {
			s.Moments = world.Moments{PerHour: 0.5, Shortest: 100 * time.Millisecond, Longest: 2 * time.Minute, Fails: 1}
		}, true},
	}
}

// rollbacks are equal releases where slow answers may cut.
func rollbacks(runs int, only string) {
	fmt.Println("Equal releases with then: rollback, an hour, 3 instances of the canary, at 0.1 %; pauses are of 0.1 to 2 s of each instance unless said; nothing is tolerated but in worlds where instances differ, and in the last:")
	for _, w := range slowWorlds() {
		if !strings.Contains(w.name, only) {
			continue
		}
		for _, rate := range []float64{200, 1000} {
			for _, untold := range []bool{false, true} {
				tolerate := ", tolerate: {ratio: 1, margin: 0%}"
				if w.told {
					tolerate = ""
				}
				q := world.Question{Policy: read("judge: {slow: {edges: [200ms], then: rollback" + tolerate + "}}\n"), PerSecond: rate, Slow: slow(0.01), Instances: twenty, Past: 24 * time.Hour, Horizon: time.Hour, Batch: time.Second}
				w.set(&q.Slow)
				q.Slow.Untold = untold
				all := each(runs, q)
				cut := 0
				for _, f := range all {
					if f.Phase == rollout.Failed {
						cut++
					}
				}
				fmt.Printf("  %s, %.0f/s, %s: cut %d, held %d of %d\n", w.name, rate, map[bool]string{false: "by endpoint", true: "over time"}[untold], cut, len(slowest(all)), runs)
			}
		}
	}
}
