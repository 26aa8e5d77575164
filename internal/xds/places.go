package xds

import "iter"

// place is the number of a stream among those that are open. Who asked for what is kept by it: thousands of names have
// thousands of streams each, and it is half a pointer.
type place uint32

// places are the open streams by place. One that is left is given to the next who comes.
type places struct {
	taken []*session // nil: nobody
	free  []place
}

func (p *places) take(s *session) (at place) {
	if last := len(p.free) - 1; last >= 0 {
		at, p.free = p.free[last], p.free[:last]
		p.taken[at] = s
		return at
	}
	p.taken = append(p.taken, s)
	return place(len(p.taken) - 1)
}

// leave frees a place; nothing may know it any more.
func (p *places) leave(at place) {
	p.taken[at] = nil
	p.free = append(p.free, at)
}

// askers are the streams that asked for a resource by name.
func (h *Hub) askers(r Ref) iter.Seq[*session] {
	return func(yield func(*session) bool) {
		for _, at := range h.subs[r] {
			if !yield(h.places.taken[at]) {
				return
			}
		}
	}
}
