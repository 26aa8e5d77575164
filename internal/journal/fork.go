package journal

import (
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// fork is one release under another policy, from its announcement on, with what was counted then. The weights that its
// state machine decides were not in force: what it counts was served by others, so it says nothing of how many requests the
// release would have had. A rate does not depend on that. What would have come after the release's end then nobody knows.
type fork struct {
	release *Release
	state   rollout.State
	then    *rollout.State // what it was then
	done    bool
}

// fork begins one in the state before the announcement.
func (r *Replay) fork(before rollout.State, e rollout.Announced, rel *Release) {
	d := r.Policy
	s, _, err := rollout.Step(before, rollout.PolicyChanged{At: e.At, Policy: d.Policy, Hash: d.Hash, By: "replay"})
	if err != nil {
		rel.Would = &Outcome{Decided: undecided, At: e.At, Reason: err.Error()}
		return
	}
	f := &fork{release: rel, state: s, then: &r.state}
	f.take(e)
	f.settle(e.At)
	r.forks = append(r.forks, f)
}

func (f *fork) step(e rollout.Event) {
	if f.done {
		return
	}
	switch e := e.(type) {
	case rollout.Applied, rollout.Rejected, rollout.PolicyChanged, rollout.Orphaned, rollout.Recalled, rollout.Removing, rollout.Forgotten:
		return // about other tables, and other policies
	case rollout.Commanded:
		if e.Verb == "promote" || e.Verb == "abort" && e.Version == f.release.Version {
			return
		}
	case rollout.Observed:
		e.Lent, e.Cells = true, slices.Clone(e.Cells)
		for i := range e.Cells {
			e.Cells[i].Has, e.Cells[i].HasSince, e.Cells[i].Unknown = nil, time.Time{}, false
		}
		f.take(e)
		if f.done {
			return
		}
		f.take(rollout.Tick{At: e.At}) // those that did nothing then were left out, and may do something here
		f.settle(e.At)
		return
	}
	f.take(e)
	f.settle(rollout.At(e))
}

// settle has what was decided come into force at once, and who answered then answer, whether the other policy asks or not.
func (f *fork) settle(at time.Time) {
	for range 10 {
		e := f.answer(at)
		if f.done || e == nil {
			return
		}
		f.take(e)
	}
}

func (f *fork) answer(at time.Time) rollout.Event {
	if !f.state.InForce {
		return rollout.Applied{At: at, Generation: f.state.Generation, InForce: true, Subscribers: 1}
	}
	for _, v := range f.state.Versions {
		if was := f.then.Version(v.Name); v.Probed() && !v.Reachable && was != nil && was.Reachable {
			return rollout.Probed{At: at, Version: v.Name, Up: true}
		}
	}
	return nil
}

func (f *fork) take(e rollout.Event) {
	next, records, err := rollout.Step(f.state, e)
	if err != nil {
		return // what fits the state of then need not fit this one
	}
	weight := f.state.Weight(f.release.Version)
	f.state = next
	v := next.Version(f.release.Version)
	if v == nil || v.Attempt == f.release.Attempt && !v.Phase.Waiting() {
		o := outcome(v, weight, records)
		f.release.Would, f.done = &o, true
	}
}

// end ends the evidence.
func (f *fork) end(at time.Time, why string) {
	if f.done {
		return
	}
	f.done = true
	o := outcome(f.state.Version(f.release.Version), f.state.Weight(f.release.Version), nil)
	o.Decided, o.At, o.Reason = undecided, at, why
	f.release.Would = &o
}
