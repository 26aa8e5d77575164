package xds

import (
	"iter"
	"time"
)

// tour goes through the services on a listener, each of which may have news, after all others that have some. When something happens
// meanwhile it goes once around from where it is: nobody is left out, and a thousand NACKs cost what one costs.
type tour struct {
	services []string
	next     int
	left     int
}

func (t *tour) again(services []string) {
	t.services, t.left = services, len(services)
}

func (t *tour) step() string {
	if t.next >= len(t.services) {
		t.next = 0
	}
	t.next, t.left = t.next+1, t.left-1
	return t.services[t.next-1]
}

// changesOn notes that the status of all services on a listener may have changed.
func (h *Hub) changesOn(r Ref) {
	services := h.on(r)
	if len(services) == 0 {
		return
	}
	if h.tours[r] == nil {
		h.tours[r] = &tour{}
	}
	h.tours[r].again(services)
	h.mention()
}

// news are the services whose status may have changed, for some time: those of which something happened to one of their own, then
// those on listeners.
func (h *Hub) news(until time.Time) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range h.changed.m {
			if time.Now().After(until) {
				return
			}
			if h.changed.drop(name); !yield(name) {
				return
			}
		}
		for r, t := range h.tours {
			for t.left > 0 {
				if time.Now().After(until) || !yield(t.step()) {
					return
				}
			}
			delete(h.tours, r)
		}
	}
}
