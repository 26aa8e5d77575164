// Command slow simulates how releases fare whose answers are slower than stable's, or never come, through the very state machine.
//
//	go run ./bench/slow -runs 40
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
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
	}{{"held", func() { held(*runs) }}, {"hang", func() { hang(*runs) }}, {"pauses", func() { pauses(*days) }}, {"cold", func() { cold(*runs) }}, {"rollback", func() { rollbacks(*runs) }}} {
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

// each runs releases that differ by chance.
func each(n int, q world.Lags) []world.Lag {
	all := make([]world.Lag, n)
	world.Runs(n, func(i int) { all[i] = q.Run(rand.New(rand.NewPCG(uint64(i+1), 7))) })
	return all
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
	for _, c := range []struct{ rate, stable, canary float64 }{{10, 0.01, 0.05}, {100, 0.01, 0.03}, {100, 0.01, 0.05}, {100, 0.01, 0.2}, {1000, 0.01, 0.05}} {
		var at []time.Duration
		for _, f := range each(runs, world.Lags{Policy: read(tolerant + "}}\n"), PerSecond: c.rate, Stable: c.stable, Canary: c.canary, Instances: twenty, Past: 6 * time.Hour, Horizon: time.Hour, Batch: time.Second}) {
			if f.Held > 0 {
				at = append(at, f.Held)
			}
		}
		fmt.Printf("  %5.0f/s, %g -> %g %%: held %d of %d, %s\n", c.rate, 100*c.stable, 100*c.canary, len(at), runs, quantiles(at))
	}
}

func hang(runs int) {
	fmt.Println("Everything hangs from the third minute on, 5 % of 100 requests/s (Envoy gives up after 15 s): cut, since then")
	for _, errors := range []float64{0.001, 0} {
		for _, batch := range []time.Duration{100 * time.Millisecond, time.Second} {
			for _, what := range []string{"5s", "off"} {
				var at []time.Duration
				hung := 0.0
				for _, f := range each(runs, world.Lags{Policy: read("ramp: {steps: [5%, 50%, 100%], hold: 1h}\njudge: {hang: " + what + "}\n"), PerSecond: 100, Errors: errors, Instances: twenty,
					Hangs: 3 * time.Minute, Timeout: 15 * time.Second, Past: 6 * time.Hour, Horizon: 10 * time.Minute, Batch: batch}) {
					if f.Phase == rollout.Failed {
						at, hung = append(at, f.Cut), hung+f.Hung/float64(runs)
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
		var spells []time.Duration
		for _, f := range each(days, world.Lags{Policy: read("ramp: {steps: [50%, 100%], hold: 6d}\n" + tolerant + "}}\n"), PerSecond: rate, Stable: 0.01, Canary: 0.01, Instances: world.Instances{Stable: 20, Canary: 20},
			Pauses: world.Moments{PerHour: 1, Shortest: 100 * time.Millisecond, Longest: 2 * time.Second}, Past: 24 * time.Hour, Horizon: 24 * time.Hour, Batch: time.Second}) {
			spells = append(spells, f.Spells...)
		}
		longest := time.Duration(0)
		for _, s := range spells {
			longest = max(longest, s)
		}
		fmt.Printf("  %5.0f/s: %d in %d days, the longest %s\n", rate, len(spells), days, longest)
	}
}

func cold(runs int) {
	fmt.Println("Slow starts: 40 % slow, fading with 15 s, 100/s:")
	for _, warm := range []string{"60s", "0s"} {
		n := 0
		for _, f := range each(runs, world.Lags{Policy: read(tolerant + ", warm_up: " + warm + "}}\n"), PerSecond: 100, Stable: 0.01, Canary: 0.01, Cold: 0.4, Instances: twenty, Past: 6 * time.Hour, Horizon: time.Hour, Batch: time.Second}) {
			if f.Held > 0 {
				n++
			}
		}
		fmt.Printf("  warm_up %s: held %d of %d\n", warm, n, runs)
	}
}

func rollbacks(runs int) {
	fmt.Println("Equal releases with then: rollback, an hour, 3 instances of the canary, at 0.1 %:")
	for _, c := range []struct {
		name    string
		perHour float64
		longest time.Duration
	}{{"independent", 0, 0}, {"pauses once a minute", 60, 2 * time.Second}, {"pauses once in 10 min", 6, 2 * time.Second}, {"pauses once an hour", 1, 2 * time.Second}, {"pauses of up to two minutes once in 2 h", 0.5, 2 * time.Minute}} {
		for _, rate := range []float64{200, 1000} {
			cut, held := 0, 0
			for _, f := range each(runs, world.Lags{Policy: read("judge: {slow: {edges: [200ms], then: rollback}}\n"), PerSecond: rate, Stable: 0.01, Canary: 0.01, Instances: twenty,
				Pauses: world.Moments{PerHour: c.perHour, Shortest: 100 * time.Millisecond, Longest: c.longest}, Past: 24 * time.Hour, Horizon: time.Hour, Batch: time.Second}) {
				if f.Phase == rollout.Failed {
					cut++
				}
				if f.Held > 0 {
					held++
				}
			}
			fmt.Printf("  %s, %.0f/s: cut %d, held %d of %d\n", c.name, rate, cut, held, runs)
		}
	}
}
