package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// chart is a line chart with a logarithmic y axis.
type chart struct {
	title, x, y string
	logX        bool
	minX, maxX  float64
	minY, maxY  float64
	ticksX      []float64
	labelsX     []string
	lines       []line
	marks       []mark // horizontal
}

type line struct {
	name, colour string
	points       [][2]float64
}

type mark struct {
	name string
	y    float64
}

const (
	wide, high               = 720.0, 380.0
	left, right, top, bottom = 70.0, 130.0, 40.0, 50.0
)

func (c chart) px(x float64) float64 {
	a, b, v := c.minX, c.maxX, x
	if c.logX {
		a, b, v = math.Log(a), math.Log(b), math.Log(v)
	}
	return left + (v-a)/(b-a)*(wide-left-right)
}

func (c chart) py(y float64) float64 {
	y = min(max(y, c.minY), c.maxY)
	return high - bottom - (math.Log(y)-math.Log(c.minY))/(math.Log(c.maxY)-math.Log(c.minY))*(high-top-bottom)
}

func (c chart) svg() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`, wide, high)
	p(`<rect width="%g" height="%g" fill="white"/>`, wide, high)
	p(`<text x="%g" y="22" font-size="14">%s</text>`, left, c.title)
	for y := math.Pow(10, math.Ceil(math.Log10(c.minY)-1e-9)); y <= c.maxY*1.001; y *= 10 {
		p(`<path d="M%g %.1fH%g" stroke="#ddd"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`, left, c.py(y), wide-right, left-6, c.py(y)+4, plain(y))
	}
	for i, x := range c.ticksX {
		p(`<path d="M%.1f %gV%g" stroke="#eee"/><text x="%.1f" y="%g" text-anchor="middle">%s</text>`, c.px(x), top, high-bottom, c.px(x), high-bottom+18, c.labelsX[i])
	}
	p(`<text x="%g" y="%g" text-anchor="middle">%s</text>`, (left+wide-right)/2, high-12, c.x)
	p(`<text x="16" y="%g" transform="rotate(-90 16 %g)" text-anchor="middle">%s</text>`, (top+high-bottom)/2, (top+high-bottom)/2, c.y)
	for _, m := range c.marks {
		p(`<path d="M%g %.1fH%g" stroke="#888" stroke-dasharray="4 3"/><text x="%g" y="%.1f" fill="#555">%s</text>`, left, c.py(m.y), wide-right, wide-right+6, c.py(m.y)+4, m.name)
	}
	var labels []float64
	for _, l := range c.lines {
		if len(l.points) > 0 {
			labels = append(labels, c.draw(p, l, labels))
		}
	}
	p(`</svg>`)
	return b.String()
}

// draw draws a line and names it at its end, clear of the labels that are there; it returns where.
func (c chart) draw(p func(string, ...any), l line, labels []float64) float64 {
	var path strings.Builder
	for i, q := range l.points {
		fmt.Fprintf(&path, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[i == 0], c.px(q[0]), c.py(q[1]))
	}
	p(`<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`, path.String(), l.colour)
	last := l.points[len(l.points)-1]
	y := c.py(last[1]) + 4
	for slices.ContainsFunc(labels, func(o float64) bool { return math.Abs(o-y) < 14 }) {
		y++
	}
	p(`<text x="%.1f" y="%.1f" fill="%s">%s</text>`, c.px(last[0])+6, y, l.colour, l.name)
	return y
}

func plain(v float64) string {
	if v >= 1e6 || v < 0.001 && v > 0 {
		return fmt.Sprintf("%.0e", v)
	}
	return fmt.Sprintf("%g", math.Round(v*1000)/1000)
}

var colours = map[string]string{"canaryd": "#0a7d33", "flagger": "#c0392b", "argo": "#d68910", "kayenta": "#7d3c98", "pipecd": "#2471a3", "alarm": "#7f8c8d", "Wald": "#2c3e50"}

var regressions = []float64{1.5, 2, 3, 5, 10, 30, 100, 1000}

// pictures writes the charts of docs/judge.md.
func pictures(ms []maker, dir string, runs int) error {
	for name, c := range map[string]chart{"evidence": evidenceChart(), "classes": classChart(), "time-to-cut": timeChart(ms, runs), "cost": costChart(ms, runs)} {
		if err := os.WriteFile(filepath.Join(dir, name+".svg"), []byte(c.svg()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func evidenceChart() chart {
	c := chart{title: "Evidence against two releases (500 requests/s, stable fails 0.1 %, 5 % share)", x: "seconds since the first request", y: "evidence E",
		minX: 0, maxX: 240, minY: 0.1, maxY: 3000, marks: []mark{{"cut at 1000", 1000}, {"no step up at 20", 20}}}
	for x := 0.0; x <= 240; x += 60 {
		c.ticksX, c.labelsX = append(c.ticksX, x), append(c.labelsX, plain(x))
	}
	for _, r := range []struct {
		name   string
		canary float64
		colour string
	}{{"clean", 0.001, "#0a7d33"}, {"fails 1 %", 0.01, "#c0392b"}} {
		l, d := law{rate: 500, stable: 0.001, canary: r.canary, clump: 1}, newDice(4)
		wd := &aftermath{}
		rule := newJudged(&library{days: map[pastKey]*past{}}, l, d.IntN(pastsKept), 1)
		ln := line{name: r.name, colour: r.colour}
		for t := range 240 {
			rule.given(0.05, t)
			done := rule.see(t, l.second(d, wd, t, 0.05))
			ln.points = append(ln.points, [2]float64{float64(t + 1), rule.j.E(&rule.cfg)})
			if done == cut {
				break
			}
		}
		c.lines = append(c.lines, ln)
	}
	return c
}

func regressionChart(title, y string, minY, maxY float64) chart {
	c := chart{title: title, x: "error rate of the release, times stable's 0.1 %", y: y, logX: true, minX: 1.5, maxX: 1000, minY: minY, maxY: maxY, ticksX: regressions}
	for _, x := range regressions {
		c.labelsX = append(c.labelsX, "x"+plain(x))
	}
	return c
}

func regressed(x float64) law {
	return law{rate: 1000, stable: 0.001, canary: 0.001 * x, clump: 1}
}

// timeChart draws a point only where a rule catches 95 % of the releases.
func timeChart(ms []maker, runs int) chart {
	c := regressionChart("Seconds to the cut on the common ramp, 1 000 requests/s (only where 95 % are caught)", "seconds", 1, 4000)
	for _, m := range ms {
		ln := line{name: m.name, colour: colours[m.name]}
		for _, x := range regressions {
			if s := measure(regressed(x), m, runs, true); float64(s.cuts) >= 0.95*float64(runs) {
				ln.points = append(ln.points, [2]float64{x, mean(s.times)})
			}
		}
		c.lines = append(c.lines, ln)
	}
	ln := line{name: "Wald's bound", colour: colours["Wald"]}
	for _, x := range regressions {
		if s := wald(regressed(x), horizon); s > 0 {
			ln.points = append(ln.points, [2]float64{x, float64(s)})
		}
	}
	c.lines = append(c.lines, ln)
	return c
}

func costChart(ms []maker, runs int) chart {
	c := regressionChart("Failed requests, each rule on its own documented steps, 1 000 requests/s", "failed beyond stable's rate, first hour", 1, 1e6)
	for _, m := range ms {
		ln := line{name: m.name, colour: colours[m.name]}
		for _, x := range regressions {
			l := regressed(x)
			ln.points = append(ln.points, [2]float64{x, hourCost(l, m, runs)})
		}
		c.lines = append(c.lines, ln)
	}
	return c
}

// hourCost is the mean cost of a release in its first hour: one that was promoted costs in full.
func hourCost(l law, m maker, runs int) float64 {
	sum := 0.0
	for i := range runs {
		r := simulate(l, m, uint64(i)+1, false, horizon)
		sum += r.extra
		if r.decision == promote {
			sum += float64(horizon-r.at) * l.rate * max(0, l.canary-l.stable)
		}
	}
	return sum / float64(runs)
}
