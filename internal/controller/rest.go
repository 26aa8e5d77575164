package controller

import (
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/rollout"
)

const (
	restAtOnce = 200              // services at rest that are looked at
	restTurn   = 10 * time.Minute // then it is the next ones' turn
)

// resting are the services at rest whose stable version is looked at: all of them where they are few,
// else so many at a time that ten thousand quiet services cost no more than two hundred.
func (c *Controller) resting() map[string]bool {
	var names []string
	for name, u := range c.units {
		if !u.state.Busy() && u.state.Stable != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	chosen := map[string]bool{}
	for i := range min(len(names), restAtOnce) {
		chosen[names[(c.restFirst+i)%len(names)]] = true
	}
	return chosen
}

// nextTurn lets other services at rest be looked at, where they are many.
func (c *Controller) nextTurn(now time.Time) {
	if len(c.units) <= restAtOnce || now.Sub(c.turnedAt) < restTurn {
		return
	}
	c.turnedAt, c.moved = now, true
	c.restFirst += restAtOnce
}

// restEvidence gathers the counts of a service at rest, so that a thousand quiet services cost one
// step of their state machines in ten seconds, and a release meets a judge that knows how stable's
// errors usually come.
type restEvidence struct {
	since time.Time
	cells map[string]*rollout.Cell // by Envoy
}

func (c *Controller) observeAtRest(ev metrics.Evidence, now time.Time) {
	u := c.units[ev.Service]
	if u == nil || u.state.Stable == "" {
		return
	}
	r := &u.rest
	if r.cells == nil {
		r.since, r.cells = now, map[string]*rollout.Cell{}
	}
	for _, cell := range ev.Cells {
		if r.cells[cell.Slice] == nil {
			r.cells[cell.Slice] = &rollout.Cell{}
		}
		r.cells[cell.Slice].Join(cell)
	}
	if now.Sub(r.since) < restBatch || len(r.cells) == 0 {
		return
	}
	e := rollout.Observed{At: now, Batch: ev.Batch}
	for _, cell := range r.cells {
		e.Cells = append(e.Cells, *cell)
	}
	u.rest = restEvidence{}
	c.must(u, e)
}
