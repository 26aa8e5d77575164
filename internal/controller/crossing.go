package controller

import (
	"slices"

	"github.com/canaryd/canaryd/internal/policy"
)

// crossing finds the moves of a reading: who leaves and who joins each place.
type crossing map[policy.Place]*crossed

// crossed is a place that is left or joined. What happens to all of it also meets what happens to a part: on the nodes of a cluster,
// or to one host of a listener.
type crossed struct {
	left, joined         bool
	leftPart, joinedPart bool
	move                 *move // of those that meet there
}

// shift is what one service leaves and joins.
type shift struct{ left, joined []policy.Place }

// shiftOf is what is left and joined between the routes that a service may have now and the next one.
func shiftOf(next *policy.Route, now ...*policy.Route) (s shift) {
	is := next.Places()
	for _, r := range now {
		was := r.Places()
		s.left = append(s.left, beyond(was, is)...)
		s.joined = append(s.joined, beyond(is, was)...)
	}
	return s
}

// beyond are the places that others do not have.
func beyond(places, others []policy.Place) (out []policy.Place) {
	for _, p := range places {
		if !slices.Contains(others, p) && !slices.Contains(others, p.Wider()) {
			out = append(out, p)
		}
	}
	return out
}

func (x crossing) at(p policy.Place) *crossed {
	if x[p] == nil {
		x[p] = &crossed{}
	}
	return x[p]
}

// note takes in who leaves and joins what.
func (x crossing) note(s shift) {
	for _, p := range s.left {
		x.at(p).left, x.at(p.Wider()).leftPart = true, true
	}
	for _, p := range s.joined {
		x.at(p).joined, x.at(p.Wider()).joinedPart = true, true
	}
}

// meet makes a move one with all others that it meets, when all are noted.
func (x crossing) meet(s shift, m *move) {
	for _, p := range s.left {
		at, all := x[p], x[p.Wider()]
		at.meets(m, at.joined || at == all && at.joinedPart)
		all.meets(m, all.joined)
	}
	for _, p := range s.joined {
		at, all := x[p], x[p.Wider()]
		at.meets(m, at.left || at == all && at.leftPart)
		all.meets(m, all.left)
	}
}

func (at *crossed) meets(m *move, meets bool) {
	switch {
	case !meets:
	case at.move == nil:
		at.move = m
	default:
		unite(at.move, m)
	}
}
