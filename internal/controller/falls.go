package controller

import (
	"fmt"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// falls are the versions that a decision takes everything from, before it is stored.
func (u *unit) falls(records []rollout.Record) (falls []fall) {
	for _, r := range records {
		switch {
		case !r.Kind.Cut() || r.Version == "" || u.fleesTo(records, r.Version):
		case r.Kind.Final():
			falls = append(falls, fall{r.Version, r.Attempt})
		default:
			falls = append(falls, fall{version: r.Version})
		}
	}
	if f, ok := u.owed(); ok && !slices.ContainsFunc(falls, func(o fall) bool { return o.version == f.version }) {
		falls = append(falls, f)
	}
	return falls
}

// fleesTo reports that a person left a stable version for one that cannot take its place yet: what the Envoys serve stays
// until that one is stored and warm there, because without it they would have nothing.
func (u *unit) fleesTo(records []rollout.Record, left string) bool {
	return left == u.outbox.durable.Stable && !u.outbox.takesOver(u.state.Stable) && promotes(records)
}

// owed is what the Envoys have as stable although it has ended since: the version that took its place was not there
// then, and the one that has it now is.
func (u *unit) owed() (fall, bool) {
	v := u.state.Version(u.outbox.durable.Stable)
	if v == nil || !v.Cut() || u.outbox.cutting(v.Name) || !u.outbox.takesOver(u.state.Stable) {
		return fall{}, false
	}
	return fall{v.Name, v.Identity()}, true
}

// returns reports that a person left what the Envoys have as stable for a version that can take its place at once: that
// is a cut.
func (u *unit) returns(records []rollout.Record) bool {
	v := u.state.Version(u.outbox.durable.Stable)
	return promotes(records) && v != nil && v.Cut() && u.outbox.takesOver(u.state.Stable)
}

func promotes(records []rollout.Record) bool {
	return slices.ContainsFunc(records, promoting)
}

func promoting(r rollout.Record) bool { return r.Kind == rollout.KindPromoted }

// takeAway cuts a version that was ended and that the Envoys have all the same, because what was decided in its place is
// not stored and not there. The newest trusted version that they have gets everything until it is.
func (c *Controller) takeAway(u *unit, version, by string) (taken bool, err error) {
	now := time.Now()
	v := u.state.Version(version)
	if v == nil || !v.Cut() || u.outbox.cutting(version) || !u.outbox.serves(now, version) {
		return false, nil
	}
	for _, o := range slices.Backward(u.state.Versions) {
		if o.Name == version || !o.Trusted || !o.Reachable || !u.outbox.takesOver(o.Name) {
			continue
		}
		reason := fmt.Sprintf("aborted by hand: %s has everything until %s is stored, and the Envoys have it", o.Name, u.state.Stable)
		c.takes(u, []rollout.Record{{At: now, Service: u.state.Policy.Service, Version: version, Kind: rollout.KindAborted, Reason: reason, By: by,
			Before: u.state.Weights(), After: u.state.Weights()}}, []fall{{version, v.Identity()}}, o.Name)
		return true, nil
	}
	return false, &rollout.Refusal{Message: fmt.Sprintf("version %s is %s, and served until %s is stored: the Envoys have no trusted version that answers to take its place meanwhile", version, v.Phase, u.state.Stable)}
}
