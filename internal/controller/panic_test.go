package controller

import (
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/world"
)

// A service whose state machine stumbles in the middle of a step keeps the state from before it.
func TestAPanicLeavesTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 1, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(5 * time.Second)
		b.inLoop(func() {
			c, u, now := b.daemon, b.daemon.units["shop"], time.Now()
			sound := u.state
			u.state.Versions = slices.Clone(u.state.Versions)
			for i, v := range u.state.Versions {
				broken := *v
				broken.Judge = nil
				u.state.Versions[i] = &broken
			}
			before := u.state
			for _, e := range []rollout.Event{rollout.Tick{At: now}, rollout.Observed{At: now, Batch: time.Second, Cells: []rollout.Cell{{From: now.Add(-time.Second), To: now, Counts: map[string]analysis.Counts{"v1": {Requests: 90}, "v2": {Requests: 10}}}}}} {
				u.panicked = nil
				if _, err := c.step(u, e); err == nil || u.panicked == nil {
					t.Errorf("%T: a canary without a judge was judged", e)
				}
				if !reflect.DeepEqual(u.state, before) {
					t.Errorf("%T: a step that stumbled has changed the state", e)
				}
			}
			u.state = sound
		})
	})
}
