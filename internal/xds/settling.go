package xds

import (
	"maps"
	"slices"
	"time"
)

// settles ends the refusals of a listener, in the books that have some, also of services that have left it since.
func (h *Hub) settles(r Ref) {
	d := h.disputed[r]
	if d == nil {
		return
	}
	delete(h.disputed, r)
	for s := range d.by {
		delete(s.refuses, r)
	}
	if len(d.by) > 0 {
		h.changesOn(r)
	}
	e := settling{h, r, d.version, slices.Collect(maps.Keys(d.books))}
	e.some()
}

// settling is what is still to be done about refusals of a listener that is not wanted any more.
type settling struct {
	*Hub
	ref     Ref
	version string
	books   []*Force
}

// some does as much of it as may be done with the mutex held, and the rest after a pause.
func (e *settling) some() {
	looked := 0
	for ; len(e.books) > 0 && looked < toldAtOnce; e.books = e.books[1:] {
		f := e.books[0]
		if looked += 1 + len(f.restless.m); f.ends(e.ref, e.over, e.now()) {
			e.changes(f.service)
		}
	}
	if len(e.books) > 0 {
		time.AfterFunc(pause, func() {
			e.enter()
			defer e.exit()
			e.some()
		})
	}
}

// over reports whether a refusal is of what is not wanted any more: it may have been published, and refused, again.
func (e *settling) over(m *member, of refusal) bool {
	d := e.disputed[e.ref]
	return sameVersion(of.version, e.version) && (d == nil || !sameVersion(d.version, e.version) || d.by[m.who] == nil)
}
