package controller

import (
	"time"

	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/rollout"
)

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
		cell.Has, cell.HasSince, cell.Unknown = nil, time.Time{}, false // nothing rises or falls by it
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
