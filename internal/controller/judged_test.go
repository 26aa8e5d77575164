package controller

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Whatever order evidence comes in, and whatever has gone since, it is taken in by the service that it names.
func TestEvidenceFindsItsService(t *testing.T) {
	c := &Controller{busy: map[string]*unit{}}
	named := func(name string) *unit {
		u := newUnit(rollout.State{Policy: policy.Policy{Service: name}})
		u.noted = true
		return u
	}
	r := rand.New(rand.NewPCG(1, 2))
	var order []string
	for i := range 20 {
		order = append(order, strconv.Itoa(i))
		c.busy[order[i]] = named(order[i])
	}
	guessed := 0
	for round := range 1000 {
		switch name := order[r.IntN(len(order))]; r.IntN(4) {
		case 0:
			r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		case 1: // it ends, or is removed
			if u := c.busy[name]; u != nil {
				delete(c.busy, name)
				u.noted = false
			}
		case 2: // it begins, perhaps anew
			if u := c.busy[name]; u != nil {
				u.noted = false
			}
			c.busy[name] = named(name)
		}
		for _, name := range order {
			if last := c.observedLast; last != nil && last.next != nil && last.next == c.busy[name] {
				guessed++
			}
			if u := c.judged(name); u != c.busy[name] {
				t.Fatalf("round %d: evidence of %s is taken in by %v", round, name, u)
			}
		}
	}
	if guessed < 1000 {
		t.Errorf("%d of %d were looked at first", guessed, 1000*len(order))
	}
}
