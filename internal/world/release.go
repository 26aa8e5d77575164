package world

import (
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Release takes a service through the very state machine and judge that run in production. Its fleet takes every table.
type Release struct {
	rollout.State
	Lag time.Duration // from a decision until the Envoys serve it

	given uint64    // generation of the table that is on its way
	due   time.Time // when they serve it
}

// Take is one event at a moment. What is refused changes nothing.
func (r *Release) Take(at time.Time, e rollout.Event) {
	if next, _, err := rollout.Step(r.State, e); err == nil {
		r.State = next
	}
	for !r.InForce {
		if r.Generation != r.given {
			r.given, r.due = r.Generation, at.Add(r.Lag)
		}
		if at.Before(r.due) {
			return
		}
		r.State, _, _ = rollout.Step(r.State, rollout.Applied{At: at, Generation: r.Generation, InForce: true, Subscribers: 1})
	}
}
