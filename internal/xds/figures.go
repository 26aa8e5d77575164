package xds

import (
	"iter"
	"maps"
	"slices"
	"sync"
	"time"
)

// Figures are for the metrics.
type Figures struct {
	Streams   int
	Nacks     map[string]int   // short type name: refusals so far
	Unapplied map[string]int   // service: connected nodes without the present table, or that refuse something; those with none are left out
	Refused   map[Reason]int   // what was not taken in
	Nodes     map[Standing]int // by the worst standing that each has of any service
	Mismatch  int              // nodes admitted under a name that their certificate does not have
}

// Figures returns the present ones. A scrape need not be of one moment: streams and books are counted as they are when their turn
// comes, and a cut gets the mutex in between.
func (h *Hub) Figures() Figures { return h.figures(&breaks{mu: &h.mu}) }

func (h *Hub) figures(b *breaks) Figures {
	f := Figures{Unapplied: map[string]int{}}
	c := census{map[nameplate]int{}, map[nameplate]Standing{}}
	h.survey(b, &f, &c)
	f.Nodes = c.counts()
	return f
}

// survey takes in what can be read with the mutex held only.
func (h *Hub) survey(b *breaks, f *Figures, c *census) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f.Streams, f.Nacks = len(h.peers), maps.Clone(h.nacks)
	f.Refused, f.Mismatch = h.refusals.figures()
	for s := range withBreaks(b, len(h.peers), maps.Values(h.peers)) {
		c.books[s.nameplate()] += len(s.books)
	}
	for s := range withBreaks(b, len(h.services), maps.Values(h.services)) {
		book := s.force
		for m := range withBreaks(b, len(book.restless.m), maps.Keys(book.restless.m)) {
			if book.unapplied(m) {
				f.Unapplied[book.service]++
			}
			c.add(book, m)
		}
		if d, _ := h.disputeOf(book.service); d != nil {
			if n := d.refusing(book); n > 0 {
				f.Unapplied[book.service] += n
			}
			b.looks(min(len(d.by), len(book.members)))
		}
	}
	h.surveyOutside(b, c)
}

// surveyOutside takes in who is joining services in whose books it is not.
func (h *Hub) surveyOutside(b *breaks, c *census) {
	for _, d := range h.disputed {
		for s := range withBreaks(b, len(d.order), slices.Values(d.order)) {
			if who := s.nameplate(); c.better(who, Joining) && h.standsOutside(s) {
				c.worst[who] = Joining
			}
		}
	}
}

// nameplate is what tells Envoys apart: two of them may share a node.id.
type nameplate struct{ id, peer string }

func (s *stream) nameplate() nameplate { return nameplate{s.ID, s.Peer} }

// census counts nodes by their worst standing. Who is at rest everywhere is counted by its stream.
type census struct {
	books map[nameplate]int      // that count a stream of theirs: it is not the older one of a node that came back
	worst map[nameplate]Standing // where they are not at rest
}

func (c *census) add(f *Force, m *member) {
	switch who, s := m.who.nameplate(), f.standing(m); {
	case m.isDoubted():
		c.books[who]--
	case c.better(who, s):
		c.worst[who] = s
	}
}

// better reports whether nothing is known of an Envoy that is as bad as a standing.
func (c *census) better(who nameplate, than Standing) bool {
	return c.worst[who] == "" || than.worse(c.worst[who])
}

func (c *census) counts() map[Standing]int {
	n := map[Standing]int{}
	for _, s := range severity() {
		n[s] = 0
	}
	for _, s := range c.worst {
		n[s]++
	}
	for who, books := range c.books {
		if _, restless := c.worst[who]; books > 0 && !restless {
			n[Applied]++
		}
	}
	return n
}

// breaks let a mutex go after each thousand looks, with a pause, so that others have their turn.
type breaks struct {
	mu     sync.Locker
	looked int
}

// looks counts some looks, and reports whether there was a pause before them.
func (b *breaks) looks(n int) (paused bool) {
	before := b.looked / toldAtOnce
	if b.looked += n; b.looked/toldAtOnce == before {
		return false
	}
	b.mu.Unlock()
	time.Sleep(pause)
	b.mu.Lock()
	return true
}

// withBreaks goes through what there is now, with the mutex held but for the pauses: some of it may be gone when its turn comes.
func withBreaks[T any](b *breaks, n int, all iter.Seq[T]) iter.Seq[T] {
	now := slices.AppendSeq(make([]T, 0, n), all)
	return func(yield func(T) bool) {
		for _, each := range now {
			b.looks(1)
			if !yield(each) {
				return
			}
		}
	}
}
