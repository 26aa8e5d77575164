package controller

import (
	"iter"
	"slices"
	"time"
)

// nextWrite is what the next write takes, as it is gathered.
type nextWrite struct {
	*Controller
	jobs  []job
	moved int // of these are of moves: there is as much room for others as without them
}

// jobs are what is to be stored next: cuts, which wait for nothing else, then moves, then other decisions,
// then evidence. Cuts without end hold up no other decision: every other write has room for these.
func (c *Controller) jobs(now time.Time) []job {
	w, n := &c.writer, nextWrite{Controller: c}
	if w.wasTo = w.to; !w.alone {
		n.cuts(c.atOnce)
	}
	if w.alone = len(n.jobs) > 0; w.alone {
		return n.jobs
	}
	decisions, evidence := c.atOnce, agedAtOnce
	if now.Sub(c.cutAt) < cutsFollow {
		decisions, evidence = min(decisions, besideCuts), besideCuts
	}
	n.moves(decisions)
	n.cuts(decisions / 2)
	if len(c.unsaved) > len(c.moves.of) { // else nothing of these is to be found among moves
		n.some(c.neighbours(c.unsaved, &w.to.decisions), decisions)
	}
	n.cuts(decisions)
	if before := len(n.jobs); !now.Before(w.agedAt) {
		n.some(c.neighbours(c.aged, &w.to.evidence), evidence)
		w.aged = len(n.jobs) > before
	}
	return n.jobs
}

// take takes a service, of a move or of none.
func (n *nextWrite) take(u *unit, m *move) {
	if n.jobs == nil { // they are large
		n.jobs = make([]job, 0, min(len(n.unsaved)+len(n.aged), storedAtOnce))
	}
	j := n.rebirth(n.leaves(u.job(n.writer.err == nil)))
	j.move = m
	u.tries(&j.state.Policy.Route)
	n.jobs = append(n.jobs, j)
	for _, set := range []map[*unit]struct{}{n.unsaved, n.aged, n.stale} {
		delete(set, u)
	}
	u.stale = false
}

// cuts takes services with cuts, as long as there is room.
func (n *nextWrite) cuts(most int) {
	for u := range n.cutting {
		_, due := n.unsaved[u]
		if due && n.alone(u) && len(n.jobs)-n.moved < most {
			n.take(u, nil)
		}
	}
}

// alone reports whether a service is in no move, and will not be in one of the reading that is being taken in.
func (n *nextWrite) alone(u *unit) bool { return n.Controller.moves.of[u] == nil && !n.returns(u) }

// moves takes all of a move, however large it is, and more of them as long as there is room.
func (n *nextWrite) moves(most int) {
	begun := time.Now()
	for m := range n.Controller.moves.next(n.cutting) {
		units := n.Controller.moves.take(m)
		n.jobs = slices.Grow(n.jobs, max(len(units), storedAtOnce))
		for _, u := range units {
			n.take(u, m)
		}
		if len(n.jobs) >= most || n.writer.paced && time.Since(begun) >= pieceFor {
			break
		}
	}
	n.moved = len(n.jobs)
}

// some takes services without cuts, as long as there is room and time: at least one, however long what goes before it took.
func (n *nextWrite) some(units iter.Seq[*unit], most int) {
	begun, before := time.Now(), len(n.jobs)
	for u := range units {
		if len(n.jobs)-n.moved >= most || len(n.jobs) > before && n.writer.paced && time.Since(begun) >= pieceFor {
			return
		}
		if _, cut := n.cutting[u]; !cut && n.alone(u) {
			n.take(u, nil)
		}
	}
}
