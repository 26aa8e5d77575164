package controller

import (
	"time"

	"github.com/canaryd/canaryd/internal/journal"
)

// clockSet is by how much the clock must have been set for anybody to care. Slewing sets nothing.
const clockSet = time.Second

// clock notices that the computer's clock was set, or that it slept: what is decided rests on moments that can be written,
// and those do not know how much time has really passed.
type clock struct {
	steady time.Time // a moment by the monotonic clock
	wall   time.Time // and what the other one said then
}

// set returns by how much the clock was set since it was asked last; 0: it was not.
func (k *clock) set(now time.Time) time.Duration {
	wall := now.Round(0)
	by := wall.Sub(k.wall) - now.Sub(k.steady)
	first := k.steady.IsZero()
	if !first && by.Abs() < clockSet {
		return 0
	}
	if k.steady, k.wall = now, wall; first {
		return 0
	}
	return by
}

// keepTime moves all that is remembered with a clock that was set: no release is judged longer, or has been silent for longer, by that.
func (c *Controller) keepTime(now time.Time) {
	by := c.clock.set(now)
	if by == 0 {
		return
	}
	c.Log.WithField("by", by).Warn("the clock was set, or the computer slept: what is remembered moves with it")
	for _, u := range c.units {
		u.state, u.kept = u.state.Moved(by), false
		c.outdated(u)
		for _, s := range u.shadows {
			s.state = s.state.Moved(by)
		}
		u.scribe.end(&u.state, journal.ClockSet)
	}
}
