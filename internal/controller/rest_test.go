package controller

import (
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/world"
)

// What is stored of a service at rest is not written again because canaryd starts and an Envoy comes back: that has time.
func TestAStartWritesNothingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 1, world.Traffic{})
		time.Sleep(restSaved + time.Minute)
		b.stop()
		before := len(b.disk.sizes())
		b.start()
		time.Sleep(restSaved - checkpoint)
		if again := b.disk.sizes()[before:]; slices.Max(append(again, 0)) > 0 {
			t.Errorf("after a start the service was written again: %v", again)
		}
		time.Sleep(2 * checkpoint)
		if again := b.disk.sizes()[before:]; slices.Max(append(again, 0)) == 0 {
			t.Error("what an Envoy has is never stored")
		}
	})
}

// Looking for what a checkpoint is to store is work that is done in pieces, after the ticks.
func TestACheckpointIsFoundInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 0, world.Traffic{})
		c := b.daemon
		b.inLoop(func() {
			busy, units := c.busy, make([]*unit, 2*ageMost+1)
			c.busy = map[string]*unit{}
			for i := range units {
				units[i] = &unit{}
				c.stale[units[i]] = struct{}{}
			}
			c.busy[""], c.restedAt = units[0], time.Time{}
			c.tick(time.Now())
			if c.backlog.ticks = nil; len(c.aged) > 0 {
				t.Errorf("a tick found %d", len(c.aged))
			}
			for pieces := 1; len(c.backlog.ageing) > 0; pieces++ {
				if c.work(time.Now()); len(c.aged) > pieces*ageMost {
					t.Errorf("%d pieces found %d", pieces, len(c.aged))
				}
			}
			if len(c.aged) < len(units) {
				t.Errorf("of %d %d are to be stored", len(units), len(c.aged))
			}
			clear(c.aged)
			clear(c.stale)
			c.busy = busy
		})
	})
}

// A checkpoint costs what is under judgement: what is at rest is looked at every five minutes only, of however many services something changed.
func TestACheckpointLooksAtNothingAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 0, world.Traffic{})
		b.announce("v2")
		time.Sleep(2 * time.Second)
		c := b.daemon
		b.inLoop(func() {
			for range 100 {
				c.stale[&unit{}] = struct{}{}
			}
			c.backlog.ageing, c.restedAt, c.checkedAt = nil, time.Now(), time.Time{}
			if c.tick(time.Now()); len(c.backlog.ageing) != 1 {
				t.Errorf("it looks at %d, want the one that is under judgement", len(c.backlog.ageing))
			}
			c.backlog.ageing, c.restedAt = nil, time.Time{}
			if c.tick(time.Now()); len(c.backlog.ageing) < 100 {
				t.Errorf("after five minutes it looks at %d, want all of which something changed", len(c.backlog.ageing))
			}
			c.backlog.ageing = nil
			for u := range c.stale {
				if c.units[u.state.Policy.Service] != u {
					delete(c.stale, u)
				}
			}
		})
	})
}

// A loop that is late, for which it is time for a tick whenever it has worked off the last one, finds what a checkpoint is to store all the same.
func TestACheckpointIsFoundWhereTicksComeWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 0, world.Traffic{})
		b.announce("v2")
		time.Sleep(2 * time.Second)
		c := b.daemon
		b.inLoop(func() {
			c.backlog.ageing = slices.Collect(maps.Values(c.busy))
			if len(c.backlog.ageing) == 0 {
				t.Error("nothing is under judgement")
			}
			for turns := 0; turns < 10; turns++ {
				if c.tick(time.Now()); len(c.backlog.ageing) > 0 {
					c.work(time.Now())
				}
			}
			if len(c.backlog.ageing) > 0 {
				t.Error("only ticks are worked on")
			}
		})
	})
}
