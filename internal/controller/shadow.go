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

// follow lets the state from before the promotion live on beside what is decided, and reports that it cut what was
// promoted. It ends when the promotion is stored, and when another version is stable.
func (u *unit) follow(e rollout.Event) (withdrawn bool) {
	s := u.shadow
	if s == nil {
		return false
	}
	if s.decision <= u.outbox.stored || u.state.Stable != s.version {
		u.shadow = nil
		return false
	}
	if o, ok := e.(rollout.Observed); ok {
		o.Stuck = true // it is not promoted again
		e = o
	}
	next, records, err := rollout.Step(s.state, e)
	if err != nil {
		return false // what fits the state after the promotion need not fit the one before it
	}
	s.state, s.records = next, append(s.records, records...)
	return slices.ContainsFunc(records, func(r rollout.Record) bool { return r.Version == s.version && r.Kind.Cut() })
}

// withdraw goes back to before a promotion that no Envoy has seen. Of the shadow's own records only those of the version
// that was promoted are new, and other cuts that were not decided as well.
func (c *Controller) withdraw(u *unit) {
	s, decided := u.shadow, u.state
	u.shadow = nil
	u.state, u.stale = rollout.Withdraw(s.state, decided, s.version), true
	c.decided(u, slices.DeleteFunc(s.records, func(r rollout.Record) bool {
		v := decided.Version(r.Version)
		return r.Version != s.version && (!r.Kind.Cut() || v == nil || !v.Phase.Live())
	}))
	c.Log.WithField("service", u.state.Policy.Service).WithField("version", s.version).Warn("a promotion that was not stored is withdrawn")
}

// busy reports whether time or evidence can change anything of a service.
func (u *unit) busy() bool { return u.shadow != nil || u.state.Busy() }

// looked is the state whose versions are asked whether they answer: the one that the Envoys have.
func (u *unit) looked() rollout.State {
	if u.shadow != nil {
		return u.shadow.state
	}
	return u.state
}

// reported are the versions whose requests and errors are to be counted.
func (u *unit) reported() (names []string) {
	for _, s := range []rollout.State{u.state, u.looked()} {
		for i := range s.Versions {
			if v := &s.Versions[i]; v.Reported() && !slices.Contains(names, v.Name) {
				names = append(names, v.Name)
			}
		}
	}
	return names
}
