package rollout

import (
	"fmt"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// Pacing is how a version under test is judged by the durations of its answers.
type Pacing struct {
	ToldSlow    *policy.Slow    `json:"told_slow,omitempty"`   // what the policy said of slow answers when it was announced; nil: nothing
	Paced       bool            `json:"paced,omitempty"`       // its edges are fixed
	Starts      analysis.Starts `json:"starts,omitzero"`       // of its instances; stable's as well
	SlowerSince time.Time       `json:"slower_since,omitzero"` // held for slow answers; zero: it is not
	SlowerTold  bool            `json:"slower_told,omitempty"` // and the history says so
}

// slowerTold is for how long a version is held for slow answers before the history says so: a pause of one instance may do it for a
// second.
const slowerTold = 10 * time.Second

// pacings are what is said of slow answers: what the policy said when each release under test was announced, the oldest first, and what it
// says now. Where any of them asks for durations the Envoys tell them; none: nobody does.
func (s *State) pacings() (all []*policy.Slow) {
	for _, v := range s.Versions {
		if v.paced() {
			all = append(all, v.ToldSlow)
		}
	}
	if now := s.Policy.Judge.Slow; now != nil {
		all = append(all, now)
	}
	return all
}

// paced reports a version under test of which the policy wanted to know how long its answers take.
func (v *Version) paced() bool { return v.Phase.Waiting() && v.Judge != nil && v.ToldSlow != nil }

// Timed reports whether the source is asked for how long answers take.
func (s *State) Timed() bool { return len(s.pacings()) > 0 }

// SlowEdges are the bounds, in seconds, that a histogram of durations has to have: those that are written, and those by which releases are
// judged.
func (s *State) SlowEdges() (edges []float64) {
	for _, told := range s.pacings() {
		edges = append(edges, told.Seconds()...)
	}
	return append(edges, s.heldEdges()...)
}

// heldEdges are those by which releases under test are judged.
func (s *State) heldEdges() (edges []float64) {
	for _, v := range s.Versions {
		if !v.Phase.Waiting() || v.Judge == nil || v.Judge.Slow == nil {
			continue
		}
		for _, e := range v.Judge.Slow.Edges {
			edges = append(edges, e.After)
		}
	}
	return edges
}

// warmed is evidence without the durations of instances that have just begun.
func (m *machine) warmed(cells []Cell) []Cell {
	told := m.pacings()
	if len(told) == 0 {
		return cells
	}
	old := ""
	for _, v := range m.with(live) {
		v.Starts.Forget(seconds(m.at))
	}
	if v := m.Version(m.Stable); v != nil && v.Starts.Unknown() && m.at.Sub(v.AnnouncedAt) >= v.warmUp(told) {
		old = v.Name
	}
	out := make([]Cell, len(cells))
	for i, c := range cells {
		times := map[string][]analysis.Times{}
		for name, ts := range c.Times { // each has its own starts: their order decides nothing
			if v := m.Version(name); v != nil && v.Phase.Live() {
				if warm := v.Starts.Warm(seconds(c.From), seconds(c.To), v.warmUp(told).Seconds(), ts, name == old); len(warm) > 0 {
					times[name] = warm
				}
			}
		}
		if out[i] = c; len(c.Times) > 0 {
			out[i].Times = times
		}
	}
	return out
}

// warmUp is for how long an instance of a version has just begun: what was said for it, and of stable the longest of all.
func (v *Version) warmUp(told []*policy.Slow) (longest time.Duration) {
	if v.paced() {
		return v.ToldSlow.WarmUp.Std()
	}
	for _, s := range told {
		longest = max(longest, s.WarmUp.Std())
	}
	return longest
}

// learnPace remembers how long stable's answers take.
func (m *machine) learnPace(cells []Cell) {
	told := m.pacings()
	if len(told) == 0 || m.Stable == "" {
		return
	}
	var times []analysis.Times
	for _, c := range cells {
		times = append(times, c.Times[m.Stable]...)
	}
	if len(times) == 0 {
		return
	}
	var edges [][]float64
	for _, s := range told {
		edges = append(edges, s.Seconds())
	}
	m.Pace.Learn(seconds(m.at), edges, m.heldEdges(), times, bucketed)
}

// fixEdges settles by which edges a release is judged, when it begins: nothing that is counted of it can choose them.
func (m *machine) fixEdges() {
	for _, v := range m.with(judged) {
		if v.Paced || v.Judge == nil || v.FirstWeight.IsZero() {
			continue
		}
		v.Paced = true
		if v.ToldSlow == nil || v.Judge.Updates > 0 || v.Judge.Ends.Len > 0 {
			continue // it began before there were any
		}
		v.Judge.Pace(m.Pace.Choose(v.ToldSlow.Seconds()))
	}
}

// bySpeed reports a version that is judged by how long its answers take.
func (v *Version) bySpeed() bool { return v.Judge != nil && v.Judge.Slow != nil }

// pace adds to a judgement how long the answers took.
func (m *machine) pace(v *Version, base *analysis.Baseline, cells []Cell, which func(Cell) bool) {
	edges := v.Judge.Slow.Edges
	all, told := make([]analysis.SlowBatch, len(edges)), false
	for k := range cells {
		c := &cells[k]
		if int(c.Proxy) != base.Kind || len(c.Times) == 0 || !which(*c) {
			continue
		}
		if here, known := m.paceIn(c, v); known {
			for i := range all {
				b := &all[i].Batch
				b.Canary, b.Stable, told = b.Canary.Add(here[i].Canary), b.Stable.Add(here[i].Stable), true
			}
		}
	}
	if !told {
		return
	}
	load := m.load(v)
	for i := range all {
		all[i].M = analysis.Loaded(m.Pace.Bound(edges[i].After), load)
	}
	base.Slow = all
}

// paceIn is how long the answers of a cell took, at each edge; false: one of these is no bound of its histograms. Nothing is judged by the
// others alone: a release that has to be proven swift is so at every edge.
func (m *machine) paceIn(c *Cell, v *Version) (all [analysis.MostEdges]analysis.Batch, known bool) {
	for i := range v.Judge.Slow.Edges {
		after := v.Judge.Slow.Edges[i].After
		own, ownKnown := analysis.SlowOf(c.Times[v.Name], after)
		stable, stableKnown := analysis.SlowOf(c.Times[m.Stable], after)
		if !ownKnown || !stableKnown {
			return all, false
		}
		all[i] = analysis.Batch{Canary: own, Stable: stable}
	}
	return all, true
}

// isNoSlower holds a canary whose answers are slower than stable's, as long as they are.
func (m *machine) isNoSlower(v *Version, _ int) shut {
	if !v.Judge.Slower(v.seconds(m.at)) {
		return shut{}
	}
	return because(analysis.Slower, "slower than stable: %s; no step up meanwhile (judge.slow)", v.slowness())
}

// isTimed holds the promotion until it has been judged for the time of a step how long answers take, after the warm-up of the first instances.
// Where that is not told nothing waits.
func (m *machine) isTimed(v *Version, _ int) shut {
	if !v.bySpeed() || v.Starts.Unknown() {
		return shut{}
	}
	warm, hold := m.at.Sub(v.FirstWeight)-v.ToldSlow.WarmUp.Std(), m.Policy.Ramp.Hold.Std()
	if warm >= hold {
		return shut{}
	}
	return because(analysis.Dwell, "proven at %s: beyond the first %s of its instances, how long answers take is judged for %s of %s (judge.slow.warm_up, ramp.hold)",
		share(m.Weight(v.Name)), v.ToldSlow.WarmUp, max(warm, 0).Truncate(time.Second), m.Policy.Ramp.Hold)
}

// isSwift holds the promotion until it is proven that answers are as fast as the policy asks for.
func (m *machine) isSwift(v *Version, _ int) shut {
	if v.Judge.ProvenSwift(&v.Config, v.seconds(m.at)) {
		return shut{}
	}
	least := &v.Judge.Slow.Edges[0]
	for i := range v.Judge.Slow.Edges {
		if e := &v.Judge.Slow.Edges[i]; e.Promotion.E < least.Promotion.E {
			least = e
		}
	}
	return because(analysis.Slower, "gathering proof at %s that its answers are no slower: %.2g of %.0f beyond %s (judge.promote_within.slow)",
		share(m.Weight(v.Name)), least.Promotion.E, 1/v.Config.Beta, took(least.After))
}

// slowness says how much slower a version's answers are, at the edge that speaks most against it.
func (v *Version) slowness() string {
	e := v.Judge.Slow.Worst()
	return fmt.Sprintf("%s of its answers took longer than %s, %s of stable's (evidence %.3g; held from 20)",
		percent(e.Exposure.Canary.Rate()), took(e.After), percent(e.Exposure.Stable.Rate()), v.Judge.Slow.E)
}

func took(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Microsecond).String()
}

// unpaced says why durations were not judged, though the policy wants them to be; empty: they were, or it does not.
func (m *machine) unpaced(v *Version) string {
	switch {
	case !v.paced() || v.FirstWeight.IsZero() || v.Judge.Slow.Fresh(v.seconds(m.at)):
		return ""
	case v.Judge.Slow == nil:
		return "too little was known of how long stable's answers take when it got its first weight"
	case v.Judge.Slow.At > 0:
		return "for five minutes nobody has told how long its answers take, or stable's"
	}
	return fmt.Sprintf("nobody has told yet how long answers take of an instance of it, and of one of stable, that has served for %s (judge.slow.warm_up)", v.ToldSlow.WarmUp)
}

// unpacedOnPromotion says it in the reason of a promotion.
func (m *machine) unpacedOnPromotion(v *Version) string {
	if why := m.unpaced(v); why != "" {
		return "; slow answers were not judged: " + why
	}
	return ""
}

// noteSlower has the history say that a version is held for slow answers, once that lasts.
func (m *machine) noteSlower(v *Version) {
	switch slower := v.is(ramped) && v.Judge.Slower(v.seconds(m.at)); {
	case !slower:
		v.SlowerSince, v.SlowerTold = at0, false
	case v.Verdict.Code != analysis.Slower: // something else holds it as well, and is said
		v.SlowerSince = at0
	case v.SlowerSince.IsZero():
		v.SlowerSince = m.at
	case !v.SlowerTold && m.at.Sub(v.SlowerSince) >= slowerTold:
		v.SlowerTold = true
		m.record(v, KindHeld, System, "%s", v.Verdict.Reason)
	}
}
