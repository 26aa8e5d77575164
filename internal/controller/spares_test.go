package controller

import (
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Of a service with evidence every second tick is left out, whenever in the second the evidence comes; of one without none is.
func TestEverySecondTickIsLeftOutWhereEvidenceComes(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	for _, late := range []time.Duration{0, time.Millisecond, 500 * time.Millisecond, 999 * time.Millisecond} {
		u, ticks := newUnit(rollout.State{}), 0
		for i := range 10 {
			now := at.Add(time.Duration(i) * time.Second)
			u.observedAt = now.Add(-late)
			if !u.spares(now) {
				ticks++
			}
		}
		if ticks != 5 {
			t.Errorf("with evidence %s before each tick %d of 10 ticks are taken in", late, ticks)
		}
	}
	u := newUnit(rollout.State{})
	for i := range 10 {
		if u.spares(at.Add(time.Duration(i) * time.Second)) {
			t.Fatal("without evidence a tick is left out")
		}
	}
}
