package xds

import (
	"maps"
	"reflect"
	"slices"

	"github.com/canaryd/canaryd/internal/policy"
)

// listeners are which services each listener has, and which scopes were made for a service: a change of one
// service costs what that one costs, however many its listener has.
type listeners struct {
	on     map[string]*listening // by address
	at     map[string]*placed    // by service
	scopes map[string][]Ref      // by service
	claims map[Ref][]string      // scopes: the services that have them, the last one has it at present
}

// listening is what is to be known of the services on one listener.
type listening struct {
	services   []string       // sorted; never changed in its place: the listener has it too
	grpc       int            // of them
	everywhere int            // of them: nodes of any cluster may have them
	nodes      map[string]int // of the others, by node cluster
	made       *listenerOf    // what the listener was made of; nil: there is none
}

// placed is a service on a listener.
type placed struct {
	address string
	grpc    bool
	nodes   []string
}

func newListeners() listeners {
	return listeners{on: map[string]*listening{}, at: map[string]*placed{}, scopes: map[string][]Ref{}, claims: map[Ref][]string{}}
}

// moves is one change of many services: by listener, who joins it (true) and who leaves.
type moves map[*listening]map[string]bool

func (m moves) note(on *listening, service string, joins bool) {
	if m[on] == nil {
		m[on] = map[string]bool{}
	}
	m[on][service] = joins
}

// done makes the lists anew, each once.
func (m moves) done() {
	const few = 8 // are found one by one
	for on, moved := range m {
		if on.appends(moved) {
			continue
		}
		list := slices.Clone(on.services)
		if len(moved) > few {
			list = slices.DeleteFunc(list, func(s string) bool { _, is := moved[s]; return is })
		}
		for s, joins := range moved {
			i, found := len(list), false
			if len(moved) <= few {
				i, found = slices.BinarySearch(list, s)
			}
			switch {
			case joins && !found:
				list = slices.Insert(list, i, s)
			case !joins && found:
				list = slices.Delete(list, i, i+1)
			}
		}
		if len(moved) > few {
			slices.Sort(list)
		}
		on.services = list
	}
}

// appends takes in one service behind all others: whoever has the list goes on to see what it saw.
func (on *listening) appends(moved map[string]bool) bool {
	for s, joins := range moved {
		last := len(on.services) - 1
		if len(moved) > 1 || !joins || last >= 0 && on.services[last] >= s {
			return false
		}
		on.services = append(on.services, s)
	}
	return true
}

// move takes in that a service has another route, all but the lists of services. It returns the address of the listener that it had before.
func (l *listeners) move(service string, route policy.Route, m moves) (from string) {
	was := l.at[service]
	if was != nil {
		from = was.address
		l.on[from].count(was, -1)
	}
	if from != "" && from != route.Listener {
		m.note(l.on[from], service, false)
	}
	if delete(l.at, service); route.Listener == "" {
		return from
	}
	on := l.on[route.Listener]
	if on == nil {
		on = &listening{nodes: map[string]int{}}
		l.on[route.Listener] = on
	}
	if from != route.Listener {
		m.note(on, service, true)
	}
	l.at[service] = &placed{route.Listener, route.GRPC(), route.Nodes}
	on.count(l.at[service], 1)
	return from
}

func (on *listening) count(p *placed, n int) {
	if p.grpc {
		on.grpc += n
	}
	if len(p.nodes) == 0 {
		on.everywhere += n
	}
	for _, cluster := range p.nodes {
		if on.nodes[cluster] += n; on.nodes[cluster] == 0 {
			delete(on.nodes, cluster)
		}
	}
}

// of is what the listener is to be made of.
func (on *listening) of(plain string) listenerOf {
	of := listenerOf{grpc: on.grpc > 0, plain: plain}
	if on.everywhere == 0 {
		of.nodes = slices.Sorted(maps.Keys(on.nodes))
	}
	return of
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
	changed, m := map[string][]string{}, moves{} // by listener
	for _, t := range turns {
		from := h.listeners.move(t.service, t.is, m)
		addresses := []string{t.is.Listener, t.was.Listener, from}
		slices.Sort(addresses)
		for _, address := range slices.Compact(addresses) {
			if address != "" {
				changed[address] = append(changed[address], t.service)
			}
		}
	}
	m.done()
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
	on := h.listeners.on[address]
	if on == nil || len(on.services) == 0 {
		delete(h.listeners.on, address)
		h.drop(Ref{TypeListener, address})
		return nil
	}
	plain := ""
	if first := h.services[on.services[0]].edition.route; len(on.services) == 1 && everyHost(first) {
		plain = on.services[0]
	}
	if of := on.of(plain); on.made == nil || !reflect.DeepEqual(*on.made, of) {
		l, err := buildListener(address, of)
		if err != nil {
			return err
		}
		on.made = &of
		h.put(l)
	}
	l := h.cat.resources[Ref{TypeListener, address}]
	if l.services = on.services; l.logged != nil {
		l.logged.services = on.services
	}
	h.reveal(l.ref(), changed)
	h.arrive(l.ref(), changed)
	if len(on.services) <= 2+len(changed) { // only the first two of a listener decide for each other whether there are scopes
		changed = on.services
	}
	for _, name := range slices.Sorted(slices.Values(changed)) {
		if at := h.listeners.at[name]; at == nil || at.address != address {
			continue // it has left
		}
		var scopes []*Resource
		if plain == "" {
			var err error
			if scopes, err = buildScopes(h.services[name].edition.forms.table.Policy); err != nil {
				return err
			}
		}
		h.scope(name, scopes)
	}
	return nil
}

// reveal has the streams look at a listener that may see some services and not all: it appears to them with the first of these
// that joins it, and is gone for them with the last one, whatever it is made of.
func (h *Hub) reveal(r Ref, services []string) {
	look := func(s *session) {
		if len(s.services) > 0 && s.sees(services...) {
			s.inv.kinds[r.Type].mark(r.Name)
			s.poke()
		}
	}
	for s := range h.askers(r) {
		look(s)
	}
	for s := range h.wild[r.Type] {
		look(s)
	}
}

// handBack gives a scope that one service has left to another one that has it too: it was lent.
func (h *Hub) handBack(r Ref, from string) {
	for _, name := range slices.Backward(slices.Clone(h.listeners.claims[r])) {
		if name != from && h.services[name] != nil {
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
	h.listeners.claim(service, refs)
}

// claim notes which scopes a service has now.
func (l *listeners) claim(service string, refs []Ref) {
	for _, r := range l.scopes[service] {
		if l.claims[r] = slices.DeleteFunc(l.claims[r], func(s string) bool { return s == service }); len(l.claims[r]) == 0 {
			delete(l.claims, r)
		}
	}
	for _, r := range refs {
		l.claims[r] = append(l.claims[r], service)
	}
	if l.scopes[service] = refs; len(refs) == 0 {
		delete(l.scopes, service)
	}
}
