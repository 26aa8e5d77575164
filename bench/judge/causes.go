package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/world"
)

// classShares are the parts of the requests that the classes of the tables have.
var classShares = []float64{0.40, 0.20, 0.15, 0.10, 0.08, 0.04, 0.02, 0.01}

// fault is what is wrong with a release: a share of the requests of one class, on one endpoint, by way of one Envoy, fails in one
// of some ways. "": of all; "any": of one by chance.
type fault struct {
	name                   string
	class, endpoint, envoy string
	kinds                  []string
	rate                   float64
}

func faults() []fault {
	return []fault{
		{"one class fails", "any", "", "", []string{"502"}, 1},
		{"one class fails 30 %", "any", "", "", []string{"502"}, 0.3},
		{"one class fails in three ways", "any", "", "", []string{"502", "503", "504"}, 0.6},
		{"one endpoint fails", "", "any", "", []string{"503"}, 1},
		{"one endpoint does not answer", "", "any", "", []string{analysis.NoAnswer}, 1},
		{"one class fails on one endpoint", "any", "any", "", []string{"500"}, 1},
		{"one status, 20 % of everything", "", "", "", []string{"500"}, 0.2},
		{"no answer, 50 % of everything", "", "", "", []string{analysis.NoAnswer}, 0.5},
		{"one of four Envoys gets no answer", "", "", "any", []string{analysis.NoAnswer}, 1},
	}
}

// causeTable asks how often the cause of a cut is named.
func causeTable(w io.Writer, a asked) {
	s := sheet{asked: a, w: w, name: "causes", columns: "requests/s\tstable fails\tcut \tcause named  \tand no other \tfault",
		title: fmt.Sprintf("THE CAUSE OF A CUT, default policy, 8 classes (40 %% to 1 %% of the requests), stable on 6 endpoints, the release on 3, 4 Envoys, batches of 1 s,\nan hour at most, %d releases a row", a.runs)}
	var sum [3]int
	row := 0
	for _, rate := range []float64{20, 100, 1000} {
		for _, base := range []float64{0, 0.001, 0.01} {
			for _, f := range faults() {
				if row++; !s.takes(fmt.Sprintf("%g/s, %g%%, %s", rate, 100*base, f.name)) {
					continue
				}
				n := f.ask(rate, base, a.row(row))
				s.row("%g\t%g%%\t%d\t%s\t%s\t%s", rate, 100*base, n[0], ofAll(n[1], n[0]), ofAll(n[2], n[0]), f.name)
				for i := range n {
					sum[i] += n[i]
				}
			}
		}
	}
	s.sum("of %d cuts: the cause named in %s, and no other in %s", sum[0], ofAll(sum[1], sum[0]), ofAll(sum[2], sum[0]))
}

func ofAll(n, of int) string {
	if of == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(n)/float64(of))
}

// ask counts the releases that are cut, those whose cause comes first, and those where it is the only one.
func (f fault) ask(rate, base float64, a asked) (n [3]int) {
	var mu sync.Mutex
	world.Runs(a.runs, func(i int) {
		cut, named, alone := f.run(rate, base, a.dice(i))
		mu.Lock()
		defer mu.Unlock()
		for k, yes := range []bool{cut, named, alone} {
			if yes {
				n[k]++
			}
		}
	})
	return n
}

// run is one release; its fault has its place by chance.
func (f fault) run(rate, base float64, d dice) (cut, named, alone bool) {
	x := causeWorld{fault: f, dice: d, rate: rate, base: base}
	x.class, x.endpoint, x.envoy = x.place(f.class, "class-%d", len(classShares)), x.place(f.endpoint, "10.0.1.%d:80", 3), x.place(f.envoy, "edge-%d", 4)
	p := policy.Default()
	p.Service, p.Route.Probe = "shop", policy.ProbeOff
	p.Versions = []policy.Seed{{Version: "stable", Endpoints: x.names("10.0.0.%d:80", 6), Stable: true}}
	at := time.Unix(0, 0).UTC()
	var s world.Release
	s.Take(at, rollout.PolicyChanged{At: at, Policy: p})
	for range 60 {
		at = at.Add(time.Second)
		s.Take(at, x.second(&s.State, at))
	}
	s.Take(at, rollout.Announced{At: at, Version: "release", Endpoints: x.names("10.0.1.%d:80", 3)})
	for range horizon {
		at = at.Add(time.Second)
		s.Take(at, x.second(&s.State, at))
		if v := s.Version("release"); !v.Phase.Waiting() {
			if v.Phase != rollout.Failed {
				return false, false, false
			}
			named = x.named(v.Verdict)
			return true, named, named && len(v.Verdict.Cause) == 1
		}
	}
	return false, false, false
}

// causeWorld makes the evidence of one release with a fault.
type causeWorld struct {
	fault
	dice
	rate, base float64
}

func (x *causeWorld) place(which, format string, of int) string {
	if which == "" {
		return ""
	}
	return fmt.Sprintf(format, x.IntN(of))
}

func (x *causeWorld) names(format string, n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf(format, i))
	}
	return all
}

// named reports whether a verdict's first cause is the fault, and nobody is blamed who has no part in it.
func (x *causeWorld) named(v analysis.Verdict) bool {
	if len(v.Cause) == 0 {
		return false
	}
	class := x.class
	if x.kinds[0] == analysis.NoAnswer {
		class = ""
	}
	c := v.Cause[0]
	kind := len(x.kinds) > 1 && c.Kind == "" || slices.Contains(x.kinds, c.Kind)
	blamesEndpoints, blamesEnvoys := strings.Contains(v.Reason, "of its 3 endpoints"), strings.Contains(v.Reason, "of several Envoys")
	return c.Class == class && kind &&
		blamesEndpoints == (x.endpoint != "") && (x.endpoint == "" || slices.Equal(c.Endpoints, []string{x.endpoint})) &&
		blamesEnvoys == (x.envoy != "") && (x.envoy == "" || slices.Equal(c.Envoys, []string{x.envoy}))
}

func (x *causeWorld) second(s *rollout.State, at time.Time) rollout.Observed {
	e := rollout.Observed{At: at, Batch: time.Second}
	weight := float64(s.Weight("release")) / policy.FullWeight
	for i := range 4 {
		c := rollout.Cell{Slice: fmt.Sprintf("edge-%d", i), From: at.Add(-time.Second), To: at, Counts: map[string]analysis.Counts{}, Endpoints: map[string][]analysis.Slice{}, Answers: map[string][]analysis.Answer{}}
		x.count(&c, "stable", x.rate*(1-weight)/4, x.names("10.0.0.%d:80", 6))
		if s.Version("release") != nil && weight > 0 {
			x.count(&c, "release", x.rate*weight/4, x.names("10.0.1.%d:80", 3))
		}
		e.Cells = append(e.Cells, c)
	}
	return e
}

// count draws what an Envoy counted of a version.
func (x *causeWorld) count(c *rollout.Cell, version string, mean float64, endpoints []string) {
	for _, host := range endpoints {
		var sum analysis.Counts
		for i, share := range classShares {
			class := fmt.Sprintf("class-%d", i)
			n := x.poisson(mean * share / float64(len(endpoints)))
			failed := x.usual(n)
			if version == "release" && (x.class == "" || x.class == class) && (x.endpoint == "" || x.endpoint == host) && (x.envoy == "" || x.envoy == c.Slice) {
				for _, kind := range x.kinds {
					failed[kind] += x.part(n, x.fault.rate/float64(len(x.kinds)))
				}
			}
			left := n
			for _, kind := range []string{"500", "502", "503", "504", analysis.NoAnswer} { // in the same order in each run
				k := min(failed[kind], left)
				left -= k
				sum.Errors += k
				if kind != analysis.NoAnswer && k > 0 {
					c.Answers[version] = append(c.Answers[version], analysis.Answer{Class: class, Code: kind, Endpoint: host, Counts: analysis.Counts{Requests: k, Errors: k}})
				}
			}
			sum.Requests += n
			c.Answers[version] = append(c.Answers[version], analysis.Answer{Class: class, Code: "200", Endpoint: host, Counts: analysis.Counts{Requests: left}})
		}
		c.Endpoints[version] = append(c.Endpoints[version], analysis.Slice{Name: host, Counts: sum})
		c.Counts[version] = c.Counts[version].Add(sum)
	}
}

// usual are the failures that stable has as well.
func (x *causeWorld) usual(n float64) map[string]float64 {
	return map[string]float64{"500": x.part(n, 0.6*x.base), "503": x.part(n, 0.3*x.base), analysis.NoAnswer: x.part(n, 0.1*x.base)}
}

// part draws how many of some fail.
func (x *causeWorld) part(n, rate float64) float64 {
	if rate >= 1 || n == 0 {
		return n * math.Min(rate, 1)
	}
	k := 0.0
	for range int(n) {
		if x.Float64() < rate {
			k++
		}
	}
	return k
}
