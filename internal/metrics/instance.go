package metrics

import (
	"slices"
	"time"

	"github.com/prometheus/common/model"
)

const (
	longestGap  = 5 * time.Minute  // counters further apart tell too little
	skewMost    = 10 * time.Second // between the clocks of Prometheus servers behind one address
	swingsMost  = 2                // within longestGap
	burst       = 100_000          // requests in one scrape that surprise nobody: less than a running Envoy has counted
	burstAlone  = 1000             // where no label says which Envoy it is
	burstFactor = 10               // nor do so many times what the Envoy had before
	keptFor     = 40 * time.Second // of the readings before the last
	keptLeast   = 4
	wholeAfter  = 2                // newer readings a first one is whole: remote stores may be two behind one address
	wholeLooks  = 3                // or after so many looks at it that showed no more
	looksMost   = 8                // at a first reading that no other follows
	agreeing    = 4                // readings, where no label says which Envoy it is
	unnamedWait = 30 * time.Second // and as long
	keptMost    = 64
)

// instance is one Envoy as Prometheus scrapes it, seen for one service. It turns readings into steps,
// and never into more than was counted: what looks like a jump may be another Envoy's counter, and what
// looks like a fall the same counter read by a Prometheus whose clock is behind.
type instance struct {
	name   string         // in cells and reasons
	labels model.LabelSet // all that are not the counters' own
	named  bool           // they say which Envoy it is

	first     first
	last      *reading   // counting goes on from here
	before    []*reading // the ones that came before it, oldest first
	distances distances
	pace      float64 // requests/s, the highest lately
	held      []held  // steps that wait for later readings to agree with them, oldest first
	readings  int

	falls    []fall      // lately
	swings   []time.Time // falls from which the counters were back at once
	torn     time.Time   // when counters were last seen that were not read together
	outdated time.Time   // when a reading was last older than the one before it

	twinhood
}

// first is the reading that counting begins with: a remote store may not show it as a whole at once.
type first struct {
	seen    *reading // as it was looked at last
	looks   int      // as long as no other follows
	same    int      // looks that showed no more
	partial *reading // as counting began with it, as long as it may lack counters
	after   bool     // other instances were read before: it may be one of them under another name
}

// isWhole looks at the reading, and reports whether it was looked at often enough without showing more.
func (f *first) isWhole(r *reading) bool {
	if f.same++; f.seen == nil || !f.seen.at.Equal(r.at) || len(f.seen.values) != len(r.values) {
		f.same = 1
	}
	f.seen = r
	return f.same > wholeLooks
}

// take reads on and returns what may be counted.
func (in *instance) take(rs []*reading, whole []string) (steps []step) {
	for i, r := range rs {
		newest := i >= len(rs)-wholeAfter
		switch {
		case !slices.ContainsFunc(whole, r.shows): // not a whole scrape
		case i == len(rs)-1 && in.arriving(r): // it is looked at again in the next round
		case in.last != nil && r.at.Equal(in.last.at):
			in.again(r, newest)
		case in.last == nil || r.at.After(in.last.at):
			if in.last == nil && newest && !in.first.isWhole(r) {
				in.first.partial = r
			}
			steps = append(steps, in.read(r)...)
		}
	}
	if in.tangled() {
		return nil
	}
	return steps
}

// again looks once more at the scrape that is read already: asked about other versions, or seen as a whole now.
func (in *instance) again(r *reading, newest bool) {
	if in.last == in.first.partial {
		if in.first.partial = r; in.first.isWhole(r) || !newest {
			in.first.partial = nil
		}
	} else if len(r.values) <= len(in.last.values) && r.scope == in.last.scope {
		return
	}
	in.last = r
}

// arriving reports that the newest reading may not be there as a whole yet: remote stores show a scrape
// bit by bit. Nothing begins with it, because what it lacks would seem to begin at 0; unless the next one
// is so long in coming that no answer has both.
func (in *instance) arriving(r *reading) bool {
	if in.last != nil {
		return in.last.change(r) == vanished
	}
	in.first.looks++
	in.first.isWhole(r)
	return in.first.looks < looksMost
}

func (in *instance) read(r *reading) []step {
	prev := in.last
	in.readings++
	if prev == nil || r.at.Sub(prev.at) > longestGap || prev.scope.what != r.scope.what {
		in.begin(r)
		return nil
	}
	if d := r.at.Sub(prev.at); d > max(3*in.distances.median(), skewMost) {
		in.twinhood.begin(r) // the counters may have begun anew and come further
	}
	in.distances.add(r.at.Sub(prev.at))
	for i := range in.falls {
		in.falls[i].since++
	}
	switch c := prev.change(r); {
	case c == fell && in.older(r):
		if in.outdated = r.at; !in.named { // then it may as well be another Envoy's
			in.swings = append(in.swings, r.at)
		}
		return nil
	case c == fell:
		in.fell(r)
		return nil
	case c == vanished || in.back(r):
		in.begin(r)
		return nil
	}
	return in.step(step{prev, r})
}

// begin counts from a reading on.
func (in *instance) begin(r *reading) {
	in.held = nil
	in.twinhood.begin(r)
	in.remember(r)
}

func (in *instance) remember(r *reading) {
	in.last = r
	in.before = append(in.before, r)
	old := 0
	for len(in.before)-old > keptLeast && (len(in.before)-old > keptMost || r.at.Sub(in.before[old].at) > keptFor) {
		old++
	}
	in.before = slices.Delete(in.before, 0, old)
	in.remembers(r)
}

// older reports that a lower reading is an earlier one of the same counters, by a Prometheus whose clock
// is ahead or which was slow: it is above all readings that are older than clocks may differ.
func (in *instance) older(r *reading) bool {
	if r.at.Sub(in.last.at) >= skewMost {
		return false
	}
	comparable := in.comparable(r)
	return len(comparable) > 0 && !slices.ContainsFunc(comparable, func(q *reading) bool { return !r.atLeast(q) })
}

func (in *instance) comparable(r *reading) []*reading {
	n := 0
	for n < len(in.before) && r.at.Sub(in.before[n].at) >= skewMost {
		n++
	}
	return in.before[:n]
}

// fall is one of the counters'.
type fall struct {
	at    time.Time
	from  *reading // a reading before it, older than clocks may differ
	known bool     // there was one; else it is the oldest there is
	since int      // readings
}

// fell drops the increment of every version: nobody knows what was lost with the counters.
func (in *instance) fell(r *reading) {
	f := fall{at: r.at, from: in.before[0]}
	if before := in.comparable(r); len(before) > 0 {
		f.from, f.known = before[len(before)-1], true
	}
	in.falls = append(in.falls, f)
	if !in.named {
		in.pace = 0 // the rise before was perhaps none
	}
	in.begin(r)
}

// back reports that the counters are again where they fell from. A new Envoy's may come that far; or
// there was no fall: two Envoys' counters come in turn, or a Prometheus shows late what was before the
// fall. Either way the way up is not counted.
func (in *instance) back(r *reading) bool {
	back, swung := false, false
	in.falls = slices.DeleteFunc(in.falls, func(f fall) bool {
		if r.at.Sub(f.at) > longestGap {
			return true
		}
		if !r.atLeast(f.from) {
			return false
		}
		back, swung = true, swung || f.known && f.since <= 2
		return true
	})
	if swung {
		in.swings = append(in.swings, r.at)
	}
	return back
}

// tangled reports that the counters have swung up and down lately, or were not read together: they are
// those of two Envoys.
func (in *instance) tangled() bool {
	if in.last == nil {
		return !in.torn.IsZero()
	}
	if !in.torn.IsZero() && in.last.at.Sub(in.torn) <= longestGap {
		return true
	}
	in.swings = slices.DeleteFunc(in.swings, func(at time.Time) bool { return in.last.at.Sub(at) > longestGap })
	return len(in.swings) >= swingsMost
}

// held is a step that waits.
type held struct {
	step
	sudden bool // more requests all at once than the Envoy ever had
	agreed int  // later readings
}

// step counts, or waits for later readings to agree.
func (in *instance) step(s step) []step {
	usual := burst + burstFactor*in.pace*s.seconds()
	if !in.named {
		usual += burstAlone - burst
	}
	sudden := s.requests() > usual
	switch {
	case !in.named && in.pace > 0 && sudden, // it may be another Envoy's counter from now on
		s.appears() && (sudden || !in.named || in.reappears(s) || s.outgrown() || s.from == in.first.partial && (in.first.after || s.leaps())): // or one that need not have begun at 0
		in.begin(s.to)
		return nil
	case !in.named:
		in.pace = max(0.99*in.pace, s.requests()/s.seconds())
	}
	in.remember(s.to)
	for i := range in.held {
		in.held[i].agreed++
	}
	in.held = append(in.held, held{step: s, sudden: sudden})
	var steps []step
	for len(in.held) > 0 && in.agreed(in.held[0]) {
		h := in.held[0]
		if in.named {
			in.pace = max(0.99*in.pace, h.requests()/h.seconds())
		}
		steps, in.held = append(steps, h.step), in.held[1:]
	}
	return steps
}

// agreed reports that a step need not wait any longer. Where no label says which Envoy it is, a whole
// round of scrapes must have shown no other one.
func (in *instance) agreed(h held) bool {
	if !in.named {
		return h.agreed >= agreeing && in.last.at.Sub(h.to.at) >= unnamedWait
	}
	return !h.sudden || h.agreed > 0
}

// reappears reports a counter that was there before.
func (in *instance) reappears(s step) bool {
	for c := range s.to.values {
		if _, there := s.from.values[c]; !there && slices.ContainsFunc(in.before, func(q *reading) bool { _, was := q.values[c]; return was }) {
			return true
		}
	}
	return false
}
