package controller

import (
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// cutPatience is how long a cut waits for the disk: it is to be with the Envoys after 100 ms, whatever the disk does and while
// policies are reloaded.
const cutPatience = 75 * time.Millisecond

// outbox is what may be published of one service: the durable table without every version cut since.
// Decisions are numbered from 1. Its methods may be called in any order that time allows: a write may
// end late, never, or after any number of later decisions. It is pure: the moment comes with the call.
//
// Invariants:
//   - nothing that raises a weight is visible before the decision that raised it is stored;
//   - what is visible is the durable table with the cuts carried out, one after the other, that were decided since: all
//     that were decided cutPatience ago or earlier, and of the later ones the first few or none;
//   - a cut takes everything from a version. Where that is the one that has become stable so, its heir takes its place:
//     the way back is a cut as well. An heir that got nothing for now is back by that, and one of which an attempt
//     was ended is not: nobody is stable then until a decision is stored, as where the durable table does not know the heir;
//   - so, cutPatience after a version was cut it has no slot in what is visible, until a later decision that gives it a
//     weight again is stored, or a later cut of the stable version makes it the heir;
//   - what is visible names every attempt whose end went out by such a cut, until that is stored.
type outbox struct {
	decided uint64        // the newest decision
	stored  uint64        // the newest one that is durable; stored <= decided
	durable rollout.Table // of the decision stored; Policy is nil before the first
	writing uint64        // the decision whose state is being written; 0: none is
	cuts    []cut         // not durable yet, oldest first: stored < decision <= decided
	shown   *shown        // what was taken last; nil: nothing, or it could not be published
}

// cut takes everything from a version.
type cut struct {
	decision uint64
	version  string
	heir     string            // the stable version then: it takes the place of version, where that is the stable one
	due      time.Time         // it goes out then, stored or not; only ever moved forward
	ended    []rollout.Attempt // attempts that it ended: the Envoys are asked to remember them
}

// fall is what a decision says of a version that is to get nothing: that an attempt ended, or with none only
// that it gets nothing for now.
type fall struct {
	version string
	attempt rollout.Attempt
}

// shown names a table that was taken: the durable one of a decision, without what was due.
type shown struct {
	stored uint64
	due    []cut
}

// Decide takes in a decision and what it cuts, and returns its number. With slow, an older write has
// been under way for cutPatience already, so a cut has nothing to wait for.
func (o *outbox) Decide(now time.Time, falls []fall, heir string, slow bool) uint64 {
	o.decided++
	for _, f := range falls {
		c := cut{decision: o.decided, version: f.version, heir: heir, due: now.Add(cutPatience)}
		if f.attempt.Number > 0 {
			c.ended = []rollout.Attempt{f.attempt}
		}
		o.add(c)
	}
	if slow {
		o.hurry(now)
	}
	return o.decided
}

// add appends a cut. One of a version that gets nothing already changes only what is to be stored, and what is named:
// it becomes a part of the last one of that version, unless that may be stored before this one, or the version has been an
// heir since. So what is kept does not grow with a version that does not answer now and again.
func (o *outbox) add(c cut) {
	for i := range slices.Backward(o.cuts) {
		switch was := &o.cuts[i]; {
		case was.decision <= o.writing || was.heir == c.version:
			o.cuts = append(o.cuts, c)
			return
		case was.version == c.version:
			was.decision, was.ended = c.decision, slices.Concat(was.ended, c.ended)
			return
		}
	}
	o.cuts = append(o.cuts, c)
}

// Begin takes in that everything decided so far is being written, and returns which decision is the last.
func (o *outbox) Begin() uint64 {
	o.writing = o.decided
	return o.decided
}

// Stored takes in that the state after a decision is durable, with its table. What was cut since is due
// at once: a table is about to go out, and it must not carry what is known to be bad.
func (o *outbox) Stored(now time.Time, decision uint64, t rollout.Table) {
	if decision < o.stored || decision > o.decided {
		return // an older write that ended late
	}
	o.stored, o.durable, o.writing = decision, t, 0
	o.cuts = slices.DeleteFunc(o.cuts, func(c cut) bool { return c.decision <= decision })
	o.hurry(now)
}

// Failed takes in that a write failed. There is nothing to wait for, and the next write holds everything.
func (o *outbox) Failed(now time.Time) {
	cuts := o.cuts
	o.writing, o.cuts = 0, nil
	for _, c := range cuts {
		o.add(c)
	}
	o.hurry(now)
}

func (o *outbox) hurry(now time.Time) {
	for i := range o.cuts {
		if o.cuts[i].due.After(now) {
			o.cuts[i].due = now
		}
	}
}

// Due is when the next cut goes out; zero: none waits.
func (o *outbox) Due(now time.Time) time.Time {
	var due time.Time
	for _, c := range o.cuts {
		if c.due.After(now) && (due.IsZero() || c.due.Before(due)) {
			due = c.due
		}
	}
	return due
}

// Visible is the table that the Envoys are to have; there is none before the first state is stored. Its
// generation is 0 where it gives other weights than the durable one: what the Envoys accept then is no stored decision.
func (o *outbox) Visible(now time.Time) (rollout.Table, bool) {
	if o.durable.Policy == nil {
		return rollout.Table{}, false
	}
	due := o.dueBy(now)
	t := o.durable
	for _, c := range due {
		t.Unstored = slices.Concat(t.Unstored, c.ended)
	}
	gone, heir := carriedOut(t.Stable, due)
	if !slices.ContainsFunc(gone, t.Knows) {
		return t, true
	}
	t = t.Without(gone, heir)
	t.Generation = 0
	return t, true
}

// carriedOut is who gets nothing, and who is stable, after some cuts, in their order. A version that was merely promoted
// since is no heir: it waits for the disk.
func carriedOut(stable string, cuts []cut) (gone []string, heir string) {
	for i, c := range cuts {
		if !slices.Contains(gone, c.version) {
			gone = append(gone, c.version)
		}
		if c.version != stable {
			continue
		}
		if stable = c.heir; !ends(cuts[:i], stable) {
			gone = slices.DeleteFunc(gone, func(v string) bool { return v == stable })
		}
	}
	return gone, stable
}

// ends reports whether one of the cuts ended an attempt of a version.
func ends(cuts []cut, version string) bool {
	return slices.ContainsFunc(cuts, func(c cut) bool { return c.version == version && len(c.ended) > 0 })
}

// cutting reports whether a version is being cut.
func (o *outbox) cutting(version string) bool {
	gone, _ := carriedOut(o.durable.Stable, o.cuts)
	return slices.Contains(gone, version)
}

// takesOver reports whether a version can take the place of the stable one at once: the Envoys have it, and nothing that
// is not stored ended an attempt of it.
func (o *outbox) takesOver(version string) bool {
	return o.durable.Knows(version) && !ends(o.cuts, version)
}

// serves reports whether a version gets anything of what is visible.
func (o *outbox) serves(now time.Time, version string) bool {
	t, _ := o.Visible(now)
	return slices.ContainsFunc(t.Slots, func(r rollout.Run) bool { return r.Version == version })
}

func (o *outbox) dueBy(now time.Time) []cut {
	var due []cut
	for _, c := range o.cuts {
		if !c.due.After(now) {
			due = append(due, c)
		}
	}
	return due
}

func (c cut) same(o cut) bool {
	return c.version == o.version && c.heir == o.heir && slices.Equal(c.ended, o.ended)
}

// Take returns what is visible, when it is not what was taken last.
func (o *outbox) Take(now time.Time) (rollout.Table, bool) {
	next := shown{o.stored, o.dueBy(now)}
	t, ok := o.Visible(now)
	if !ok || o.shown != nil && o.shown.stored == next.stored && slices.EqualFunc(o.shown.due, next.due, cut.same) {
		return t, false
	}
	o.shown = &next
	return t, true
}

// Early reports whether what was taken last has a cut that is not stored.
func (o *outbox) Early() bool { return o.shown != nil && len(o.shown.due) > 0 }

// Returned takes back a table that could not be published: the next Take returns it again.
func (o *outbox) Returned() { o.shown = nil }

// Unstored reports whether a decision is not durable.
func (o *outbox) Unstored() bool { return o.stored < o.decided }
