package analysis

import "math"

// Hiccup is a moment in which a canary fails out of the blue, and what was known before it. While it lasts all of it gains no more
// than one batch may, wherever the batches begin; when it is over, its errors are counted as those of one cause, once.
// The zero value is none.
type Hiccup struct {
	Begin    float64 `json:"begin"` // seconds: the first batch that fails began
	Last     float64 `json:"last"`  // the last one ended
	M        float64 `json:"m"`     // largest clump bound since; 0: there is none
	Usual    float64 `json:"usual"` // and stable's error rate
	Batch    Batch   `json:"batch"` // all that was counted since
	Well     Counts  `json:"well"`  // of it what the canary answered since Last
	Stepped  bool    `json:"stepped"`
	Relative Capital `json:"relative"` // before it
	Ceiling  Capital `json:"ceiling"`

	Classes []classBefore `json:"classes,omitempty"`
}

// classBefore is what was known of a class before a hiccup, and what was counted of it since.
type classBefore struct {
	Capital Capital `json:"capital"`
	Batch   Batch   `json:"batch"`
}

// clear is the end of it; what the classes need of memory is kept.
func (h *Hiccup) clear() { *h = Hiccup{Classes: h.Classes[:0]} }

// Moments are the hiccups that were counted as one error each, and the errors in them.
type Moments struct {
	Count  int     `json:"count"`
	Errors float64 `json:"errors"`
}

const (
	// unusual is how many times stable's errors a batch of the canary's has at least with which a hiccup may begin.
	unusual = 3.0
	// A hiccup has so many errors, and so many times stable's beside them.
	fewest, outOfTheBlue = 1.5, 10.0
	// calm is how many times stable's errors the canary has in the minute around it at most; one more for each error beyond two.
	calm = 2.0
	// due is how many more errors had to come if it went on, before it is said to be over: with a chance of 5 % it is not. Each one
	// that comes all the same takes four that are due.
	due, dueEach = 3.0, 4.0
	// alone is the part of the evidence that a cut needs which a hiccup may reach alone.
	alone = 0.999
)

// see takes in a batch that is about to be bet on.
func (h *Hiccup) see(j *Judge, burst float64, b Batch, m, lately float64, s span) {
	if s.to < h.Begin-s.round { // the clock was set back: until it is there again nothing would end it
		*h = Hiccup{}
	}
	fails := b.Canary.Errors > unusual*b.Canary.Requests*lately+0.5
	if fails && !h.reaches(burst, s) && !h.large() && !(j.Together && h.follows(burst, s)) {
		*h = Hiccup{M: m, Begin: s.to - s.round, Relative: j.Relative, Ceiling: j.Ceiling, Classes: h.Classes[:0]}
		if j.Classes != nil {
			for i := range j.Classes.Each {
				h.Classes = append(h.Classes, classBefore{Capital: j.Classes.Each[i].Capital})
			}
		}
	}
	if h.M == 0 {
		return
	}
	h.M, h.Usual, h.Stepped = max(h.M, m), max(h.Usual, lately), h.Stepped || j.Stepped
	h.Batch.Canary, h.Batch.Stable = h.Batch.Canary.Add(b.Canary), h.Batch.Stable.Add(b.Stable)
	h.Well = h.Well.Add(b.Canary)
	switch {
	case fails && h.reaches(burst, s):
		h.Last, h.Well = max(h.Last, s.to), Counts{}
	case fails && h.goesOn():
		h.Last = max(h.Last, s.to)
	}
}

// seeClasses takes in the same batch class by class.
func (h *Hiccup) seeClasses(batches []ClassBatch) {
	if h.M == 0 || len(batches) != len(h.Classes) {
		return
	}
	for i := range batches {
		b := &h.Classes[i].Batch
		b.Canary, b.Stable = b.Canary.Add(batches[i].Canary), b.Stable.Add(batches[i].Stable)
	}
}

// reaches reports a batch that one burst can have touched as well as the first one that failed; reports are not quite regular.
func (h *Hiccup) reaches(burst float64, s span) bool {
	return h.M > 0 && s.to-h.Begin <= reach(burst, s)
}

// reach is the longest time from the beginning of the first batch that a burst touches to the end of the last one.
func reach(burst float64, s span) float64 { return (math.Ceil(burst/s.round-slack) + 1.25) * s.round }

// follows reports a batch that a second burst can have touched, which came before this one was known to be over.
func (h *Hiccup) follows(burst float64, s span) bool {
	return h.M > 0 && s.to-h.Begin <= 2*reach(burst, s)+burst+s.round
}

// failed are the canary's counts from the first batch that fails to the last one.
func (h *Hiccup) failed() Counts { return h.Batch.Canary.less(h.Well) }

// large reports more errors than usually come together.
func (h *Hiccup) large() bool {
	c := h.failed()
	return h.M > 0 && c.Errors >= fewest+outOfTheBlue*c.Requests*h.Usual
}

// outlasts reports that more has failed than a burst can have, though it met twice the usual traffic.
func (h *Hiccup) outlasts(burst float64, s span) bool {
	c, lasted := h.Batch.Canary, s.to-h.Begin
	return h.M > 0 && c.Errors*lasted > 2*burst*c.Requests+3*lasted
}

// after reports a hiccup of which nothing was known yet at the end of a batch: it does not cut alone, however much was known before.
func (h *Hiccup) after(e end) bool { return h.large() && e.At <= h.Begin+slack }

// goesOn reports that as much has failed since as one burst can have touched.
func (h *Hiccup) goesOn() bool { return h.Well.Errors > h.failed().Errors }

// over reports that it is: nothing failed for as long as a burst lasts, nor for as many requests as it would take.
func (h *Hiccup) over(burst float64, s span) bool {
	c := h.failed()
	return s.to-h.Last >= burst-slack && h.Well.Requests*c.Errors >= (due+dueEach*h.Well.Errors)*c.Requests
}

// settle ends a hiccup that is over, and what was none when it ends, or after a minute.
func (j *Judge) settle(cfg *Config, now float64, s span) {
	h := &j.Hiccup
	switch {
	case h.M == 0:
	case h.goesOn():
		if s.to-h.Last >= cfg.Burst-slack || s.to-h.Begin > clumpSeconds {
			h.clear()
		}
	case h.over(cfg.Burst, s):
		j.recount(cfg, now)
		h.clear()
	case s.to-h.Begin > clumpSeconds:
		h.clear()
	}
}

// recount takes a hiccup of one endpoint for one cause: all since it began is bet on once more, as one batch whose clump bound is no
// smaller than its errors, from what was known before, and the smaller of both capitals stays. Which one depends on the past only,
// and E never rises, so it stays below a supermartingale that begins at 1: the promise stands.
func (j *Judge) recount(cfg *Config, now float64) {
	h := j.Hiccup
	errors := h.failed().Errors
	around := j.Recent.since(now - clumpSeconds).Canary.less(h.Batch.Canary)
	if !h.large() || around.Errors > calm*around.Requests*h.Usual+errors-2 || j.severalFail(h.Begin, h.Begin) {
		return
	}
	known, m := j.E(cfg), max(h.M, errors)
	if h.Relative.Relative(cfg, h.Batch, m, now, h.Stepped); h.Relative.E < j.Relative.E {
		j.Relative = h.Relative
	}
	if cfg.Ceiling > 0 && h.Usual < cfg.Ceiling {
		if h.Ceiling.Absolute(cfg, cfg.Ceiling, h.Batch.Canary, m, now, h.Stepped); h.Ceiling.E < j.Ceiling.E {
			j.Ceiling = h.Ceiling
		}
	}
	j.recountClasses(cfg, now)
	if j.E(cfg) < known {
		j.Moments = Moments{j.Moments.Count + 1, j.Moments.Errors + errors}
	}
	for i := range j.Ends.Len { // nothing gains from what was taken back
		j.Ends.At[i].E = min(j.Ends.At[i].E, j.E(cfg))
	}
}

// recountClasses does the same with each class, all of whose errors since are those of the one cause.
func (j *Judge) recountClasses(cfg *Config, now float64) {
	if j.Classes == nil {
		return
	}
	h := &j.Hiccup
	for i := range min(len(h.Classes), len(j.Classes.Each)) {
		c, own := h.Classes[i].Capital, &j.Classes.Each[i].Capital
		if c.Relative(cfg, h.Classes[i].Batch, max(h.M, h.Classes[i].Batch.Canary.Errors), now, h.Stepped); c.E < own.E {
			*own = c
		}
	}
	e, _ := j.sum(cfg)
	j.Classes.E = min(j.Classes.E, e)
}
