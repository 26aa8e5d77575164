package controller

import (
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// cutPatience is how long a cut waits for the disk.
const cutPatience = 100 * time.Millisecond

// outbox is what may be published of one service: the durable table without every version cut since.
// Decisions are numbered from 1. Its methods may be called in any order that time allows: a write may
// end late, never, or after any number of later decisions. It is pure: the moment comes with the call.
//
// Invariants:
//   - nothing that raises a weight is visible before the decision that raised it is stored;
//   - cutPatience after a version was cut it has no slot in what is visible, until a later decision that
//     gives it a weight again is stored;
//   - what is visible names every attempt whose end went out by such a cut, until that is stored.
type outbox struct {
	decided uint64        // the newest decision
	stored  uint64        // the newest one that is durable; stored <= decided
	durable rollout.Table // of the decision stored; Policy is nil before the first
	writing uint64        // the decision whose state is being written; 0: none is
	cuts    []cut         // not durable yet, oldest first: stored < decision <= decided; of a version one up to writing, and one after
	shown   *shown        // what was taken last; nil: nothing, or it could not be published
}

// cut takes everything from a version.
type cut struct {
	decision uint64
	version  string
	heir     string            // the stable version then: it takes the place of version, where that is the stable one of what is durable
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
		i := slices.IndexFunc(o.cuts, func(c cut) bool { return c.version == f.version && c.decision > o.writing })
		if i < 0 {
			i = len(o.cuts)
			o.cuts = append(o.cuts, cut{version: f.version, heir: heir, due: now.Add(cutPatience)})
		}
		c := &o.cuts[i]
		c.decision = o.decided // its heir stays: a later one may owe its place to a promotion that is not stored
		if f.attempt.Number > 0 {
			c.ended = append(slices.Clip(c.ended), f.attempt)
		}
	}
	if slow {
		o.hurry(now)
	}
	return o.decided
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

// Failed takes in that a write failed. There is nothing to wait for, and the next write holds everything,
// so of two cuts of a version the first one's heir and the second one's number count.
func (o *outbox) Failed(now time.Time) {
	o.writing = 0
	var all []cut
	for _, c := range o.cuts {
		if i := slices.IndexFunc(all, func(a cut) bool { return a.version == c.version }); i >= 0 {
			all[i].decision, all[i].ended = c.decision, slices.Concat(all[i].ended, c.ended)
		} else {
			all = append(all, c)
		}
	}
	o.cuts = all
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
	gone := o.dueBy(now)
	t, names := o.durable, make([]string, len(gone))
	for i, c := range gone {
		names[i] = c.version
		t.Unstored = slices.Concat(t.Unstored, c.ended)
	}
	if !slices.ContainsFunc(names, t.Knows) {
		return t, true
	}
	t = t.Without(names, heir(t.Stable, gone))
	t.Generation = 0
	return t, true
}

// cutting reports whether a version is being cut.
func (o *outbox) cutting(version string) bool {
	return slices.ContainsFunc(o.cuts, func(c cut) bool { return c.version == version })
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

// heir follows the cuts from a stable version that was cut to the one that took its place, which may
// have been cut since as well. A version that was merely promoted since is no heir: it waits for the disk.
func heir(stable string, cuts []cut) string {
	for range cuts {
		i := slices.IndexFunc(cuts, func(c cut) bool { return c.version == stable })
		if i < 0 {
			break
		}
		stable = cuts[i].heir
	}
	return stable
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
