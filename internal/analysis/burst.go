package analysis

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
)

const (
	// MostBurst is the longest burst in seconds that can be asked for.
	MostBurst = 5.0
	slack     = 1e-3 // of moments that were counted in milliseconds
)

// Ends are what was known at the ends of the last batches: what one burst, or one second, may gain is measured from
// there, not from batch to batch, of which a short interval, or several Envoys that report at different moments, have many.
// (STATISTICS-2.md 3.2) Invariant: 0 <= Len <= len(At), and the ends before Len are in order of time.
type Ends struct {
	At  [32]end
	Len int
}

type end struct {
	At        float64 `json:"at"` // seconds
	E         float64 `json:"e"`
	Promotion float64 `json:"promotion"`
}

// before is the last end that is no later than a moment; nothing was gained before the first one.
func (x *Ends) before(at float64) end {
	for i := x.Len - 1; i >= 0; i-- {
		if x.At[i].At <= at+slack {
			return x.At[i]
		}
	}
	return end{E: 1, Promotion: 1}
}

// earlier is the last end before a moment.
func (x *Ends) earlier(at float64) end { return x.before(at - 2*slack) }

// add takes in the end of a batch. Ends that lie closer together than a twelfth of what is looked back over are as good as one: the
// earlier one stays, from which less was gained.
func (x *Ends) add(e end, back float64) {
	for x.Len > 0 && x.At[x.Len-1].At > e.At {
		x.Len-- // the clock was set back: this has not been yet
	}
	if x.Len > 0 {
		last := &x.At[x.Len-1]
		if e.At-last.At < slack { // of the same moment
			*last = e
			return
		}
		if e.At-last.At < back/12-slack {
			return
		}
	}
	if x.Len == len(x.At) {
		x.thin(e.At, back)
	}
	x.At[x.Len] = e
	x.Len++
}

// thin takes an end away: of those that are further away than what is looked back over as a rule, the one that is missed
// least. So few are enough for minutes, as long batches need.
func (x *Ends) thin(now, back float64) {
	least, at := math.Inf(1), 0
	for i := 1; i+1 < x.Len && now-x.At[0].At < OpenBatchLimit; i++ {
		gap := (x.At[i+1].At - x.At[i-1].At) / (now - x.At[i-1].At)
		if now-x.At[i].At > back && gap < least {
			least, at = gap, i
		}
	}
	copy(x.At[at:], x.At[at+1:x.Len])
	x.Len--
}

// stepped forgets what was proven at another weight.
func (x *Ends) stepped() {
	for i := range x.Len {
		x.At[i].Promotion = 1
	}
}

// MarshalJSON writes the ends that there are.
func (x Ends) MarshalJSON() ([]byte, error) { return json.Marshal(x.At[:x.Len]) }

// UnmarshalJSON reads them.
func (x *Ends) UnmarshalJSON(raw []byte) error {
	var all []end
	if err := json.Unmarshal(raw, &all); err != nil {
		return err
	}
	if len(all) > len(x.At) {
		return fmt.Errorf("%d ends of batches: at most %d are kept", len(all), len(x.At))
	}
	*x = Ends{Len: len(all)}
	copy(x.At[:], all)
	return nil
}

// Failing are the endpoints of the canary that failed last.
type Failing struct {
	Endpoints []failing `json:"endpoints,omitempty"`
	At        float64   `json:"at,omitzero"`     // seconds of the last errors
	Spread    float64   `json:"spread,omitzero"` // seconds: when more failed beside the worst endpoint than by luck; 0: never
}

type failing struct {
	Name   string  `json:"name"`
	Last   float64 `json:"last"` // moments of its last two errors in ticks in which it failed clearly
	Before float64 `json:"before"`
	Errors float64 `json:"errors,omitzero"` // all of a moment ago: they fade as fast as a burst passes
}

const (
	mostFailing = 16
	never       = -1e9
)

// Add takes in the counts, by endpoint, of those that fail clearly, at a moment in seconds.
func (f *Failing) Add(now float64, endpoints []Slice) {
	for _, s := range endpoints {
		if s.Errors < 1 {
			continue
		}
		e := f.of(s.Name)
		e.Before, e.Last = e.Last, now
		if s.Errors >= 2 {
			e.Before = now
		}
	}
}

// clearly is how many times the errors that come anyway, within the time that is looked back over, an endpoint has in a tick that is
// taken for failing: by luck two endpoints then hardly ever have two errors each.
const clearly = 30.0

// beyondLuck is how many standard deviations more than usual all but the worst endpoint fail when that is no luck: beside a hiccup of
// one endpoint they do so once in some thousands of times.
const beyondLuck = 3.3

// Fails takes in the canary's counts by endpoint, each once, of one tick that ended at a moment in seconds. usual is the rate of the errors
// that come anyway: a busy endpoint has two of them at any time. m is how many of them one cause may produce.
func (j *Judge) Fails(cfg *Config, now, tick float64, endpoints []Slice, usual, m float64) {
	if tick <= 0 {
		tick = 1
	}
	keep := j.Failing.fade(now, cfg.Burst+tick, tick)
	clear, requests := usual*clearly*(cfg.Burst+2*tick)/tick, 0.0
	for i, s := range endpoints {
		requests += s.Requests
		if s.Errors < 1 {
			continue
		}
		if j.Failing.of(s.Name).Errors += s.Errors; s.Errors > s.Requests*clear {
			j.Failing.Add(now, endpoints[i:i+1])
		}
	}
	if j.Failing.spread(usual*requests/(1-keep), m, j.moments()) {
		j.Failing.Spread = now
	}
}

// fade forgets errors with a time constant in seconds, and what the clock that was set back has not brought yet; keep is what a tick leaves.
func (f *Failing) fade(now, over, tick float64) (keep float64) {
	f.Endpoints = slices.DeleteFunc(f.Endpoints, func(e failing) bool { return e.Last > now+slack })
	if f.Spread > now+slack {
		f.Spread = 0
	}
	left := math.Exp(-max(now-f.At, 0) / over)
	for i := range f.Endpoints {
		f.Endpoints[i].Errors *= left
	}
	f.At = now
	return math.Exp(-tick / over)
}

// spread reports that more failed than the moments of so many endpoints and the usual errors of the others explain.
func (f *Failing) spread(usual, m float64, moments int) bool {
	others := 0.0
	var worst [2]float64
	for _, e := range f.Endpoints {
		others += e.Errors
		worst[1] = max(worst[1], min(worst[0], e.Errors))
		worst[0] = max(worst[0], e.Errors)
	}
	for _, w := range worst[:moments] {
		others -= w
	}
	return others >= usual+beyondLuck*math.Sqrt(m*usual)+1.5*m
}

// of finds an endpoint; where too many failed, the one that failed longest ago makes room.
func (f *Failing) of(name string) *failing {
	oldest := 0
	for i := range f.Endpoints {
		e := &f.Endpoints[i]
		if e.Name == name {
			return e
		}
		if o := f.Endpoints[oldest]; e.Last < o.Last || e.Last == o.Last && e.Errors < o.Errors {
			oldest = i
		}
	}
	fresh := failing{Name: name, Last: never, Before: never}
	if len(f.Endpoints) < mostFailing {
		f.Endpoints = append(f.Endpoints, fresh)
		return &f.Endpoints[len(f.Endpoints)-1]
	}
	f.Endpoints[oldest] = fresh
	return &f.Endpoints[oldest]
}

// several reports whether more than so many endpoints had two errors each since a time: their moments cannot do that.
func (f *Failing) several(since float64, moments int) bool {
	n := 0
	for _, e := range f.Endpoints {
		if e.Before >= since-slack {
			n++
		}
	}
	return n > moments
}

// base is what the gain of a batch is measured from: what was known before anything that its first cause can have reached, which may
// fail everything for a burst. Envoys that report at different moments, or some more often than others, tell the same twice: what was
// told since the batch began is no base. Where more failed than one cause explains, the end of the batch before is enough.
func (j *Judge) base(cfg *Config, s span) end {
	before := min(s.from-cfg.Burst, s.to-2*slack)
	switch {
	case j.severalFail(s.to-cfg.Burst-2*s.tick, max(s.from, 0)):
		return j.Ends.earlier(s.to)
	case j.Hiccup.outlasts(cfg.Burst, s):
		return j.Ends.before(min(s.from+s.tick/4, s.to-2*slack))
	case j.Together && j.Hiccup.follows(cfg.Burst, s): // another instance's moment may follow before this one is known to be over
		return j.Ends.before(min(before, j.Hiccup.Begin))
	}
	return j.Ends.before(before)
}

// severalFail reports that more endpoints failed than moments of single instances explain: clearly since one time, or a little since another.
func (j *Judge) severalFail(clearly, little float64) bool {
	return j.Failing.several(clearly, j.moments()) || j.Failing.Spread > little
}

// moments is how many instances may fail at once, each for a moment of its own: three hardly ever do.
func (j *Judge) moments() int {
	if j.Together {
		return 2
	}
	return 1
}

// capBurst lets the evidence of one burst multiply E by at most what that of one batch may; what was known stays.
func (j *Judge) capBurst(cfg *Config, s span, known float64) {
	if s.to <= 0 { // the clock was set back to before the first request, and stands still
		return
	}
	base := j.base(cfg, s)
	limit := min(max(1, base.E)*math.Pow(cfg.Alpha, -1/minBatches), mostE)
	if j.Hiccup.after(base) {
		limit = min(limit, alone/cfg.Alpha)
	}
	limit = max(known, limit)
	if e, q := j.sum(cfg); e > limit {
		j.scale(cfg, max(0, (limit-q)/(e-q)))
	}
	if j.Classes != nil { // where the twin bounds them all, scaling is not enough
		e, _ := j.sum(cfg)
		j.Classes.settled(e, limit)
	}
}

// scale takes a part of all bets away, but for the twin's, which only bounds.
func (j *Judge) scale(cfg *Config, f float64) {
	j.Relative.scale(f)
	if j.slowCuts(cfg) {
		j.Slow.scale(f)
	}
	if cfg.Ceiling > 0 {
		j.Ceiling.scale(f)
	}
	if j.Classes != nil {
		for i := range j.Classes.Each {
			j.Classes.Each[i].Capital.scale(f)
		}
	}
}

// secondAgo is what was proven a second ago; where batches are longer, before this one.
func (x *Ends) secondAgo(to float64) float64 {
	if last := x.earlier(to); to-last.At >= 0.9 {
		return last.Promotion
	}
	return x.before(to - 1).Promotion
}
