package controller

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// However long it takes to find out whether a service is wanted, the loop looks what else there is to do after a piece, and all are
// asked about in the end.
func TestServicesAreLookedAtForNoLongerThanAPiece(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const services, takes, atOnce = 50, pieceFor / 8, 8
		c := &Controller{units: map[string]*unit{}}
		for i := range services {
			name := fmt.Sprintf("shop-%02d", i)
			c.targets.services, c.units[name] = append(c.targets.services, name), newUnit(rollout.State{Policy: policy.Policy{Service: name}})
		}
		looked := 0
		for last, more := "", true; more; {
			before, begun := looked, time.Now()
			_, last, more = c.some(last, func(*Present) bool { looked++; time.Sleep(takes); return false })
			if took := time.Since(begun); took > pieceFor || more && looked-before != atOnce {
				t.Fatalf("a piece of %d services took %s", looked-before, took)
			}
		}
		if looked != services {
			t.Errorf("%d of %d services were looked at", looked, services)
		}
	})
}

// Where one service takes longer than a piece may, each piece is one service.
func TestAPieceHasOneServiceAtLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Controller{units: map[string]*unit{"a": newUnit(rollout.State{}), "b": newUnit(rollout.State{})}}
		c.targets.services = []string{"a", "b"}
		slow := func(*Present) bool { time.Sleep(2 * pieceFor); return false }
		if _, last, more := c.some("", slow); last != "a" || !more {
			t.Errorf("up to %q, and more: %v", last, more)
		}
		if _, last, more := c.some("a", slow); last != "b" || more {
			t.Errorf("then up to %q, and more: %v", last, more)
		}
	})
}
