package xds

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

// What happens on streams, booked in the services' books; and what the books say.

// connect numbers a new stream.
func (h *Hub) connect(n Node) *stream {
	h.opened++
	s := &stream{Node: n, id: h.opened, since: h.now()}
	h.presence.comes(n)
	h.peers[s.id] = s
	return s
}

// disconnect books the end of a stream in the books that may know it.
func (h *Hub) disconnect(s *stream) {
	now := h.now()
	delete(h.peers, s.id)
	h.presence.leaves(s.Node, now)
	h.falls(s)
	books := s.books
	s.books = nil // who is gone is in the books, and need not know them
	for _, f := range books {
		f.Leave(s, now)
		h.changes(f.service)
	}
	d := h.debtOf(s)
	h.nodes.leaves(s, books, d, now)
	h.forgetOldest(s, d)
	h.succeeds(s.ID, books)
	h.withdraws(s)
}

// debtOf is that of the address which a stream comes from; nil: it is not counted.
func (h *Hub) debtOf(s *stream) *debt {
	if s.line == nil || s.line.account.free {
		return nil
	}
	host := s.line.account.host
	if h.debts[host] == nil {
		h.debts[host] = &debt{nodes: map[string]int{}}
	}
	return h.debts[host]
}

// forgetOldest keeps what is remembered of nodes that are away within what as many as may be connected from their address have.
func (h *Hub) forgetOldest(s *stream, d *debt) {
	limits := h.Admission.Limits
	for d != nil && (len(d.nodes) > limits.StreamsPerPeer || d.books > limits.NamesPerPeer) {
		h.refusals.count(overGone, s.Node, "%d nodes of %s went away within %s, and are in %d books of services: nobody waits any more for those that went first", len(d.nodes), s.line.account.host, h.ForgetAfter, d.books)
		for _, id := range h.nodes.oldest(d) {
			k := h.nodes[id]
			for _, f := range k.books {
				f.Restarted(id)
				h.changes(f.service)
			}
			k.quits(id)
			delete(h.nodes, id)
		}
	}
}

// join books everybody who asked for a route before there was one, or before they were admitted.
func (h *Hub) join(name string, svc *service) {
	for s := range h.askers(Ref{TypeRoute, name}) {
		h.joins(s, name, svc)
	}
	h.clients.join(name, svc)
}

// joins books that a stream asks for a service's route, and what it has of it.
func (h *Hub) joins(s *session, name string, svc *service) {
	if !s.sees(name) {
		return
	}
	var has Content
	it := s.inv.item(Ref{TypeRoute, name})
	switch {
	case it != nil && it.acked != nil:
		has = Content{it.acked.Version, it.acked.slots}
	case it != nil && it.left != nil: // of the service's earlier life
		has = Content{it.left.Version, it.left.slots}
	}
	svc.force.Join(s.stream, has, h.now())
	if it != nil && it.sent != nil {
		svc.force.Sent(s.stream, it.sent.Version, h.now())
	}
	h.refusesIn(s.stream, svc.force)
	h.changes(name)
}

// dropped books that a stream wants a route no longer.
func (h *Hub) dropped(s *session, name string) {
	if svc := h.services[name]; svc != nil {
		svc.force.Drop(s.stream)
		h.changes(name)
	}
}

// sent books what goes out.
func (h *Hub) sent(s *session, r reply) {
	at := h.now()
	for _, p := range r.parcels {
		if svc := h.services[p.ref.Name]; r.typ == TypeRoute && svc != nil && p.res != nil {
			svc.force.Sent(s.stream, p.res.Version, at)
		}
	}
	for ref, why := range r.unfit {
		h.refused(s, parcel{ref: ref, res: h.cat.resources[ref]}, why)
	}
}

// accepted books an ACK.
func (h *Hub) accepted(s *session, p parcel, at time.Time) {
	if p.res == nil {
		h.letsGo(s, serviceOf(p.ref)) // before its connection may end
		return
	}
	if p.ref.Type == TypeListener {
		h.listens(s, p, at)
		return
	}
	if f := h.cat.routes[p.ref.Name]; p.ref.Type == TypeRoute && f != nil {
		h.services[p.ref.Name].force.Accept(s.stream, Content{p.res.Version, p.res.slots}, f.present(p.res.Version), at)
	}
	for _, name := range p.res.services {
		if svc := h.services[name]; svc != nil {
			news := svc.force.Took(s.stream, p.ref, p.res.Version, at)
			if news || p.ref.Type == TypeRoute {
				h.changes(name)
			}
		}
	}
}

// listens books the ACK of a listener. Ten thousand services may have it, and an Envoy be in the books of all of them:
// these are asked only where one of them may have something to say.
func (h *Hub) listens(s *session, p parcel, at time.Time) {
	s.heard = at
	if _, disputed := h.disputed[p.ref]; !disputed && !s.odd {
		return
	}
	for _, f := range s.books {
		if svc := h.services[f.service]; svc != nil && svc.force == f && f.Took(s.stream, p.ref, p.res.Version, at) {
			h.changes(f.service)
		}
	}
	h.appease(s.stream, p.ref, p.res.Version)
}

// refused books the NACK of something present on the services that it belongs to, as far as the node may see
// them. All forms of a route are one content.
func (h *Hub) refused(s *session, p parcel, why string) {
	res := h.cat.resources[p.ref]
	f := h.cat.routes[p.ref.Name]
	if res == nil || !sameVersion(res.Version, p.res.Version) && (p.ref.Type != TypeRoute || f == nil || !f.present(p.res.Version)) {
		return
	}
	if p.ref.Type == TypeListener {
		h.disputes(s, p.ref, res.Version, why)
		return
	}
	for _, name := range res.services {
		if svc := h.services[name]; svc != nil && s.sees(name) {
			svc.force.Refuse(s.stream, p.ref, res.Version, why, h.now())
			h.refusesIn(s.stream, svc.force) // now that it is in the book
			h.changes(name)
		}
	}
}

// remembers is the version of a resource that a node refused on an earlier connection of the same process.
func (h *Hub) remembers(n Node, res *Resource) string {
	if res.Type == TypeListener {
		return h.remembersListener(n, res)
	}
	for _, name := range res.services {
		if svc := h.services[name]; svc != nil && svc.force.remembers(n, res.ref(), res.Version) {
			return res.Version
		}
	}
	return ""
}

// remembersListener asks the node's own books, not those of all services that a listener has.
func (h *Hub) remembersListener(n Node, res *Resource) string {
	d := h.disputed[res.ref()]
	if d == nil {
		return ""
	}
	for s, r := range h.outsiders(n.ID) {
		if r == res.ref() && s.Build == n.Build && sameVersion(d.version, res.Version) {
			return res.Version
		}
	}
	for _, f := range h.nodes.books(n.ID) {
		if f.remembers(n, res.ref(), res.Version) {
			return res.Version
		}
	}
	return ""
}

// outdated ends the refusals of what is wanted no longer.
func (h *Hub) outdated(old, now *Resource) {
	if old == nil || now != nil && sameVersion(now.Version, old.Version) {
		return
	}
	if old.Type == TypeListener {
		h.settles(old.ref())
		return
	}
	for _, name := range old.services {
		if s := h.services[name]; s != nil && s.force.Changed(old.ref(), h.now()) {
			h.changes(name)
		}
	}
}

// restarted notes that a node's process is a new one.
func (h *Hub) restarted(node string) {
	k := h.nodes[node]
	if k == nil || !k.lost {
		return
	}
	k.lost = false
	for _, f := range h.nodes.books(node) {
		name := f.service
		if s := h.services[name]; s != nil && s.force == f {
			f.Restarted(node)
			s.restarted = append(s.restarted, node)
			h.changes(name)
		}
	}
}

// changes notes that a service's status may have changed.
func (h *Hub) changes(name string) {
	h.changed.put(name, struct{}{})
	h.mention()
}

// mention says that there is news, at once or after a while.
func (h *Hub) mention() {
	if h.spared {
		return // it says so afterwards
	}
	h.say()
}

func (h *Hub) say() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// spare has those who ask for changes leave the mutex to others for nine times as long as they had it: while ten thousand
// Envoys accept a route, each asking takes milliseconds. What they left is told after that, or at once where there is no pause.
func (h *Hub) spare(took time.Duration, looked int) {
	if h.spared {
		return
	}
	pause := pauseAfter(took, looked)
	if pause == 0 {
		h.sayLeft()
		return
	}
	h.spared = true
	time.AfterFunc(pause, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.spared = false
		h.sayLeft()
	})
}

func (h *Hub) sayLeft() {
	if len(h.changed.m)+len(h.tours) > 0 {
		h.say()
	}
}

// pauseAfter is how long the mutex is left to others after so much time for so many Envoys in the books. Of a time that is longer than they
// can take the rest was no work, but a wait for a processor, and no reason to say later that a weight is in force.
func pauseAfter(took time.Duration, looked int) time.Duration {
	const worth, each = 100 * time.Microsecond, 2 * time.Microsecond
	if took = min(took, time.Duration(looked)*each); took < worth {
		return 0
	}
	return 9 * took
}

// Changes is signalled when TakeChanges has something to say.
func (h *Hub) Changes() <-chan struct{} { return h.wake }

// takenMost is how long TakeChanges keeps the mutex: where each of a thousand Envoys has a thousand services, one that goes
// changes the status of all of them, and a cut would wait until all are told.
const takenMost = 4 * time.Millisecond

// TakeChanges returns the status of every service whose status changed since the last call, or of some of very many: the
// next signal is for the others.
func (h *Hub) TakeChanges() []Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	begin, looked := time.Now(), 0
	defer func() { h.spare(time.Since(begin), looked) }()
	var out []Status
	for name := range h.news(begin.Add(takenMost)) {
		s := h.services[name]
		if s == nil {
			continue
		}
		looked += 1 + len(s.force.members)
		for _, n := range s.force.TakeNotes() {
			h.log.WithFields(logrus.Fields{"service": name, "node": n.Node}).Warn(n.Text)
		}
		now := h.statusOf(s.force)
		now.Crowds, now.Recalled = s.force.crowds(h.now()), slices.Clone(s.recalled)
		told := !now.same(s.told)
		if told {
			h.rolls.share(now.Crowds)
			s.told = now
		}
		now.Restarted, s.restarted = s.restarted, nil
		if told || len(now.Restarted) > 0 {
			out = append(out, now)
		}
	}
	return out
}

// statusOf is what a service's book says, and who stands outside of it.
func (h *Hub) statusOf(f *Force) Status {
	st := f.Status(f.service)
	if d, r := h.disputeOf(f.service); d != nil {
		d.joins(r, &st, f)
	}
	return st
}

// EnvoysAfter are all nodes that are connected, or that have something of a service, in order: those whose keys are greater than
// one, and where a service is named, at least all that have something of it. The mutex is held for one at a time, with pauses:
// all of ten thousand Envoys are half a second's work. So each is told of as it is when it is asked for, and who asks for a page
// pays for that.
func (h *Hub) EnvoysAfter(after, service string) iter.Seq[Envoy] {
	return func(yield func(Envoy) bool) {
		looked := 0
		for _, id := range h.nodeIDs(service) {
			if from := id + " "; from <= after && !strings.HasPrefix(after, from) {
				continue
			}
			if looked >= toldAtOnce {
				looked = 0
				time.Sleep(pause)
			}
			names := h.servicesOf(id)
			looked += 1 + len(names)
			for _, e := range h.envoysOf(id, names) {
				if e.Key() > after && !yield(e) {
					return
				}
			}
		}
	}
}

// toldAtOnce is how many books are looked at for that with the mutex held, in half a millisecond.
const toldAtOnce = 1000

// inPortions goes through names, and takes the mutex for some of them at a time.
func (h *Hub) inPortions(names []string, do func(name string)) {
	for part := range slices.Chunk(names, toldAtOnce) {
		h.enter()
		for _, name := range part {
			do(name)
		}
		h.exit()
	}
}

// nodeIDs are those of all nodes, or of those in a service's book; in order.
func (h *Hub) nodeIDs(service string) []string {
	h.enter()
	var ids []string
	if f, _ := h.bookOf(service); f != nil {
		for _, m := range f.members {
			ids = append(ids, m.who.ID)
		}
		if d, _ := h.disputeOf(service); d != nil {
			for _, s := range d.order {
				ids = append(ids, s.ID)
			}
		}
	} else if service == "" {
		ids = slices.AppendSeq(make([]string, 0, len(h.nodes)), maps.Keys(h.nodes))
	}
	h.exit()
	slices.Sort(ids)
	return slices.Compact(ids)
}

// servicesOf are those in whose books a node may be, in order.
func (h *Hub) servicesOf(id string) (names []string) {
	h.enter()
	if k := h.nodes[id]; k != nil {
		for _, f := range k.books {
			names = append(names, f.service)
		}
		for _, s := range k.open {
			for _, f := range s.books {
				names = append(names, f.service)
			}
		}
	}
	names = append(names, h.disputedBy(id)...)
	h.exit()
	slices.Sort(names)
	return slices.Compact(names)
}

// envoysOf are the Envoys with a node.id, by address. Of one that has very many services the mutex is let go of in between.
func (h *Hub) envoysOf(id string, services []string) []Envoy {
	found := map[string]*Envoy{} // by address
	of := func(n Node, connected bool, since time.Time) *Envoy {
		if found[n.Peer] == nil {
			found[n.Peer] = &Envoy{Node: n.ID, Cluster: n.Cluster, Build: n.Build, Peer: n.Peer, Client: n.Client, Connected: connected, Since: since}
		}
		return found[n.Peer]
	}
	h.enter()
	if k := h.nodes[id]; k != nil && id != "" {
		for _, s := range k.open {
			if !s.Diagnostic {
				of(s.Node, true, s.since)
			}
		}
	}
	h.exit()
	add := func(f *Force, name string, m *member) {
		of(m.who.Node, !m.isGone(), m.since()).add(name, f.nodeStatus(m))
	}
	var removed []string
	h.inPortions(services, func(name string) {
		s := h.services[name]
		if s == nil {
			removed = append(removed, name)
			return
		}
		for _, m := range s.force.of(id) {
			if !m.isDoubted() {
				add(s.force, name, m)
			}
		}
		for o, n := range h.outsidersOf(s.force, id) {
			of(o.Node, true, o.since).add(name, n)
		}
	})
	h.inPortions(removed, func(name string) {
		if p := h.parting[name]; p != nil {
			for _, m := range p.force.of(id) {
				add(p.force, name, m)
			}
		}
	})
	var out []Envoy
	for _, peer := range slices.Sorted(maps.Keys(found)) {
		out = append(out, *found[peer])
	}
	return out
}

// Forget ends all waiting for a node. It reports which services waited for it, and whether it was known at all.
func (h *Hub) Forget(node string) (waited []string, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.nodes.books(node) {
		name := f.service
		if p := h.parting[name]; p != nil && p.force == f {
			known = p.forget(node) || known
		}
		if s := h.services[name]; s == nil || s.force != f {
			continue
		}
		if f.waitsFor(node) {
			waited = append(waited, name)
		}
		known = f.Forget(node) || known
		h.changes(name)
	}
	outside := h.pardons(node)
	waited = append(waited, outside...)
	slices.Sort(waited)
	return slices.Compact(waited), known || len(outside) > 0
}
