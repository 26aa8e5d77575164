package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/world"
)

// picture draws how long the answers of stable and of a slower release take, and the evidence that the second is slower.
func picture(dir string) error {
	const stable, slower, shown = 0.01, 0.05, 420.0
	upper, lower := panel{top: 50, minX: 10, maxX: 3000, minY: 0.001, maxY: 1, logX: true}, panel{top: 350, maxX: shown, minY: 0.1, maxY: 3000}
	var s svg
	s.put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 620" font-family="sans-serif" font-size="12">`)
	s.put(`<rect width="760" height="620" fill="white"/>`)
	s.text(70, 24, "start", "black", `How long answers take: the share that takes longer (edge 200 ms: 1 % of stable's, 5 % of the release's)`)
	upper.grid(&s, []float64{10, 30, 100, 200, 1000, 3000}, []float64{0.001, 0.01, 0.1, 1}, "milliseconds to the first byte", func(y float64) string { return fmt.Sprintf("%g %%", y*100) })
	s.put(`<path d="M%.1f %.1fV%.1f" stroke="#888" stroke-dasharray="4 3"/>`, upper.px(edgeMillis), upper.top, upper.top+panelHigh)
	s.text(upper.px(edgeMillis)+5, upper.top+14, "start", "#555", "edge: slow is what takes longer")
	s.text(70, 324, "start", "black", "The evidence that its answers are slower (100 requests/s, default ramp, warm-up of 60 s)")
	lower.grid(&s, []float64{0, 60, 120, 180, 240, 300, 360, 420}, []float64{0.1, 1, 10, 100, 1000}, "seconds since the announcement", func(y float64) string { return fmt.Sprintf("%g", y) })
	s.put(`<path d="M70 %.1fH620" stroke="#888" stroke-dasharray="4 3"/>`, lower.py(20))
	s.text(626, lower.py(20)+4, "start", "#555", "held from 20 on")
	for _, c := range []struct {
		name, colour string
		share        float64
	}{{"stable, and as swift", "#0a7d33", stable}, {"slower release", "#c0392b", slower}} {
		upper.line(&s, c.name, c.colour, tail(c.share))
		q := world.Question{Policy: read(tolerant + "}}\n"), PerSecond: 100, Slow: slow(c.share), Instances: twenty, Past: 6 * time.Hour, Horizon: shown * time.Second, Batch: time.Second}
		var points [][2]float64
		q.Seen = func(since time.Duration, v *rollout.Version) {
			if n := len(points); v.Judge != nil && v.Judge.Slow != nil && (n == 0 || points[n-1][1] < lower.maxY) { // the rest is off the chart
				points = append(points, [2]float64{since.Seconds(), v.Judge.Slow.E})
			}
		}
		f := each(1, q)[0]
		lower.line(&s, c.name, c.colour, points)
		if f.Slower > 0 {
			x, y := lower.px(f.Slower.Seconds()), lower.py(20)
			s.put(`<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`, x, y, c.colour)
			s.text(x-8, y-8, "end", c.colour, fmt.Sprintf("held after %.0f s", f.Slower.Seconds()))
		}
	}
	s.put(`</svg>`)
	return os.WriteFile(filepath.Join(dir, "slow.svg"), []byte(s.String()), 0o644)
}

const edgeMillis = 200.0

// tail is the share of answers that take longer than so many milliseconds: a log-normal law around 40 ms of which 1 % take longer than the
// edge, and of a slower version another one around 600 ms, as many as make its share.
func tail(share float64) (points [][2]float64) {
	const z, usual = 2.3263, 0.01 // beyond which 1 % of the normal law lies
	beyond := func(x, median, width float64) float64 { return math.Erfc(math.Log(x/median)/width/math.Sqrt2) / 2 }
	width := math.Log(edgeMillis/40) / z
	late := beyond(edgeMillis, 600, 0.5)
	mixed := (share - usual) / (late - usual)
	for x := 10.0; x <= 3000; x *= 1.03 {
		if y := (1-mixed)*beyond(x, 40, width) + mixed*beyond(x, 600, 0.5); y >= 0.001 {
			points = append(points, [2]float64{x, y})
		}
	}
	return points
}

// panel is one chart of the picture, with a logarithmic y axis.
type panel struct {
	top, minX, maxX, minY, maxY float64
	logX                        bool
}

const panelHigh = 210.0

func (p *panel) px(x float64) float64 {
	a, b := p.minX, p.maxX
	if p.logX {
		a, b, x = math.Log(a), math.Log(b), math.Log(x)
	}
	return 70 + (x-a)/(b-a)*550
}

func (p *panel) py(y float64) float64 {
	y = math.Log(min(max(y, p.minY), p.maxY))
	return p.top + panelHigh*(1-(y-math.Log(p.minY))/(math.Log(p.maxY)-math.Log(p.minY)))
}

func (p *panel) grid(s *svg, xs, ys []float64, axis string, label func(float64) string) {
	for _, x := range xs {
		s.put(`<path d="M%.1f %.1fV%.1f" stroke="#eee"/>`, p.px(x), p.top, p.top+panelHigh)
		s.text(p.px(x), p.top+panelHigh+16, "middle", "black", fmt.Sprint(x))
	}
	for _, y := range ys {
		s.put(`<path d="M70 %.1fH620" stroke="#ddd"/>`, p.py(y))
		s.text(64, p.py(y)+4, "end", "black", label(y))
	}
	s.text(345, p.top+panelHigh+36, "middle", "black", axis)
}

// line draws a line and names it at its end.
func (p *panel) line(s *svg, name, colour string, points [][2]float64) {
	var d strings.Builder
	for i, q := range points {
		fmt.Fprintf(&d, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[i == 0], p.px(q[0]), p.py(q[1]))
	}
	s.put(`<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`, d.String(), colour)
	if n := len(points); n > 0 {
		s.text(p.px(points[n-1][0])+6, p.py(points[n-1][1])+4, "start", colour, name)
	}
}

type svg struct{ strings.Builder }

func (s *svg) put(format string, args ...any) { fmt.Fprintf(s, format+"\n", args...) }

func (s *svg) text(x, y float64, anchor, colour, text string) {
	s.put(`<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">%s</text>`, x, y, anchor, colour, text)
}
