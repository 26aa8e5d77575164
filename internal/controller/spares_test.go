package controller

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// While evidence comes, and decides nothing, ticks are left out. They are not once something else has happened, of a canary that
// changes with time, and without evidence.
func TestTicksAreLeftOutWhileEvidenceComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bad sync.Map
		b := canary(t, tenPercent, &bad)
		spares := func(when string, want bool) {
			t.Helper()
			b.inLoop(func() {
				if got := b.daemon.units["shop"].spares(time.Now()); got != want {
					t.Errorf("%s: a tick is left out: %t", when, got)
				}
			})
		}
		hand := func(what string) {
			t.Helper()
			if _, err := b.hand(what, "v2"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5500 * time.Millisecond)
		spares("all goes on as it is", true)
		hand("pause")
		spares("just paused", false)
		time.Sleep(5 * time.Second)
		spares("paused", false)
		hand("resume")
		spares("just resumed", false)
		time.Sleep(5 * time.Second)
		spares("it goes on", true)
		for _, stop := range b.stops {
			stop()
		}
		time.Sleep(5 * time.Second)
		spares("nobody reports", false)
	})
}
