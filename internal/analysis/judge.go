package analysis

import (
	"math"
	"slices"
)

// Judge is everything that is known about one canary. The zero value is not usable: see NewJudge.
type Judge struct {
	Relative  Capital   `json:"relative"`
	Ceiling   Capital   `json:"ceiling"`
	Promotion Promotion `json:"promotion"`
	Exposure  Exposure  `json:"exposure"`
	Interval  Interval  `json:"interval"`
	Recent    Recent    `json:"recent"`
	Placebo   Placebo   `json:"placebo"`
	Ends      Ends      `json:"ends,omitzero"`
	Failing   Failing   `json:"failing,omitzero"`
	Hiccup    Hiccup    `json:"hiccup,omitzero"`
	Moments   Moments   `json:"moments,omitzero"`
	Classes   *Classes  `json:"classes,omitempty"` // nil: all requests are judged together
	Slow      *Slow     `json:"slow,omitempty"`    // nil: how long answers take is not judged

	Open      [Kinds]open `json:"open"`
	LastFlush float64     `json:"last_flush"`
	Stepped   bool        `json:"stepped"` // weight changed since the last update
	Fresh     int         `json:"fresh"`   // updates since then
	Updates   int         `json:"updates"`
	M         float64     `json:"m"`                  // clump bound of the last update
	Together  bool        `json:"together,omitempty"` // stable's errors are known to come together: its instances fail for a moment each, so two of the canary's may do so at once

	IncidentUntil float64 `json:"incident_until"`        // seconds; shared trouble is assumed until then
	Starving      float64 `json:"starving,omitempty"`    // seconds of evidence in which it completed next to nothing; 0: it is not starved
	ObservedAt    float64 `json:"observed_at,omitempty"` // the last evidence
}

// open is a batch that is being filled until both sides have a request.
type open struct {
	Batch
	Since float64 `json:"since"` // its first counts came then
}

// NewJudge starts a judgement with alpha whole.
func NewJudge() Judge {
	start := DefaultRestarts().Start
	return Judge{Relative: NewCapital(start), Ceiling: NewCapital(start), Promotion: NewPromotion()}
}

// CloneTo makes another judge a copy that shares nothing.
func (j *Judge) CloneTo(c *Judge) {
	*c = *j
	c.Failing.Endpoints = slices.Clone(j.Failing.Endpoints)
	c.Classes, c.Hiccup.Classes, c.Slow = j.Classes.clone(), slices.Clone(j.Hiccup.Classes), j.Slow.clone()
}

// Step is called when the canary's weight changed: what straddles the change is dropped, the
// promotion test starts anew, some reserve is bet.
func (j *Judge) Step() {
	j.Stepped, j.Fresh = true, 0
	j.Promotion = NewPromotion()
	j.Ends.stepped()
	j.Open = [Kinds]open{}
	j.Starving = 0
	j.Classes.stepped()
	j.Slow.stepped()
}

// Rebase is called when another version became stable: the null speaks of whichever version is
// stable, so E is kept; only what compares with the old stable's counts starts anew.
func (j *Judge) Rebase() {
	j.Step()
	j.Exposure = Exposure{}
	j.Slow.rebased()
	j.Hiccup.clear()
}

// Baseline is what is known about the stable version beyond the batch.
type Baseline struct {
	M     float64 // clump bound
	Usual float64 // error rate outside incidents
	Kind  int     // of the proxies that counted, 0 to Kinds-1
	Share float64 // canary's weight / stable's weight; 0: do not look for starvation
	Batch float64 // length in seconds of what is observed at once, the longest; 0: not known, a second
	Begun float64 // seconds since the first of it began; 0: the length
	Ended float64 // and since the last of it ended

	Classes []ClassBatch // the answers in the batch, in the order of the judge's classes
	Lost    Batch        // all requests, and failures without an answer, which have no class; zero: none can be told
	Slow    []SlowBatch  // the answers in the batch, in the order of the judge's edges; none: nobody told how long they took
}

// Observe takes in one tick of evidence at a moment in seconds since the canary's first traffic, and
// reports whether a judgement followed.
func (j *Judge) Observe(cfg *Config, b Batch, base Baseline, now float64) bool {
	now = max(now, 0) // the clock may have been set back; who is blind would not cut
	if now < cfg.WarmUp {
		return false
	}
	b.Canary, b.Stable = b.Canary.clip(), b.Stable.clip()
	before := j.before(now, base.M)
	j.Recent.Add(now, b)
	lately := j.Recent.Sum(now)
	j.watchIncident(cfg, base, lately, now)
	j.watchStarvation(base, lately, now)
	j.betSlow(cfg, &base, before, now, false)
	m := base.M
	if before > 0 { // few requests cannot hide a big clump
		m = min(max(before, 1), m)
	}
	byClass := j.byClass(&base)
	if byClass { // at once: a class waits for its own requests
		j.ended(cfg, j.betClasses(cfg, b, &base, m, lately.Stable.Rate(), now, false))
	}
	o := &j.Open[base.Kind]
	if o.Batch == (Batch{}) || now-o.Since > OpenBatchLimit {
		o.Batch, o.Since = Batch{}, now
	}
	o.Canary, o.Stable = o.Canary.Add(b.Canary), o.Stable.Add(b.Stable)
	if o.Canary.Requests < 1 || o.Stable.Requests < 1 {
		return false
	}
	j.update(cfg, o.Batch, m, lately.Stable.Rate(), now, base.span(o.Since, now), byClass)
	*o = open{}
	return true
}

// before is how many requests of the canary the last minute had; not all are counted where so many bound no clump of m.
func (j *Judge) before(now, m float64) float64 {
	if j.Slow == nil && j.Recent.canaryHas(now-clumpSeconds, 2*m+1) {
		return 2*m + 1
	}
	return j.Recent.since(now - clumpSeconds).Canary.Requests
}

// span is what a batch covers, in seconds: from (exclusive) to to, in ticks of a length above 0; round is what was told at once, of several
// ticks where it was late.
type span struct{ from, to, tick, round float64 }

// span is that of a batch whose first counts came at one moment and its last ones at another.
func (b *Baseline) span(first, last float64) span {
	tick := b.Batch
	if tick <= 0 {
		tick = 1
	}
	round := max(tick, b.Begun)
	return span{first - round, last - b.Ended, tick, round - min(b.Ended, round-tick)}
}

// Against takes in evidence of one tick that may only speak against the canary: neither the promotion test nor
// the ramp hears of it.
func (j *Judge) Against(cfg *Config, b Batch, base Baseline, now float64) {
	now = max(now, 0)
	b.Canary, b.Stable = b.Canary.clip(), b.Stable.clip()
	if now < cfg.WarmUp {
		return
	}
	j.betSlow(cfg, &base, 0, now, true)
	if b.Canary.Requests < 1 || b.Stable.Requests < 1 {
		return
	}
	j.Recent.Add(now, b)
	if j.byClass(&base) {
		j.ended(cfg, j.betClasses(cfg, b, &base, base.M, b.Stable.Rate(), now, true))
		return
	}
	j.bet(cfg, b, base.M, b.Stable.Rate(), now, base.span(now, now))
	j.ended(cfg, base.span(now, now))
}

// bet puts a batch against the canary, whose stable side failed at a rate lately.
func (j *Judge) bet(cfg *Config, b Batch, m, lately, now float64, s span) {
	known := j.E(cfg)
	j.Hiccup.see(j, cfg.Burst, b, m, lately, s)
	j.Relative.Relative(cfg, b, m, now, j.Stepped)
	if cfg.Ceiling > 0 && lately < cfg.Ceiling {
		j.Ceiling.Absolute(cfg, cfg.Ceiling, b.Canary, m, now, j.Stepped)
	}
	j.capBurst(cfg, s, known)
	j.settle(cfg, now, s)
	j.Stepped = false
}

func (j *Judge) ended(cfg *Config, s span) {
	j.Ends.add(end{s.to, j.E(cfg), j.Promotion.E}, max(1, cfg.Burst))
}

// byClass reports a batch that is told class by class, as the judge looks at it.
func (j *Judge) byClass(base *Baseline) bool {
	return j.Classes != nil && len(base.Classes) == len(j.Classes.Each)
}

func (j *Judge) update(cfg *Config, b Batch, m, lately, now float64, s span, done bool) {
	j.M, j.LastFlush = m, now
	j.Updates, j.Fresh = j.Updates+1, j.Fresh+1
	if !done {
		j.bet(cfg, b, m, lately, now, s)
	}
	if !j.Incident(now) {
		j.Promotion.Update(cfg, b, m, j.Ends.secondAgo(s.to))
	}
	j.Exposure.Add(b, now)
	j.Interval.Update(b, m)
	j.ended(cfg, s)
}

// Alone takes in evidence of a version that has no baseline beside it (at 100 %), against an absolute
// limit.
func (j *Judge) Alone(cfg *Config, c Counts, limit float64, base Baseline, now float64) {
	c = c.clip()
	known := j.Ceiling.E
	j.Ceiling.Absolute(cfg, limit, c, max(base.M, 1), now, j.Stepped)
	j.Stepped = false
	s := base.span(now, now)
	if s.tick >= 0.5 || s.to <= 0 { // one batch is as long as a burst
		return
	}
	most := max(1, j.Ends.before(min(s.from-cfg.Burst, s.to-2*slack)).E) * math.Pow(cfg.Alpha, -1/minBatches)
	if most = max(known, most); j.Ceiling.E > most {
		j.Ceiling.scale((most - j.Ceiling.Q) / (j.Ceiling.E - j.Ceiling.Q))
	}
	j.Ends.add(end{s.to, j.Ceiling.E, j.Promotion.E}, max(1, cfg.Burst))
}

// watchIncident applies rule 3 of STATISTICS.md 2.8: stable suffers lately, and the canary with it.
func (j *Judge) watchIncident(cfg *Config, base Baseline, s Batch, now float64) {
	limit := max(5*base.Usual, 10*cfg.D1)
	if s.Stable.Errors >= 10*base.M && s.Stable.Rate() > limit && s.Canary.Rate() > limit {
		j.IncidentUntil = now + 60
	}
}

// starvedLeast keeps one who begins to starve from looking as if he did not.
const starvedLeast = 1e-3

// watchStarvation notices a canary that completes nothing while stable works. Only time with evidence counts: no
// data is never bad data.
func (j *Judge) watchStarvation(base Baseline, s Batch, now float64) {
	starved := base.Share > 0 && j.Recent.Span(now) >= 25 && s.Stable.Requests >= 1000 &&
		s.Stable.Requests*base.Share >= 10 && s.Canary.Requests < 0.1*s.Stable.Requests*base.Share
	since := now - j.ObservedAt
	switch j.ObservedAt = now; {
	case !starved:
		j.Starving = 0
	case since <= recentSeconds: // of a gap nothing is known
		j.Starving += max(since, starvedLeast)
	}
}

// Incident reports whether trouble shared with stable is being waited out.
func (j *Judge) Incident(now float64) bool { return now < j.IncidentUntil }

// Starved is in how many seconds of evidence the canary has completed next to nothing; 0: it is not starved, or there
// is no evidence at present.
func (j *Judge) Starved(now float64) float64 {
	if now-j.ObservedAt > recentSeconds {
		return 0
	}
	return j.Starving
}

// E is the evidence against the canary: the relative test, averaged with the ceiling's where there is
// one, so that both together cost one alpha; with classes a sum of all of them. Slow answers that may cut have a part in either.
func (j *Judge) E(cfg *Config) float64 {
	if j.Classes != nil {
		return j.Classes.E
	}
	e, _ := j.sum(cfg)
	return e
}

// sum is the evidence that the capitals are, and what of it is not bet.
func (j *Judge) sum(cfg *Config) (e, q float64) {
	switch {
	case j.Classes != nil:
		e, q = j.sumClasses(cfg)
	case cfg.Ceiling > 0:
		u := j.besideSlow(cfg)
		e, q = u*(j.Relative.E+j.Ceiling.E)/2, u*(j.Relative.Q+j.Ceiling.Q)/2
	default:
		u := j.besideSlow(cfg)
		e, q = u*j.Relative.E, u*j.Relative.Q
	}
	if j.slowCuts(cfg) {
		e, q = e+slowPart*j.Slow.E, q+slowPart*j.Slow.reserve()
	}
	return e, q
}

// Worse reports whether the canary has to be cut, and whether the ceiling weighed more.
func (j *Judge) Worse(cfg *Config) (cut, ceiling bool) {
	if cut = reached(j.E(cfg), cfg.Alpha); j.Classes != nil {
		e, _ := j.sum(cfg)
		return cut, cfg.Ceiling > 0 && 2*ceilingPart*j.Ceiling.E > e
	}
	return cut, cfg.Ceiling > 0 && j.Ceiling.E > j.Relative.E
}

// Suspicious reports evidence strong enough to freeze the ramp.
func (j *Judge) Suspicious(cfg *Config) bool { return j.E(cfg) >= holdE }

// Proven reports whether the canary is proven no worse than promote_within at the present weight.
func (j *Judge) Proven(cfg *Config) bool { return reached(j.Promotion.E, cfg.Beta) }

// Unproven is the part of that proof which is still to be gathered: its logarithm grows steadily where the canary is as
// good as stable. 1 at the beginning, more where the evidence spoke against the proof so far.
func (j *Judge) Unproven(cfg *Config) float64 {
	return max(0, 1-math.Log(max(j.Promotion.E, math.SmallestNonzeroFloat64))/math.Log(1/cfg.Beta))
}
