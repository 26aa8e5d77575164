package main

import "github.com/canaryd/canaryd/internal/analysis"

// classChart shows the evidence against a release of which a class fails wholly, told by class and together: the same requests.
func classChart() chart {
	c := chart{title: "All of a class with 0.03 % of 1 000 requests/s fails (20 classes, stable fails 0.1 %, common ramp)", x: "seconds since the first request", y: "evidence E",
		minX: 0, maxX: 900, minY: 0.01, maxY: 3000, marks: []mark{{"cut at 1000", 1000}, {"no step up at 20", 20}}}
	for x := 0.0; x <= 900; x += 150 {
		c.ticksX, c.labelsX = append(c.ticksX, x), append(c.labelsX, plain(x))
	}
	l := classLaw{law: law{rate: 1000, stable: 0.001, canary: 0.001, clump: 1}, alike: true}
	p := &classPast{}
	p.live(l, 1)
	m := newClassMaker(l, newDice(1))
	m.each[0].canary = 1
	known := p.clone()
	rule := newClassJudged(known, p.usual, l, 0.001)
	apart := &judged{cfg: rule.cfg, j: analysis.NewJudge(), slices: l.slices(), batch: 1, disp: p.disp.Clone(), usual: p.usual}
	lines := [2]line{{name: "by class", colour: "#0a7d33"}, {name: "together", colour: "#c0392b"}}
	done := false
	for t := range 900 {
		w := commonRamp.at(t)
		k := m.second(t, w)
		known.lay(k, w/(1-w))
		apart.given(w, t)
		apart.see(t, k.tick)
		lines[1].points = append(lines[1].points, [2]float64{float64(t + 1), apart.j.E(&apart.cfg)})
		if !done {
			usual := rule.usual.Rate()
			rule.given(w, t)
			done = rule.see(t, k)
			lines[0].points = append(lines[0].points, [2]float64{float64(t + 1), rule.j.E(&rule.cfg)})
			known.learn(k, day+float64(t+1), l.slices(), usual)
		}
	}
	c.lines = lines[:]
	return c
}
