package xds

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
)

// Whoever broke a limit is not let in again at once, and later each time; others at the address wait for a moment, and
// are let in; those elsewhere, and the streams that there are, notice nothing.
func TestWhoeverBreaksALimitWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, _, dial := reports(t, func(a *Admission) { a.Limits.NamesPerType, a.Limits.ConnectionAge = 100, time.Hour })
		publish(t, h, table(1, nil))
		there := connect(t, dial(), "there", 40)
		there.start("shop", "shop/v1")
		for _, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			bad := connect(t, dial(), "bad", 40)
			bad.subscribe(TypeRoute, invented(101)...)
			bad.ends(codes.ResourceExhausted, "names_per_type")
			began := time.Now()
			there.subscribe(TypeRoute, fmt.Sprint("is", want))
			there.ack(there.expect(TypeRoute))
			if took := time.Since(began); took != 0 {
				t.Errorf("a stream that is there waited for %s", took)
			}
			honest := connect(t, dial(), "honest", 40)
			honest.start("shop", "shop/v1")
			if took := time.Since(began); took > pauseAddress {
				t.Errorf("an honest one at the address waited for %s", took)
			}
			honest.cancel()
			again := connect(t, dial(), "bad", 40)
			again.subscribe(TypeRoute, "shop")
			if want > 2*time.Second { // else what it waited with the others was its pause
				again.ends(codes.Unavailable, "node bad exceeded a limit: it is admitted again in")
			}
			again.cancel()
			time.Sleep(want - time.Since(began))
		}
		last := connect(t, dial(), "bad", 40)
		last.start("shop", "shop/v1")
		if n := h.Figures().Refused[overPause]; n < 5 {
			t.Errorf("%d waits were counted", n)
		}
		there.cancel()
		last.cancel()
		waitSessions(t, h, 0)
	})
}

func TestPausesAreBoundedAndForgiven(t *testing.T) {
	p, at, who := newPenalties(), time.Unix(1e9, 0), Identity{"bad", "10.0.0.5"}
	for i := range 10 {
		p.add(who, at)
		p.add(who, at) // another stream of it
		want := min(time.Second<<i, pauseMost)
		if got := p.left(who, at); got != want {
			t.Errorf("the %dth time it waits for %s, want %s", i+1, got, want)
		}
		at = at.Add(want)
	}
	if at = at.Add(forgivenIn); p.left(who, at) != 0 {
		t.Error("it waits for ever")
	}
	p.add(who, at)
	if got := p.left(who, at); got != pauseLeast {
		t.Errorf("after a good while it waits for %s", got)
	}
	for i := range 2 * pausesMost {
		p.add(Identity{fmt.Sprint(i), "10.0.0.6"}, at)
	}
	if len(p.of) > pausesMost {
		t.Errorf("%d pauses are remembered", len(p.of))
	}
}
