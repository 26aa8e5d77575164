package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
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
}

// lay makes the batches of a tick, where the canary's instances have so many times the requests of stable's.
func (c *classKnown) lay(k *classTick, load float64) {
	spread := c.disp.Spread()
	for j := range k.each {
		c.batches[j] = analysis.ClassBatch{Batch: k.each[j].batch, M: analysis.Loaded(c.each[j].BoundFrom(spread), load)}
	}
}

func (c *classKnown) learn(k *classTick, now float64, slices int, usual float64) {
	c.disp.Add(now, k.stable(slices), usual)
	for j := range c.each {
		c.each[j].Add(now, k.each[j].stable(slices), usual)
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
func equalTable(w io.Writer, runs int) {
	fmt.Fprintf(w, "\nEQUAL RELEASES CUT, %d classes (20 to 0.03 %% of the requests, failing 0.2 to 3 times as often), nothing tolerated, common ramp, the judge alone on given weights, 1 h judged every second, %d releases a cell\n", allClasses, runs)
	fmt.Fprintln(w, "\"uneasy\": held back at some time, because the classes by themselves speak against the release")
	t := rows(w)
	fmt.Fprintln(t, "requests/s\tat 1 %\tat 0.1 %\tat most (99 %)\tuneasy\tworld")
	var all [2]int
	n := 0
	for _, l := range classLaws() {
		cuts, uneasy := l.count(runs)
		fmt.Fprintf(t, "%g\t%d\t%d\t%.2f%%\t%d\t%s\n", l.rate, cuts[0], cuts[1], 100*atMost(cuts[1], runs, 0.01), uneasy, l.name)
		flushed(t)
		if !l.calmBefore { // outside of the promise
			all[0], all[1], n = all[0]+cuts[0], all[1]+cuts[1], n+runs
		}
	}
	fmt.Fprintf(w, "but for those whose clumps are new: %d of %d cut at 1 %% (at most %.3f%% with 99 %% confidence), %d at 0.1 %% (at most %.3f%%)\n", all[0], n, 100*atMost(all[0], n, 0.01), all[1], 100*atMost(all[1], n, 0.01))
}

func (l classLaw) count(runs int) (cuts [2]int, uneasy int) {
	var mu sync.Mutex
	pasts := make([]classPast, classPasts)
	world.Runs(runs, func(i int) {
		p := &pasts[i%len(pasts)]
		p.once.Do(func() { p.live(l, uint64(i%len(pasts))) })
		hit, held := l.run(p, uint64(i)+1)
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

// run is one release, judged at both levels.
func (l classLaw) run(p *classPast, seed uint64) (cuts [2]bool, uneasy bool) {
	m := newClassMaker(l, newDice(seed))
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
func classInstanceTable(w io.Writer, runs int) {
	fmt.Fprintf(w, "\nEQUAL RELEASES CUT at 0.1 %%, %d classes, versions of instances, nothing tolerated, 400 requests/s, 0.1 %% errors, through the state machine, %d releases a row\n", allClasses, runs)
	t := tabwriter.NewWriter(w, 12, 4, 2, ' ', 0)
	fmt.Fprintln(t, "batch\tinstances\tcut\tat most (99 %)\tworld")
	clean, all := 0, 0
	for _, unanswered := range []float64{0, 0.5} {
		for _, batch := range []time.Duration{time.Second, 200 * time.Millisecond} {
			for _, x := range instanceWorlds() {
				if x.busy || x.outage || x.outside || strings.Contains(x.name, "hiccup") && !strings.Contains(x.name, "300ms") {
					continue
				}
				q := x.question(batch, runs)
				q.Classes = sharedBy(0.0003)
				q.Policy.Route.Classes, q.Pasts, q.Told.Unanswered = world.Named(q.Classes), classPasts, unanswered
				a := q.Ask()
				name := x.name
				if unanswered > 0 {
					name += ", half of the failures unanswered"
				}
				fmt.Fprintf(t, "%s\t%d, %d\t%d\t%.2f%%\t%s\n", batch, max(x.made.Stable, 1), max(x.made.Canary, 1), a.Cut, 100*atMost(a.Cut, runs, 0.01), name)
				flushed(t)
				clean, all = clean+runs-a.Cut, all+runs
			}
		}
	}
	fmt.Fprintf(w, "%d of %d cut, at most %.3f%% with 99 %% confidence\n", all-clean, all, 100*atMost(all-clean, all, 0.01))
}
