package xds

import (
	"iter"
	"slices"
)

// Who refuses a listener, booked where its services' books know the stream, and once for all others; and what is told of that.

// disputeOf is what is refused of a service's listener; nil: nothing is.
func (h *Hub) disputeOf(service string) (*dispute, Ref) {
	at := h.listeners.at[service]
	if at == nil {
		return nil, Ref{}
	}
	r := Ref{TypeListener, at.address}
	return h.disputed[r], r
}

// on are the services on a listener, in order.
func (h *Hub) on(r Ref) []string {
	if on := h.listeners.on[r.Name]; on != nil {
		return on.services
	}
	return nil
}

// disputes books the NACK of a listener as it is.
func (h *Hub) disputes(s *session, r Ref, version, why string) {
	if s.Diagnostic {
		return
	}
	d := h.disputed[r]
	if d == nil {
		d = newDispute(version)
		h.disputed[r] = d
	}
	s.heard = h.now()
	news := d.comes(s.stream, why, s.heard)
	if s.refuses == nil {
		s.refuses = map[Ref]struct{}{}
	}
	s.refuses[r] = struct{}{}
	for name := range breathing(h, slices.Values(h.nodes.ownOrLeft(s.stream))) {
		if h.disputed[r] != d {
			return // meanwhile
		}
		if svc := h.services[name]; svc != nil {
			h.refusesIn(s.stream, svc.force)
		}
	}
	if news {
		h.changesOn(r)
	}
}

// refusesIn books in a service's book that a stream refuses its listener.
func (h *Hub) refusesIn(s *stream, f *Force) {
	d, r := h.disputeOf(f.service)
	svc := h.services[f.service]
	if d == nil || d.by[s] == nil || svc == nil || svc.force != f || !s.sees(f.service) || d.by[s].try <= d.tried[f.service] {
		return
	}
	f.Refuse(s, r, d.version, d.by[s].why, h.now())
	d.books[f] = struct{}{}
	h.changes(f.service)
}

// appease takes in that a stream accepted a listener that it may have refused.
func (h *Hub) appease(s *stream, r Ref, version string) {
	if d := h.disputed[r]; d != nil && sameVersion(d.version, version) && d.goes(s) {
		delete(s.refuses, r)
		h.changesOn(r)
	}
}

// withdraws ends what a stream refuses that is over.
func (h *Hub) withdraws(s *stream) {
	for r := range s.refuses {
		if d := h.disputed[r]; d != nil {
			d.goes(s)
			h.changesOn(r)
		}
	}
	s.refuses = nil
}

// succeeds has another stream of a node take its place in the books that it has left, where that refuses what they are on.
func (h *Hub) succeeds(id string, books []*Force) {
	k := h.nodes[id]
	if k == nil {
		return
	}
	for _, s := range slices.Backward(k.open) {
		if len(s.refuses) == 0 {
			continue
		}
		for _, f := range books {
			if f.lost(id) {
				h.refusesIn(s, f)
			}
		}
		return
	}
}

// arrive has services that have joined a listener know who of their books refuses it.
func (h *Hub) arrive(r Ref, services []string) {
	d := h.disputed[r]
	if d == nil {
		return
	}
	for _, name := range services {
		s := h.services[name]
		if s == nil {
			continue
		}
		for _, m := range s.force.members {
			if p := d.by[m.who]; p != nil && !m.isGone() && !m.refuses(r, d.version) {
				h.refusesIn(m.who, s.force)
			}
		}
	}
}

// retriesOutside sends a service's listener again to those who refuse it and are in no book.
func (h *Hub) retriesOutside(name string) {
	d, r := h.disputeOf(name)
	if d == nil {
		return
	}
	for s := range d.by {
		if d.keepsOut(s, h.services[name].force) {
			h.resend(s.id, r)
		}
	}
	d.tried[name] = d.tries
}

// standsOutside reports whether there is a service in whose book a stream is not because it refuses the listener.
func (h *Hub) standsOutside(s *stream) bool {
	for r := range s.refuses {
		for _, name := range h.on(r) {
			if svc := h.services[name]; svc != nil && h.disputed[r].keepsOut(s, svc.force) {
				return true
			}
		}
	}
	return false
}

// pardons ends what the streams of a node refuse, and returns the services that they stood outside of.
func (h *Hub) pardons(id string) (services []string) {
	for _, name := range h.disputedBy(id) {
		s := h.services[name]
		if s == nil {
			continue
		}
		for range h.outsidersOf(s.force, id) {
			services = append(services, name)
			h.changes(name)
			break
		}
	}
	for s, r := range h.outsiders(id) {
		h.disputed[r].goes(s)
		delete(s.refuses, r)
	}
	return services
}

// disputedBy are the services on the listeners that streams of a node refuse.
func (h *Hub) disputedBy(id string) (services []string) {
	refused := map[Ref]struct{}{}
	for _, r := range h.outsiders(id) {
		refused[r] = struct{}{}
	}
	for r := range refused {
		services = append(services, h.on(r)...)
	}
	return services
}

// outsiders are the streams of a node that refuse listeners, and what they refuse.
func (h *Hub) outsiders(id string) iter.Seq2[*stream, Ref] {
	return func(yield func(*stream, Ref) bool) {
		k := h.nodes[id]
		if k == nil {
			return
		}
		for _, s := range k.open {
			for r := range s.refuses {
				if !yield(s, r) {
					return
				}
			}
		}
	}
}

// outsidersOf are the streams of a node that stand outside of a service's book, and what is told of each.
func (h *Hub) outsidersOf(f *Force, id string) iter.Seq2[*stream, NodeStatus] {
	return func(yield func(*stream, NodeStatus) bool) {
		d, r := h.disputeOf(f.service)
		if d == nil {
			return
		}
		for s, refuses := range h.outsiders(id) {
			if refuses == r && d.keepsOut(s, f) && !yield(s, d.nodeStatus(r, s, f.service)) {
				return
			}
		}
	}
}
