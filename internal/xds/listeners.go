package xds

import (
	"slices"

	"github.com/canaryd/canaryd/internal/policy"
)

// listeners are which services each listener has, and which scopes were made for a service: a change of one
// service costs what that one and its listener cost.
type listeners struct {
	services map[string][]string // by address, sorted
	scopes   map[string][]Ref    // by service
}

func newListeners() listeners {
	return listeners{services: map[string][]string{}, scopes: map[string][]Ref{}}
}

// move takes in that a service has another listener; empty: none.
func (l *listeners) move(service, from, to string) {
	if from == to {
		return
	}
	if i, found := slices.BinarySearch(l.services[from], service); found {
		l.services[from] = slices.Delete(l.services[from], i, i+1)
	}
	if len(l.services[from]) == 0 {
		delete(l.services, from)
	}
	if i, found := slices.BinarySearch(l.services[to], service); to != "" && !found {
		l.services[to] = slices.Insert(l.services[to], i, service)
	}
}

// listen rebuilds what depends on a service's route: the listeners that it leaves and joins, and its scopes.
func (h *Hub) listen(service string, was, is policy.Route) error {
	h.listeners.move(service, was.Listener, is.Listener)
	for _, address := range slices.Compact([]string{is.Listener, was.Listener}) {
		if address == "" {
			continue
		}
		if err := h.relisten(address, service); err != nil {
			return err
		}
	}
	if is.Listener == "" {
		h.scope(service, nil)
	}
	return nil
}

// relisten rebuilds one listener after a service joined, changed or left.
func (h *Hub) relisten(address, service string) error {
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
	if i, found := slices.BinarySearch(names, service); found && len(ps) > 2 {
		ps = ps[i : i+1] // only the first two of a listener decide for each other whether there are scopes
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
		}
	}
	if h.listeners.scopes[service] = refs; len(refs) == 0 {
		delete(h.listeners.scopes, service)
	}
}
