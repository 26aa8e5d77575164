package xds

import (
	"maps"
	"slices"

	"github.com/canaryd/canaryd/internal/policy"
)

// listeners are which services each listener has, and which scopes were made for a service: a change of one
// service costs what that one and its listener cost.
type listeners struct {
	services map[string][]string // by address, sorted
	at       map[string]string   // the other way: by service
	scopes   map[string][]Ref    // by service
}

func newListeners() listeners {
	return listeners{services: map[string][]string{}, at: map[string]string{}, scopes: map[string][]Ref{}}
}

// move takes in that a service has another listener; empty: none. It returns the one before.
func (l *listeners) move(service, to string) (from string) {
	if from = l.at[service]; from == to {
		return from
	}
	if i, found := slices.BinarySearch(l.services[from], service); found {
		l.services[from] = slices.Delete(l.services[from], i, i+1)
	}
	if len(l.services[from]) == 0 {
		delete(l.services, from)
	}
	if delete(l.at, service); to != "" {
		i, _ := slices.BinarySearch(l.services[to], service)
		l.services[to], l.at[service] = slices.Insert(l.services[to], i, service), to
	}
	return from
}

// turn is a service whose route has changed since its listener was made.
type turn struct {
	service string
	was, is policy.Route
}

// listen rebuilds what depends on the routes of services: the listeners that they leave and join, and their scopes. Where
// that fails the next publication of these services tries again, whatever their routes are then.
func (h *Hub) listen(turns []turn) error {
	err := h.relistenAll(turns)
	for _, t := range turns {
		if s := h.services[t.service]; s != nil {
			if s.deaf = err != nil; err == nil {
				s.listens = t.is
			}
		}
	}
	return err
}

func (h *Hub) relistenAll(turns []turn) error {
	changed := map[string][]string{} // by listener
	for _, t := range turns {
		from := h.listeners.move(t.service, t.is.Listener)
		addresses := []string{t.is.Listener, t.was.Listener, from}
		slices.Sort(addresses)
		for _, address := range slices.Compact(addresses) {
			if address != "" {
				changed[address] = append(changed[address], t.service)
			}
		}
	}
	for _, address := range slices.Sorted(maps.Keys(changed)) {
		if err := h.relisten(address, changed[address]); err != nil {
			return err
		}
	}
	for _, t := range turns {
		if t.is.Listener == "" {
			h.scope(t.service, nil)
		}
	}
	return nil
}

// relisten rebuilds one listener after services joined, changed or left.
func (h *Hub) relisten(address string, changed []string) error {
	names := h.listeners.services[address]
	if len(names) == 0 {
		h.drop(Ref{TypeListener, address})
		return nil
	}
	ps := make([]*policy.Policy, len(names))
	for i, name := range names {
		ps[i] = h.services[name].edition.forms.table.Policy
	}
	l, err := buildListener(address, ps)
	if err != nil {
		return err
	}
	h.put(l)
	plain := plainRDS(ps)
	if len(ps) > 2+len(changed) { // only the first two of a listener decide for each other whether there are scopes
		ps = slices.DeleteFunc(ps, func(p *policy.Policy) bool { return !slices.Contains(changed, p.Service) })
	}
	for _, p := range ps {
		var scopes []*Resource
		if !plain {
			if scopes, err = buildScopes(p); err != nil {
				return err
			}
		}
		h.scope(p.Service, scopes)
	}
	return nil
}

// handBack gives a scope that one service has left to another one that has it too: it was lent.
func (h *Hub) handBack(r Ref, from string) {
	for name, refs := range h.listeners.scopes {
		if name != from && slices.Contains(refs, r) && h.services[name] != nil {
			route := h.services[name].edition.route
			_ = h.listen([]turn{{name, route, route}}) // it was built before
			return
		}
	}
}

// scope replaces the scopes of a service. A host that another service has taken over in the meantime is that
// one's.
func (h *Hub) scope(service string, scopes []*Resource) {
	var refs []Ref
	for _, r := range scopes {
		refs = append(refs, r.ref())
		h.put(r)
	}
	for _, old := range h.listeners.scopes[service] {
		if r := h.cat.resources[old]; r != nil && slices.Contains(r.services, service) && !slices.Contains(refs, old) {
			h.drop(old)
			defer h.handBack(old, service)
		}
	}
	if h.listeners.scopes[service] = refs; len(refs) == 0 {
		delete(h.listeners.scopes, service)
	}
}
