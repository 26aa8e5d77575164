package controller

import (
	"slices"

	"github.com/canaryd/canaryd/internal/rollout"
)

// shadow is a service as it was before a promotion by canaryd that is not stored. The Envoys still give the canary its
// share, and may for as long as the disk hangs: so it goes on being judged, and when it is cut the promotion is withdrawn.
type shadow struct {
	state    rollout.State
	decision uint64 // the promotion
	version  string // that was promoted
	records  []rollout.Record
}

// cast keeps the state from before a promotion by canaryd itself.
func (u *unit) cast(before rollout.State, records []rollout.Record) {
	i := slices.IndexFunc(records, func(r rollout.Record) bool { return r.Kind == rollout.KindPromoted && r.By == rollout.System })
	if i >= 0 {
		u.shadow = &shadow{state: before, decision: u.outbox.decided, version: records[i].Version}
	}
}

// follow lets the state from before the promotion live on, and reports that it cut what was promoted. It ends when the
// promotion is stored, and when a person or a policy decides something: that rests on what is decided.
func (u *unit) follow(e rollout.Event) (withdrawn bool) {
	s := u.shadow
	if s == nil {
		return false
	}
	switch o := e.(type) {
	case rollout.Commanded, rollout.Announced, rollout.PolicyChanged, rollout.Removing:
		u.shadow = nil
		return false
	case rollout.Observed:
		o.Stuck = true // it is not promoted again
		e = o
	}
	if s.decision <= u.outbox.stored {
		u.shadow = nil
		return false
	}
	next, records, err := rollout.Step(s.state, e)
	if err != nil {
		return false // what fits the state after the promotion need not fit the one before it
	}
	s.state, s.records = next, append(s.records, records...)
	return slices.ContainsFunc(records, func(r rollout.Record) bool { return r.Version == s.version && r.Kind.Cut() })
}

// withdraw goes back to before a promotion that nobody has seen.
func (c *Controller) withdraw(u *unit) {
	s := u.shadow
	u.shadow = nil
	u.state, u.stale = rollout.Withdraw(s.state, u.state), true
	c.decided(u, s.records)
	c.note(u)
	c.aim(u)
	c.Log.WithField("service", u.state.Policy.Service).WithField("version", s.version).Warn("a promotion that was not stored is withdrawn")
}
