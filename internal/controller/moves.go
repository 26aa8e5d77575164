package controller

import (
	"iter"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
)

// move is services that are stored and published at once, as no Envoy is to see a listener or a host that has left one service
// and not joined the other: each leaves a place that another one of them joins, or joins one that another one leaves. A move is as
// small as can be: who hangs on nobody else of it, directly or through others, is in another one.
type move struct {
	into   *move // what it has become a part of
	size   int   // how many became this one
	awaits int   // of its services do not have their policies yet
	units  []*unit
}

func newMove() *move { return &move{size: 1, awaits: 1} }

// now is the move that it has become a part of.
func (m *move) now() *move {
	for m.into != nil {
		m = m.into
	}
	return m
}

// unite makes one move of two. The smaller one becomes a part of the other, so that many cost little.
func unite(a, b *move) *move {
	if a, b = a.now(), b.now(); a == b {
		return a
	}
	if a.size < b.size {
		a, b = b, a
	}
	b.into, a.size, a.awaits = a, a.size+b.size, a.awaits+b.awaits
	a.units, b.units = append(a.units, b.units...), nil
	return a
}

// moves are those that are to be stored.
type moves struct {
	of  map[*unit]*move // by service
	due queue[*move]    // their services have their policies
}

func newMoves() moves { return moves{of: map[*unit]*move{}} }

// bind has a service stored with a move, and with what it was to be stored with before.
func (ms *moves) bind(u *unit, m *move) *move {
	if m = m.now(); ms.of[u] != nil {
		m = unite(ms.of[u], m)
	} else {
		m.units = append(m.units, u)
	}
	ms.of[u] = m
	return m
}

// adopted takes in that a service of a move has its policy.
func (ms *moves) adopted(m *move) {
	m = m.now()
	if m.awaits--; m.awaits == 0 {
		ms.due = append(ms.due, m)
	}
}

// tries keeps a route that is given to the disk, where it has other places than the one that the Envoys have.
func (u *unit) tries(r *policy.Route) {
	if d := u.outbox.durable.Policy; d != nil && samePlaces(r, &d.Route) {
		return
	}
	if !slices.ContainsFunc(u.tried, func(t *policy.Route) bool { return samePlaces(r, t) }) {
		copied := *r
		u.tried = append(u.tried, &copied)
	}
}

// routes are those that the Envoys have of a service, or may have before what is decided next is stored, each once.
func (u *unit) routes() []*policy.Route {
	routes := append(make([]*policy.Route, 0, 2), &u.state.Policy.Route)
	add := func(r *policy.Route) {
		if !slices.ContainsFunc(routes, func(o *policy.Route) bool { return samePlaces(r, o) }) {
			routes = append(routes, r)
		}
	}
	if u.back != nil {
		add(&u.back.Policy.Route)
	}
	for _, r := range u.tried {
		add(r)
	}
	switch d := u.outbox.durable.Policy; {
	case !u.outbox.Unstored():
	case d == nil:
		add(&policy.Route{})
	default:
		add(&d.Route)
	}
	return routes
}

// again has what was in a write that failed stored before all others.
func (ms *moves) again(jobs []job) {
	var failed queue[*move]
	for _, j := range jobs {
		if j.move == nil {
			continue
		}
		if m := ms.bind(j.u, j.move); len(failed) == 0 || failed[len(failed)-1] != m {
			failed = append(failed, m)
		}
	}
	ms.due = append(failed, ms.due...)
}

// next are moves to be stored: those with cuts, and then in their turn.
func (ms *moves) next(cutting map[*unit]time.Time) iter.Seq[*move] {
	return func(yield func(*move) bool) {
		for u := range cutting {
			if m := ms.of[u]; m != nil && m.now().awaits == 0 && !yield(m.now()) {
				return
			}
		}
		for len(ms.due) > 0 {
			m := ms.due[0].now()
			if ms.due = ms.due[1:]; m.awaits == 0 && len(m.units) > 0 && !yield(m) {
				return
			}
		}
		ms.due = nil
	}
}

// take takes all that is in a move, once.
func (ms *moves) take(m *move) (us []*unit) {
	for _, u := range m.units {
		if _, in := ms.of[u]; in { // else it was removed
			us = append(us, u)
			delete(ms.of, u)
		}
	}
	m.units = nil
	return us
}
