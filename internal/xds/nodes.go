package xds

import (
	"maps"
	"slices"
	"time"
)

// nodes are in whose books each node is, by node.id: what happens to one of them costs what it has, however many services
// there are.
type nodes map[string]*known

// known is what is known of a node.
type known struct {
	open  []*stream
	lost  bool      // a connection to it ended, and no new process of it has come since
	left  time.Time // when it went last
	books []*Force  // that it may be gone from; few of them twice
	debt  *debt     // what it counts for while it is away; nil: nothing
}

// debt is what is remembered of the nodes of one address that are away: their names are their own choice.
type debt struct {
	nodes map[string]int // how many books each is in
	books int            // all of these
}

func (k *known) owes(id string, d *debt) {
	k.debt = d
	d.nodes[id] = len(k.books)
	d.books += len(k.books)
}

// quits ends what a node counts for.
func (k *known) quits(id string) {
	if k.debt != nil {
		k.debt.books -= k.debt.nodes[id]
		delete(k.debt.nodes, id)
		k.debt = nil
	}
}

func (n nodes) of(id string) *known {
	if n[id] == nil {
		n[id] = &known{}
	}
	return n[id]
}

func (n nodes) comes(s *stream) {
	k := n.of(s.ID)
	k.quits(s.ID)
	k.open = append(k.open, s)
}

// leaves takes in that a stream ended which was in some books, and has the debt of its address grow; nil: that has none. Of
// a node that is in no book nothing is remembered.
func (n nodes) leaves(s *stream, books []*Force, d *debt, at time.Time) {
	k := n.of(s.ID)
	k.open = slices.DeleteFunc(k.open, func(o *stream) bool { return o == s })
	k.lost = true
	k.gone(s.ID, books, at)
	switch {
	case len(k.open) > 0:
	case len(k.books) == 0:
		k.quits(s.ID)
		delete(n, s.ID)
	case d != nil:
		k.quits(s.ID)
		k.owes(s.ID, d)
	}
}

// oldest are those of an address that are away for longest: a few at a time, so that not each who goes looks for them, and not more
// than are forgotten in a millisecond or two.
func (n nodes) oldest(d *debt) []string {
	const most = 1000 // books
	ids := slices.SortedFunc(maps.Keys(d.nodes), func(a, b string) int { return n[a].left.Compare(n[b].left) })
	books := 0
	for i, id := range ids {
		if books += d.nodes[id]; books >= most || i+1 >= (len(ids)+15)/16 {
			return ids[:i+1]
		}
	}
	return ids
}

// restored takes in that nodes are in a book since before a restart. An Envoy that has ten thousand services comes here ten
// thousand times: to look through its books each time took longer than all else of the start.
func (n nodes) restored(ids []string, book *Force, at time.Time) {
	for _, id := range ids {
		k := n.of(id)
		k.left, k.books = at, append(k.books, book)
	}
}

func (k *known) gone(id string, books []*Force, at time.Time) {
	k.left, k.books = at, union(k.books, books)
	k.books = slices.DeleteFunc(k.books, func(f *Force) bool { return len(f.of(id)) == 0 })
}

// union is the books of two lists, each once.
func union(a, b []*Force) (all []*Force) {
	seen := map[*Force]struct{}{}
	for _, f := range slices.Concat(a, b) {
		if _, twice := seen[f]; !twice {
			seen[f] = struct{}{}
			all = append(all, f)
		}
	}
	return all
}

// books are those that a node is in.
func (n nodes) books(id string) (books []*Force) {
	k := n[id]
	if k == nil {
		return nil
	}
	for _, s := range k.open {
		books = append(books, s.books...)
	}
	return slices.DeleteFunc(union(k.books, books), func(f *Force) bool { return len(f.of(id)) == 0 })
}

// ownOrLeft are the services in whose books a stream is, and those whose books its node has left: it takes its place there.
func (n nodes) ownOrLeft(s *stream) (services []string) {
	for _, f := range s.books {
		services = append(services, f.service)
	}
	if k := n[s.ID]; k != nil {
		for _, f := range k.books {
			if f.lost(s.ID) {
				services = append(services, f.service)
			}
		}
	}
	return services
}

// expire forgets what the books of a node have forgotten, and says how much it looked at.
func (n nodes) expire(id string, now time.Time, after time.Duration) (looked int) {
	k := n[id]
	if k == nil || now.Sub(k.left) <= after {
		return 1
	}
	k.quits(id)
	if k.lost, k.books = false, nil; len(k.open) == 0 {
		delete(n, id)
	}
	return 1
}
