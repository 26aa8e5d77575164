package analysis

import (
	"math"
	"slices"
)

const (
	// MostClasses is how many classes of requests there may be, the rest included.
	MostClasses = 20

	togetherPart = 0.6  // of the evidence is that of all classes together, the rest is shared by the classes
	ceilingPart  = 0.25 // is the ceiling's, where there are classes and a ceiling
	thickFrom    = 3.0  // requests of a class that are expected in a batch: it is compared on its own
	twinTimes    = 10.0 // what all together may reach beyond the strict twin
)

// Classes are a canary's capitals by class of requests: an endpoint of which nobody notices the traffic may fail wholly. The judge's
// relative test compares what comes often class by class and the others together; its twin never mixes classes, and bounds it where
// the canary's mix is another one. (STATISTICS-2.md 1.2) Invariant: the last class is the rest.
type Classes struct {
	E           float64         `json:"e"` // the evidence against the canary, the ceiling's included
	MaxE        float64         `json:"max_e"`
	Twin        Capital         `json:"twin"`
	TwinStepped bool            `json:"twin_stepped,omitempty"`
	Thin        [Kinds]ripening `json:"thin"`
	Lost        [Kinds]ripening `json:"lost"` // failures without an answer
	Each        []Class         `json:"each"`
}

// Class is what is known of one class.
type Class struct {
	Share   float64         `json:"share"` // of stable's requests before the release, 0 to 1; 0: not known, it counts as thin
	Capital Capital         `json:"capital"`
	Open    [Kinds]ripening `json:"open"`
	Minute  float64         `json:"minute,omitempty"` // seconds: the present minute began
	Now     float64         `json:"now,omitempty"`    // requests of the canary in it
	Before  float64         `json:"before,omitempty"` // and in the one before
	Stepped bool            `json:"stepped,omitempty"`
}

// ripening is an open batch, and when the canary's first count came into it: what is laid says nothing of what was before.
type ripening struct {
	open
	First float64 `json:"first,omitempty"`
}

func (r *ripening) add(b Batch, now float64) {
	if r.Batch == (Batch{}) {
		r.Since = now
	}
	if r.Canary.Requests <= 0 {
		r.First = now
	}
	r.Canary, r.Stable = r.Canary.Add(b.Canary), r.Stable.Add(b.Stable)
}

func (b *Batch) whole() bool { return b.Canary.Requests >= 1 && b.Stable.Requests >= 1 }

// ClassBatch is one tick of one class, and how many of its errors one cause may produce together.
type ClassBatch struct {
	Batch
	M float64
}

// Classify has the judge look at classes with stable's shares of requests; the last one is the rest. It is called before any evidence.
func (j *Judge) Classify(shares []float64) {
	if len(shares) < 2 {
		return
	}
	shares = shares[max(0, len(shares)-MostClasses):]
	start := DefaultRestarts().Start
	c := &Classes{E: 1, MaxE: 1, Twin: NewCapital(start), Each: make([]Class, len(shares))}
	for i, s := range shares {
		c.Each[i] = Class{Share: s, Capital: NewCapital(start)}
	}
	j.Classes = c
}

func (c *Classes) clone() *Classes {
	if c == nil {
		return nil
	}
	d := *c
	d.Each = slices.Clone(c.Each)
	return &d
}

// stepped drops what straddles a change of weights, and bets some of every reserve.
func (c *Classes) stepped() {
	if c == nil {
		return
	}
	c.TwinStepped, c.Thin, c.Lost = true, [Kinds]ripening{}, [Kinds]ripening{}
	for i := range c.Each {
		c.Each[i].Stepped, c.Each[i].Open = true, [Kinds]ripening{}
	}
}

// parts are the weights of all classes together and of each class.
func (j *Judge) parts(cfg *Config) (together, each float64) {
	u := j.besideSlow(cfg)
	if cfg.Ceiling > 0 {
		u -= ceilingPart
	}
	return togetherPart * u, (1 - togetherPart) * u / float64(len(j.Classes.Each))
}

// sumClasses is the evidence of all capitals but that of slow answers, and what of it is not bet. Nothing needs the classes to be
// independent of each other.
func (j *Judge) sumClasses(cfg *Config) (e, q float64) {
	c, all, ceiling := j.Classes, &j.Relative, &j.Ceiling
	together, each := j.parts(cfg)
	e, q = together*min(all.E, twinTimes*c.Twin.E), together*min(all.Q, twinTimes*c.Twin.E)
	for i := range c.Each {
		e, q = e+each*c.Each[i].Capital.E, q+each*c.Each[i].Capital.Q
	}
	if cfg.Ceiling > 0 {
		e, q = e+ceilingPart*ceiling.E, q+ceilingPart*ceiling.Q
	}
	return e, q
}

// settled remembers the evidence: no more than a limit, whatever the capitals are.
func (c *Classes) settled(e, limit float64) {
	c.E = min(e, limit)
	c.MaxE = max(c.MaxE, c.E)
}

// logs are the logarithms of what bets are multiplied by.
type logs [tilts]float64

func (l *logs) add(o *logs, m float64) {
	for k := range l {
		l[k] += o[k] / m
	}
}

// pays lets a capital bet once.
func (c *Capital) pays(y *laying, l *logs, weight float64, step bool) {
	c.inject(y.cfg.Restarts, y.now, step)
	for k := range c.S {
		c.pay(k, l[k])
	}
	c.settle(y.gain / weight)
}

// laying is one tick of evidence on its way into the capitals.
type laying struct {
	cfg       *Config
	m, now    float64
	gain      float64 // what one batch may multiply all evidence by
	together  float64 // the weight of all classes together
	each      float64 // and of each class
	kind      int
	alone     bool // nothing is kept for the next tick
	lost      Batch
	all, twin strata
	first     float64 // the canary's first count of what was laid and has failures of it: what has none gains nothing
}

// strata are what one tick lays into a capital of several classes.
type strata struct {
	logs
	laid bool
	n    float64 // requests of the canary in it
	odds logs    // that the bets gave its failures beyond 1, times the requests
}

// add lays a batch, whose gains are l.
func (s *strata) add(cfg *Config, b *Batch, l *logs, m float64) {
	s.logs.add(l, m)
	s.laid, s.n = true, s.n+b.Canary.Requests
	r := b.Stable.Requests / b.Canary.Requests
	for k, theta := range rollbackTilts {
		s.odds[k] += b.Canary.Requests * (tilted(cfg, theta, r) - 1)
	}
}

// addLost lays failures without an answer among all requests, beside the answers laid before: with the same odds, so that both together may
// exceed what is tolerated by nothing, instead of each by itself. What was not laid pays for the tolerance here.
func (s *strata) addLost(cfg *Config, b *Batch, m float64) {
	u := cfg.R0 * b.Canary.Requests / b.Stable.Requests
	for k, theta := range rollbackTilts {
		odds := tilted(cfg, theta, b.Stable.Requests/b.Canary.Requests) - 1
		if s.n > 0 {
			odds = min(s.odds[k]/s.n, (1-1e-12)/u)
		}
		l := -max(0, b.Canary.Requests-s.n) * cfg.D0 * odds
		if b.Canary.Errors > 0 {
			l += b.Canary.Errors * math.Log1p(odds)
		}
		if b.Stable.Errors > 0 {
			l += b.Stable.Errors * math.Log1p(-u*odds)
		}
		s.logs[k] += l / m
	}
	s.laid = true
}

// began notes since when the canary failed in what is laid.
func (y *laying) began(r *ripening) {
	if r.Canary.Errors > 0 {
		y.first = min(y.first, r.First)
	}
}

// lay bets on one tick of all classes: the capital of all of them, the twin, and each class's own.
func (c *Classes) lay(y *laying, all *Capital, step bool, batches []ClassBatch) {
	y.first = y.now
	var requests float64
	for i := range batches {
		requests += batches[i].Canary.Requests
	}
	var scratch ripening
	thin := &c.Thin[y.kind]
	if y.alone {
		thin = &scratch
	}
	var l logs
	for i := range batches {
		b := &batches[i]
		known := false
		if thick := requests*c.Each[i].Share >= thickFrom; !thick {
			thin.add(b.Batch, y.now)
		} else if b.whole() {
			gains(y.cfg, &b.Batch, &l)
			y.all.add(y.cfg, &b.Batch, &l, y.m)
			known = true
		}
		c.layClass(y, i, b, &l, known)
	}
	c.layThin(y, thin)
	c.layLost(y)
	if y.all.laid {
		all.pays(y, &y.all.logs, y.together, step)
	}
	if y.twin.laid {
		c.Twin.pays(y, &y.twin.logs, 1, c.TwinStepped)
		c.TwinStepped = false
	}
}

// layThin bets on what does not come often, all of it together.
func (c *Classes) layThin(y *laying, thin *ripening) {
	switch {
	case thin.whole():
		var l logs
		gains(y.cfg, &thin.Batch, &l)
		y.all.add(y.cfg, &thin.Batch, &l, y.m)
		y.began(thin)
		*thin = ripening{}
	case y.now-thin.Since > OpenBatchLimit:
		*thin = ripening{}
	}
}

// layLost bets on failures without an answer: whose class they were nobody knows, so they are a stratum of their own among all requests.
// Otherwise a canary that answers nothing at all would be compared with nothing, where stable answers all of a class. They speak through
// the rest's capital as well.
func (c *Classes) layLost(y *laying) {
	var scratch ripening
	o := &c.Lost[y.kind]
	if y.alone {
		o = &scratch
	}
	if o.Batch == (Batch{}) || y.now-o.Since > OpenBatchLimit {
		*o = ripening{}
	}
	if y.lost == (Batch{}) {
		return
	}
	if o.add(y.lost, y.now); !o.whole() {
		return
	}
	var l, own logs
	gains(y.cfg, &o.Batch, &l)
	y.all.addLost(y.cfg, &o.Batch, y.m)
	y.twin.addLost(y.cfg, &o.Batch, y.m)
	y.began(o)
	own.add(&l, y.m)
	rest := &c.Each[len(c.Each)-1]
	rest.Capital.pays(y, &own, y.each, rest.Stepped)
	rest.Stepped = false
	*o = ripening{}
}

// layClass bets on one class: the strict twin's stratum, and the class's own capital. l holds the gains of this tick, where they are known.
func (c *Classes) layClass(y *laying, i int, b *ClassBatch, l *logs, known bool) {
	class, last := &c.Each[i], len(c.Each)-1
	class.tally(b.Canary.Requests, y.now)
	var scratch ripening
	o := &class.Open[y.kind]
	if y.alone {
		o = &scratch
	}
	fresh := o.Batch == Batch{}
	o.add(b.Batch, y.now)
	if y.now-o.Since > OpenBatchLimit {
		if i < last {
			c.Each[last].Open[y.kind].add(o.Batch, y.now)
		}
		*o = ripening{}
	}
	if !o.whole() {
		return
	}
	if !known || !fresh {
		gains(y.cfg, &o.Batch, l)
	}
	y.twin.add(y.cfg, &o.Batch, l, y.m)
	y.began(o)
	var own logs
	own.add(l, min(max(class.Now+class.Before, 1), max(b.M, 1)))
	class.Capital.pays(y, &own, y.each, class.Stepped)
	class.Stepped = false
	*o = ripening{}
}

// tally counts the canary's requests of one to two minutes: few cannot hide a big clump.
func (c *Class) tally(requests, now float64) {
	c.Minute = min(c.Minute, now) // the clock may have been set back
	switch since := now - c.Minute; {
	case since >= 2*clumpSeconds:
		c.Minute, c.Before, c.Now = now, 0, 0
	case since >= clumpSeconds:
		c.Minute, c.Before, c.Now = c.Minute+clumpSeconds, c.Now, 0
	}
	c.Now += requests
}

// betClasses puts a tick against the canary, class by class.
func (j *Judge) betClasses(cfg *Config, b Batch, base *Baseline, m, lately, now float64, alone bool) span {
	known, s := j.E(cfg), base.span(now, now)
	j.Hiccup.see(j, cfg.Burst, b, m, lately, s)
	j.Hiccup.seeClasses(base.Classes)
	y := laying{cfg: cfg, lost: base.Lost, m: m, now: now, gain: math.Pow(cfg.Alpha, -1/minBatches), kind: base.Kind, alone: alone}
	y.together, y.each = j.parts(cfg)
	j.Classes.lay(&y, &j.Relative, j.Stepped, base.Classes)
	s.from = base.span(y.first, now).from
	if cfg.Ceiling > 0 && lately < cfg.Ceiling {
		j.Ceiling.Absolute(cfg, cfg.Ceiling, b.Canary, m, now, j.Stepped && y.all.laid)
	}
	e, _ := j.sum(cfg)
	j.Classes.settled(e, mostE)
	j.capBurst(cfg, s, known)
	j.settle(cfg, now, s)
	j.Stepped = j.Stepped && !y.all.laid
	return s
}

// Blame is the class whose own evidence weighs most; -1: all classes together, or the ceiling, weigh more.
func (j *Judge) Blame(cfg *Config) int {
	if j.Classes == nil {
		return -1
	}
	together, each := j.parts(cfg)
	most, at := together*min(j.Relative.E, twinTimes*j.Classes.Twin.E), -1
	for i := range j.Classes.Each {
		if e := each * j.Classes.Each[i].Capital.E; e > most {
			most, at = e, i
		}
	}
	return at
}

// ClassEvidence is what a class alone says against the canary, and with how much of it the class would be enough for a cut.
func (j *Judge) ClassEvidence(cfg *Config, class int) (e, cutAt float64) {
	_, each := j.parts(cfg)
	return j.Classes.Each[class].Capital.E, 1 / (cfg.Alpha * each)
}

// Uneasy reports that the classes alone speak so strongly against the canary that it is not promoted, and which of them most: at most one good
// release in twenty ever gets there.
func (j *Judge) Uneasy() (class int, uneasy bool) {
	if j.Classes == nil {
		return -1, false
	}
	sum, most := 0.0, 0.0
	for i := range j.Classes.Each {
		e := j.Classes.Each[i].Capital.E
		if sum += e; e > most {
			most, class = e, i
		}
	}
	return class, sum >= holdE*float64(len(j.Classes.Each))
}
