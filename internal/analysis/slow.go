package analysis

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

const (
	// MostEdges is how many edges answers may be told apart by.
	MostEdges = 4
	slowPart  = 0.1 // of the evidence is that of slow answers, where they may cut
	// holdMost is what each bet keeps at most where slow answers only hold: more holds no better, and would outlast for hours what it
	// came from. Bounded one by one, those on a smaller difference stay.
	holdMost = 100.0
)

// SlowConfig is what the policy says of slow answers. The zero value: nothing, they are not judged.
type SlowConfig struct {
	R0, D0 float64 // tolerated: share of slow answers <= R0 * stable's + D0
	R1, D1 float64 `json:",omitzero"` // promoted: proven share < R1 * stable's + D1; 0: no proof is asked for
	Cuts   bool    `json:",omitzero"` // they are a part of the evidence that cuts, else they only hold
	WarmUp float64 // seconds after its first answer for which an instance's count for nothing
}

// Slow is what a canary's slow answers say against it: a second count beside the errors, which are judged apart. An answer is slow
// when it took longer than an edge; each edge has a capital of its own, and the evidence is the mean of them. (STATISTICS-2.md 2)
type Slow struct {
	E     float64 `json:"e"`
	MaxE  float64 `json:"max_e"`
	At    float64 `json:"at,omitempty"` // seconds of the last judgement; 0: there was none
	Edges []Edge  `json:"edges"`
}

// Edge is what is known at one edge.
type Edge struct {
	After     float64     `json:"after"` // seconds: what took longer is slow
	Capital   Capital     `json:"capital"`
	Promotion Promotion   `json:"promotion"`
	Proven    mark        `json:"proven,omitzero"` // what was, when the present second began
	Exposure  Exposure    `json:"exposure"`        // lately: "errors" are slow answers, here and below
	Judged    Batch       `json:"judged"`          // in all
	Open      [Kinds]open `json:"open"`
	M         float64     `json:"m"` // clump bound of the last judgement
	Stepped   bool        `json:"stepped,omitempty"`
}

// mark is what was known at a moment in seconds.
type mark struct {
	At float64 `json:"at"`
	E  float64 `json:"e"`
}

// SlowBatch is one tick of answers at one edge, and how many slow ones one cause may produce together.
type SlowBatch struct {
	Batch // errors are slow answers
	M     float64
}

// Pace has the judge look at answers that took longer than some edges, in seconds. It is called before any evidence.
func (j *Judge) Pace(edges []float64) {
	if len(edges) == 0 {
		return
	}
	x := &Slow{E: 1, MaxE: 1}
	for _, after := range edges[:min(len(edges), MostEdges)] {
		x.Edges = append(x.Edges, Edge{After: after, Capital: NewCapital(DefaultRestarts().Start), Promotion: NewPromotion()})
	}
	j.Slow = x
}

func (x *Slow) clone() *Slow {
	if x == nil {
		return nil
	}
	y := *x
	y.Edges = slices.Clone(x.Edges)
	return &y
}

// stepped drops what straddles a change of weights, and begins the proof anew.
func (x *Slow) stepped() {
	if x == nil {
		return
	}
	for i := range x.Edges {
		e := &x.Edges[i]
		e.Stepped, e.Open, e.Promotion, e.Proven = true, [Kinds]open{}, NewPromotion(), mark{}
	}
}

// rebased drops what was counted beside another stable version.
func (x *Slow) rebased() {
	if x == nil {
		return
	}
	for i := range x.Edges {
		x.Edges[i].Exposure = Exposure{}
	}
}

// slow are the settings of its judgement.
func (c *Config) slow() Config {
	s := *c
	s.R0, s.D0, s.R1, s.D1 = c.Slow.R0, c.Slow.D0, c.Slow.R1, c.Slow.D1
	return s
}

// slowCuts reports whether slow answers are a part of the evidence.
func (j *Judge) slowCuts(cfg *Config) bool { return j.Slow != nil && cfg.Slow.Cuts }

// besideSlow is what of the evidence is left for everything else.
func (j *Judge) besideSlow(cfg *Config) float64 {
	if j.slowCuts(cfg) {
		return 1 - slowPart
	}
	return 1
}

// betSlow puts a tick of slow answers against the canary; alone: nothing speaks for it, and nothing is kept for the next tick.
func (j *Judge) betSlow(cfg *Config, base *Baseline, before, now float64, alone bool) {
	x := j.Slow
	if x == nil || len(base.Slow) != len(x.Edges) {
		return
	}
	known, settings, s, laid := j.E(cfg), cfg.slow(), base.span(now, now), false
	for i := range x.Edges {
		from, bet := x.Edges[i].lay(&settings, &base.Slow[i], layAt{now, before, base.Kind, alone, j.Incident(now)})
		if bet {
			s.from, laid = min(s.from, base.span(from, now).from), true
		}
	}
	if !laid {
		return
	}
	x.E, x.At = x.mean(), now
	x.MaxE = max(x.MaxE, x.E)
	if j.slowCuts(cfg) {
		j.capBurst(cfg, s, known)
		j.ended(cfg, s)
	}
}

// layAt is when evidence is laid, and how.
type layAt struct {
	now, before float64 // before: the canary's requests of the last minute
	kind        int
	alone       bool
	incident    bool
}

// lay bets on a tick at one edge, once both sides have an answer, and returns since when these came.
func (e *Edge) lay(cfg *Config, b *SlowBatch, at layAt) (from float64, bet bool) {
	var scratch open
	o := &e.Open[at.kind]
	if at.alone {
		o = &scratch
	}
	if o.Batch == (Batch{}) || at.now-o.Since > OpenBatchLimit {
		o.Batch, o.Since = Batch{}, at.now
	}
	o.Canary, o.Stable = o.Canary.Add(b.Canary.clip()), o.Stable.Add(b.Stable.clip())
	if !o.whole() {
		return 0, false
	}
	m := max(b.M, 1)
	if at.before > 0 { // few requests cannot hide a big clump
		m = min(max(at.before, 1), m)
	}
	e.Capital.Relative(cfg, o.Batch, m, at.now, e.Stepped)
	if !cfg.Slow.Cuts {
		e.Capital.bound(holdMost)
	}
	e.Stepped, e.M = false, m
	e.Exposure.Add(o.Batch, at.now)
	e.Judged.Canary, e.Judged.Stable = e.Judged.Canary.Add(o.Canary), e.Judged.Stable.Add(o.Stable)
	if !at.alone && !at.incident && cfg.R1 > 0 {
		e.prove(cfg, o.Batch, m, at.now)
	}
	from, *o = o.Since, open{}
	return from, true
}

// prove takes a batch in for the promotion. Within a second it proves no more than a long batch may.
func (e *Edge) prove(cfg *Config, b Batch, m, now float64) {
	if e.Proven.E == 0 || now-e.Proven.At >= 0.9 || now < e.Proven.At {
		e.Proven = mark{now, e.Promotion.E}
	}
	e.Promotion.Update(cfg, b, m, e.Proven.E)
}

func (x *Slow) mean() (e float64) {
	for i := range x.Edges {
		e += x.Edges[i].Capital.E
	}
	return e / float64(len(x.Edges))
}

// reserve is what of the mean is not bet.
func (x *Slow) reserve() (q float64) {
	for i := range x.Edges {
		q += x.Edges[i].Capital.Q
	}
	return q / float64(len(x.Edges))
}

// scale takes a part of all bets away.
func (x *Slow) scale(f float64) {
	for i := range x.Edges {
		x.Edges[i].Capital.scale(f)
	}
	x.E = x.mean()
}

// Fresh reports whether answers were judged lately: what a source no longer tells holds nothing.
func (x *Slow) Fresh(now float64) bool { return x != nil && x.At > 0 && now-x.At <= OpenBatchLimit }

// Slower reports that the canary's answers are so much slower than stable's that it is held: of releases that are no slower at most
// one in twenty ever is.
func (j *Judge) Slower(now float64) bool { return j.Slow.Fresh(now) && j.Slow.E >= holdE }

// ProvenSwift reports whether the canary is proven to be no slower than the policy asks for, at every edge; true where it asks for nothing,
// and where durations are not told.
func (j *Judge) ProvenSwift(cfg *Config, now float64) bool {
	if cfg.Slow.R1 == 0 || !j.Slow.Fresh(now) {
		return true
	}
	return !slices.ContainsFunc(j.Slow.Edges, func(e Edge) bool { return !reached(e.Promotion.E, cfg.Beta) })
}

// BlamesSlow reports that slow answers weigh more than everything else in the evidence.
func (j *Judge) BlamesSlow(cfg *Config) bool {
	if !j.slowCuts(cfg) {
		return false
	}
	e, _ := j.sum(cfg)
	return 2*slowPart*j.Slow.E > e
}

// Worst is the edge that speaks most against the canary.
func (x *Slow) Worst() *Edge {
	at := 0
	for i := range x.Edges {
		if x.Edges[i].Capital.E > x.Edges[at].Capital.E {
			at = i
		}
	}
	return &x.Edges[at]
}

// Paces are the answers that took longer than an edge, lately, and what they prove.
type Paces struct {
	Edge           float64 `json:"edge"`            // seconds
	Requests       float64 `json:"canary_requests"` // with a duration, decayed over 10 minutes
	Slow           float64 `json:"canary_slow"`
	StableRequests float64 `json:"stable_requests"`
	StableSlow     float64 `json:"stable_slow"`
	Evidence       float64 `json:"evidence"`            // that it is slower; the mean over the edges holds it at 20
	Promotion      float64 `json:"promotion,omitempty"` // that it is no slower than judge.promote_within.slow; 0: no proof is asked for
	Clump          float64 `json:"clump"`               // slow answers of one cause
}

// Paces are those of all edges; nil: nothing was judged of them.
func (j *Judge) Paces(cfg *Config) (all []Paces) {
	if j.Slow == nil || j.Slow.At == 0 {
		return nil
	}
	for i := range j.Slow.Edges {
		e := &j.Slow.Edges[i]
		p := Paces{Edge: e.After, Requests: round3(e.Exposure.Canary.Requests), Slow: round3(e.Exposure.Canary.Errors),
			StableRequests: round3(e.Exposure.Stable.Requests), StableSlow: round3(e.Exposure.Stable.Errors), Evidence: e.Capital.E, Clump: e.M}
		if cfg.Slow.R1 > 0 {
			p.Promotion = e.Promotion.E
		}
		all = append(all, p)
	}
	return all
}

func (c *SlowConfig) sound() error {
	if *c != (SlowConfig{}) && !(c.R0 > 0) {
		return fmt.Errorf("the ratio %g of slow answers is above 0", c.R0)
	}
	return each("setting of slow answers", 1e6, c.R0, c.D0, c.R1, c.D1, c.WarmUp/mostSeconds)
}

func (x *Slow) sound() error {
	if x == nil {
		return nil
	}
	if len(x.Edges) == 0 || len(x.Edges) > MostEdges {
		return fmt.Errorf("%d edges of slow answers: there are 1 to %d", len(x.Edges), MostEdges)
	}
	err := errors.Join(each("evidence of slow answers", mostBet, x.E, x.MaxE), seconds(x.At))
	for i := range x.Edges {
		e := &x.Edges[i]
		err = errors.Join(err, e.Capital.sound(), each("promotion", mostBet, append(e.Promotion.N[:], e.Promotion.E, e.Proven.E)...), each("clump bound", clumpMax, e.M),
			e.Exposure.Canary.Sound(), e.Exposure.Stable.Sound(), e.Judged.Canary.Sound(), e.Judged.Stable.Sound(), seconds(e.Exposure.At, e.Proven.At))
		if !(e.After > 0 && !math.IsInf(e.After, 0)) {
			err = errors.Join(err, fmt.Errorf("an edge of %g s", e.After))
		}
		for _, o := range e.Open {
			err = errors.Join(err, o.Canary.Sound(), o.Stable.Sound(), seconds(o.Since))
		}
	}
	return err
}
