package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/world"
)

// classLaw is a world of the promise whose requests have classes.
type classLaw struct {
	law
	across     bool // what fails together is of any classes; else of one
	unanswered bool // one in two times a class fails somewhere, nobody answers
	alike      bool // all classes fail as often
}

// classFactors are how often classes fail, beside the law.
var classFactors = []float64{1, 0.2, 3, 0.5, 1}

// classShares20 are the classes of these worlds: from a fifth of the requests to one in three thousand.
func classShares20() (all []float64) {
	for _, c := range sharedBy(0.0003) {
		all = append(all, c.Share)
	}
	return all
}

func classLaws() (all []classLaw) {
	for _, p := range equals() {
		all = append(all, classLaw{law: p.law})
		switch p.name {
		case "independent errors", "clumps of 10 (geometric)", "clumps of 20 (fixed)":
			all = append(all, classLaw{law: with(p.law, p.name+", unanswered", func(*law) {}), unanswered: true})
		}
		switch p.name {
		case "clumps of 10 (geometric)", "clumps of 20 (fixed)", "beta-binomial, 0.01", "bursts of 10 to 50 s":
			all = append(all, classLaw{law: with(p.law, p.name+", any classes", func(*law) {}), across: true})
		}
	}
	return all
}

// of is what happens to one class, where nothing is of several.
func (l *classLaw) of(j int, share float64) law {
	one := l.law
	f := classFactors[j%len(classFactors)]
	if l.alike {
		f = 1
	}
	one.rate, one.stable, one.canary = l.rate*share, l.stable*f, l.canary*f
	return one
}

// classTick is what one tick brings, in all and by class.
type classTick struct {
	tick
	each []tick
	lost analysis.Batch // failures without an answer
}

// classMaker makes the ticks of one release.
type classMaker struct {
	classLaw
	dice
	shares []float64
	each   []law
	after  []aftermath
	whole  aftermath
	tick   classTick
}

func newClassMaker(l classLaw, d dice) *classMaker {
	m := &classMaker{classLaw: l, dice: d, shares: classShares20()}
	for j, s := range m.shares {
		m.each = append(m.each, l.of(j, s))
	}
	m.after, m.tick.each = make([]aftermath, len(m.shares)), make([]tick, len(m.shares))
	return m
}

func (m *classMaker) second(t int, w float64) *classTick {
	k := &m.tick
	k.tick, k.lost = tick{}, analysis.Batch{}
	if m.across {
		m.spread(k, t, w)
	} else {
		for j := range m.each {
			k.each[j] = m.each[j].second(m.dice, &m.after[j], t, w)
		}
	}
	for j := range k.each {
		k.drop = k.drop || k.each[j].drop
		k.add(k.each[j])
	}
	if m.unanswered {
		m.lose(k)
	}
	return k
}

// spread lays what fails together into any classes.
func (m *classMaker) spread(k *classTick, t int, w float64) {
	all := m.law.second(m.dice, &m.whole, t, w)
	for j, s := range m.shares {
		o := tick{}
		o.batch.Canary.Requests = m.poisson(m.rate * w * s)
		for i := range m.slices() {
			o.slices[i].Requests = m.poisson(m.rate * (1 - w) * s / float64(m.slices()))
			o.batch.Stable.Requests += o.slices[i].Requests
		}
		k.each[j] = o
	}
	fail := func(c *analysis.Counts) { c.Requests, c.Errors = c.Requests+1, c.Errors+1 }
	for range int(all.batch.Canary.Errors) {
		fail(&k.each[m.any()].batch.Canary)
	}
	for i := range m.slices() {
		k.each[0].places[i] = all.places[i] // which class an instance failed is not asked
		for range int(all.slices[i].Errors) {
			o := &k.each[m.any()]
			fail(&o.batch.Stable)
			fail(&o.slices[i])
		}
	}
}

// any is a class by chance.
func (m *classMaker) any() int {
	p := m.Float64()
	for j, s := range m.shares {
		if p -= s; p < 0 {
			return j
		}
	}
	return len(m.shares) - 1
}

// lose takes the class from what nobody answered.
func (m *classMaker) lose(k *classTick) {
	k.lost.Canary.Requests, k.lost.Stable.Requests = k.batch.Canary.Requests, k.batch.Stable.Requests
	take := func(c, from *analysis.Counts, n float64) {
		from.Requests, from.Errors, c.Errors = from.Requests-n, from.Errors-n, c.Errors+n
	}
	for j := range k.each {
		o := &k.each[j]
		if o.batch.Canary.Errors > 0 && m.IntN(2) == 0 {
			take(&k.lost.Canary, &o.batch.Canary, o.batch.Canary.Errors)
		}
		for i := range o.slices {
			if n := o.slices[i].Errors; n > 0 && m.IntN(2) == 0 {
				var gone analysis.Counts
				take(&gone, &o.slices[i], n)
				take(&k.lost.Stable, &o.batch.Stable, n)
			}
		}
	}
}

// classJudged is the judge alone, told class by class what the state machine tells it.
type classJudged struct {
	judged
	known *classKnown
}

// classKnown is what is known of how stable's errors come, whatever the level of the judge.
type classKnown struct {
	disp    analysis.Dispersion
	each    []analysis.Dispersion
	batches []analysis.ClassBatch
	slices  []analysis.Slice // of the tick that is learnt; nobody keeps them
}

// lay makes the batches of a tick, where the canary's instances have so many times the requests of stable's.
func (c *classKnown) lay(k *classTick, load float64) {
	spread := c.disp.Spread()
	for j := range k.each {
		c.batches[j] = analysis.ClassBatch{Batch: k.each[j].batch, M: analysis.Loaded(c.each[j].BoundFrom(spread), load)}
	}
}

func (c *classKnown) learn(k *classTick, now float64, slices int, usual float64) {
	learn := func(d *analysis.Dispersion, k *tick) {
		c.slices = namedInto(c.slices, k.slices[:slices])
		d.Add(now, c.slices, usual)
	}
	learn(&c.disp, &k.tick)
	for j := range c.each {
		learn(&c.each[j], &k.each[j])
	}
}

// classPast is what is known of a service after some hours of stable alone.
type classPast struct {
	once  sync.Once
	disp  analysis.Dispersion
	usual analysis.Usual
	each  []analysis.Dispersion
}

// live takes steps of ten seconds, as a day does, or of one where errors of one second belong together. Its length is that of the fade of what
// is known of clumps lately, many times.
func (p *classPast) live(l classLaw, seed uint64) {
	const seconds = 6 * 3600
	l.law = law{rate: l.rate, stable: l.stable, canary: l.stable, clump: l.clump, fixed: l.fixed, icc: l.icc, burst: l.burst, instances: l.law.instances, calmBefore: l.calmBefore}
	if l.calmBefore {
		l.clump = 1
	}
	step := 10
	if l.burst || l.icc > 0 {
		step = 1
	}
	l.rate *= float64(step)
	m := newClassMaker(l, newDice(1_000_000+seed))
	p.each = make([]analysis.Dispersion, len(m.shares))
	for t := 0; t < seconds; t += step {
		k := m.second(0, 0)
		now := day - float64(seconds-t)
		p.disp.Add(now, k.stable(l.slices()), p.usual.Rate())
		for j := range p.each {
			p.each[j].Add(now, k.each[j].stable(l.slices()), p.usual.Rate())
		}
		p.usual.Add(now, k.batch.Stable)
	}
}

func (p *classPast) clone() *classKnown {
	c := &classKnown{disp: p.disp.Clone(), batches: make([]analysis.ClassBatch, len(p.each))}
	for i := range p.each {
		c.each = append(c.each, p.each[i].Clone())
	}
	return c
}

func newClassJudged(known *classKnown, usual analysis.Usual, l classLaw, alpha float64) *classJudged {
	c := &classJudged{judged: judged{cfg: defaultConfig(), j: analysis.NewJudge(), slices: l.slices(), batch: 1, usual: usual}, known: known}
	c.cfg.Ceiling, c.cfg.Alpha = l.ceiling, alpha
	c.j.Classify(classShares20())
	return c
}

// see is one batch, which the known laid.
func (c *classJudged) see(t int, k *classTick) bool {
	return c.judge(t, k.tick, c.known.disp.Bound(), analysis.Baseline{Classes: c.known.batches, Lost: k.lost})
}

// equalTable counts false cuts in the worlds of the promise where the judge is told classes.
func equalTable(w io.Writer, a asked) {
	s := sheet{asked: a, w: w, name: "equal", columns: "requests/s\tat 1 %\tat 0.1 %\tat most (99 %)\tuneasy\tworld",
		title: fmt.Sprintf("EQUAL RELEASES CUT, %d classes (20 to 0.03 %% of the requests, failing 0.2 to 3 times as often), nothing tolerated, common ramp, the judge alone on given weights, 1 h judged every second, %d releases a cell\n", allClasses, a.runs) +
			"\"uneasy\": held back at some time, because the classes by themselves speak against the release"}
	var all [2]int
	n := 0
	for i, l := range classLaws() {
		if !s.takes(fmt.Sprintf("%g/s, %s", l.rate, l.name)) {
			continue
		}
		cuts, uneasy := l.count(a.row(i))
		s.row("%g\t%d\t%d\t%.2f%%\t%d\t%s", l.rate, cuts[0], cuts[1], 100*atMost(cuts[1], a.runs, 0.01), uneasy, l.name)
		if !l.calmBefore { // outside of the promise
			all[0], all[1], n = all[0]+cuts[0], all[1]+cuts[1], n+a.runs
		}
	}
	s.sum("but for those whose clumps are new: %d of %d cut at 1 %% (at most %.3f%% with 99 %% confidence), %d at 0.1 %% (at most %.3f%%)", all[0], n, 100*atMost(all[0], n, 0.01), all[1], 100*atMost(all[1], n, 0.01))
}

func (l classLaw) count(a asked) (cuts [2]int, uneasy int) {
	var mu sync.Mutex
	l.each(a, func(p *classPast, run int) {
		hit, held := l.run(p, a.dice(run))
		mu.Lock()
		defer mu.Unlock()
		for k := range hit {
			if hit[k] {
				cuts[k]++
			}
		}
		if held {
			uneasy++
		}
	})
	return cuts, uneasy
}

// each does something for each release, of which some have the same past.
func (l classLaw) each(a asked, do func(p *classPast, run int)) {
	pasts := make([]classPast, classPasts)
	world.Runs(a.runs, func(run int) {
		n := run % len(pasts)
		p := &pasts[n]
		p.once.Do(func() { p.live(l, a.past(n)) })
		do(p, run)
	})
}

// run is one release, judged at both levels.
func (l classLaw) run(p *classPast, d dice) (cuts [2]bool, uneasy bool) {
	m := newClassMaker(l, d)
	known := p.clone()
	rules := [2]*classJudged{newClassJudged(known, p.usual, l, 0.01), newClassJudged(known, p.usual, l, 0.001)}
	for _, r := range rules { // as good as stable is the edge of what is promised
		r.cfg.R0, r.cfg.D0 = 1, 0
	}
	for t := range horizon {
		w := commonRamp.at(t)
		k := m.second(t, w)
		if k.drop {
			continue
		}
		known.lay(k, w/(1-w))
		usual := rules[1].usual.Rate()
		for i, r := range rules {
			r.given(w, t)
			cuts[i] = cuts[i] || r.see(t, k)
		}
		known.learn(k, day+float64(t+1), l.slices(), usual)
		_, now := rules[1].j.Uneasy()
		uneasy = uneasy || now
		if cuts[0] && cuts[1] {
			break
		}
	}
	return cuts, uneasy
}

// classInstanceTable asks the same through the very state machine where versions consist of instances that fail for a moment.
func classInstanceTable(w io.Writer, a asked) {
	s := sheet{asked: a, w: w, name: "instances", columns: "batch\tinstances\tcut \tat most (99 %)\tworld                                        \twhich are cut, after",
		title: fmt.Sprintf("EQUAL RELEASES CUT at 0.1 %%, %d classes, versions of instances, nothing tolerated, 400 requests/s, 0.1 %% errors, through the state machine, %d releases a row", allClasses, a.runs)}
	row, cut, all := 0, 0, 0
	for _, unanswered := range []float64{0, 0.5} {
		for _, batch := range []time.Duration{time.Second, 200 * time.Millisecond} {
			for _, x := range instanceWorlds() {
				if x.busy || x.outage || x.outside || strings.Contains(x.name, "hiccup") && !strings.Contains(x.name, "300ms") {
					continue
				}
				if unanswered > 0 {
					x.name += ", half of the failures unanswered"
				}
				if row++; !s.takes(x.name + ", batches of " + batch.String()) {
					continue
				}
				fates := x.byClass(batch, a.row(row), unanswered).Fates()
				n, which := cutOf(fates)
				s.row("%s\t%d, %d\t%d\t%.2f%%\t%s\t%s", batch, max(x.made.Stable, 1), max(x.made.Canary, 1), n, 100*atMost(n, a.runs, 0.01), x.name, which)
				cut, all = cut+n, all+a.runs
			}
		}
	}
	s.sum("%d of %d cut, at most %.3f%% with 99 %% confidence", cut, all, 100*atMost(cut, all, 0.01))
}

// byClass is the world's question about a service with classes.
func (x instanceWorld) byClass(batch time.Duration, a asked, unanswered float64) world.Question {
	q := x.question(batch, a.runs)
	q.Classes, q.Pasts, q.Seed = sharedBy(0.0003), classPasts, a.seed
	q.Policy.Route.Classes, q.Told.Unanswered = world.Named(q.Classes), unanswered
	return q
}

// cutOf is how many were cut, and which of the runs, from 0, after how long.
func cutOf(fates []world.Fate) (n int, which string) {
	for i, f := range fates {
		if f.Phase == rollout.Failed {
			n, which = n+1, which+fmt.Sprintf("%d: %s ", i, f.After)
		}
	}
	return n, strings.TrimSpace(which)
}
