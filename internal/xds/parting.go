package xds

import (
	"slices"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// parting is a service that was removed, as long as Envoys may still send requests to its clusters: those that have not
// accepted the removal, and those that are away.
type parting struct {
	force *Force
	since time.Time
}

// part keeps the book of a service that is removed. Whoever was sent a route may have it.
func (h *Hub) part(name string, f *Force) {
	h.rounds.leave(f)
	for m := range f.restless.m {
		m.mayServe()
	}
	f.parts = true
	h.parting[name] = &parting{f, h.now()}
	h.remaining(name)
}

// resume is the book of a service that begins, anew where it was removed: who is away may have something of its earlier
// life. Who is connected says itself what it has.
func (h *Hub) resume(name string) *Force {
	p := h.parting[name]
	if p == nil {
		return NewForce(name, h.ForgetAfter)
	}
	delete(h.parting, name)
	p.force.parts = false
	var out []*member
	for _, m := range p.force.members {
		if !m.isGone() {
			out = append(out, m)
		}
	}
	p.force.remove(out...)
	return p.force
}

// Remained books who served a service when it was removed, after a restart.
func (h *Hub) Remained(name string, cs []rollout.Crowd) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := NewForce(name, h.ForgetAfter)
	h.restore(f, cs)
	h.part(name, f)
}

// Remains reports whether any node may still send requests to the clusters of a service that was removed. It looks at no more of them than until it finds one: they may be asked about each
// second, and be as many as there are Envoys.
func (h *Hub) Remains(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.parting[name]
	if p == nil {
		return false
	}
	for i, m := range p.force.members {
		if h.stays(p, name, m) {
			p.force.remove(slices.Clone(p.force.members[:i])...)
			return true
		}
	}
	return len(h.remaining(name)) > 0
}

// Remaining are the nodes that may still send requests to the clusters of a service that was removed; none: nobody does.
func (h *Hub) Remaining(name string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.remaining(name)
}

func (h *Hub) remaining(name string) (nodes []string) {
	p := h.parting[name]
	if p == nil {
		return nil
	}
	var out []*member
	for _, m := range p.force.members {
		if h.stays(p, name, m) {
			nodes = append(nodes, m.who.ID)
		} else {
			out = append(out, m)
		}
	}
	p.force.remove(out...)
	if len(nodes) == 0 && h.now().Sub(p.since) >= h.ForgetAfter { // until then somebody may come back of whom nobody knew
		delete(h.parting, name)
		for _, d := range h.disputed {
			delete(d.books, p.force)
		}
	}
	return slices.Compact(nodes)
}

// looksAfter lets time pass for a service that was removed, and says how much it looked at.
func (h *Hub) looksAfter(name string) (looked int) {
	if p := h.parting[name]; p != nil {
		looked = len(p.force.members)
		h.remaining(name)
	}
	return 1 + looked
}

// forget ends waiting for a node.
func (p *parting) forget(id string) (known bool) {
	out := slices.Clone(p.force.of(id))
	p.force.remove(out...)
	return len(out) > 0
}

// letsGo takes in that a stream has taken a removal in.
func (h *Hub) letsGo(s *session, service string) {
	p := h.parting[service]
	if p == nil {
		return
	}
	if m := p.force.find(s.stream); m != nil && h.letGo(p, service, m) {
		p.force.remove(m)
	}
}

// stays reports whether an Envoy is waited for. While a request of its is taken in, with pauses, it may have brought along more than is
// known of it yet.
func (h *Hub) stays(p *parting, service string, m *member) bool {
	s := h.sessions[m.who.id]
	return s != nil && s.taking && !m.isGone() || !h.letGo(p, service, m)
}

// letGo reports whether an Envoy cannot send requests to a service's clusters any more, or is waited for no longer.
func (h *Hub) letGo(p *parting, service string, m *member) bool {
	now := h.now()
	switch s := h.sessions[m.who.id]; {
	case p.force.has(m).Version == "":
		return true
	case m.isGone():
		return now.Sub(m.left) >= h.ForgetAfter
	case s == nil && m.who.Client: // what is removed it was told at once
		return now.Sub(p.since) >= clientsFollow
	case s == nil: // its stream is ending, with pauses: it is about to be away
		return false
	default:
		waited := now.Sub(p.since) >= h.ForgetAfter && now.Sub(p.force.lastSign(m)) >= h.ForgetAfter
		return waited || len(s.inv.clustersOf(service)) == 0
	}
}

// clustersOf are the clusters of a service that a stream has, or is about to have.
func (inv *Inventory) clustersOf(service string) (names []string) {
	if k := inv.kinds[TypeCluster]; k != nil {
		for name, it := range k.items.m {
			if strings.HasPrefix(name, service+"/") && it.served() {
				names = append(names, name)
			}
		}
		i, _ := k.resting(service + "/")
		for ; i < len(k.still) && strings.HasPrefix(k.still[i].acked.Name, service+"/"); i++ {
			names = append(names, k.still[i].acked.Name)
		}
	}
	return names
}

// outliving are the clusters that an Envoy has of services that are removed, and of those where it lags: whether it still
// sends requests to them decides what may be stopped.
func (h *Hub) outliving(n Node) (clusters []string) {
	for id := range h.speakersOf(n) {
		s := h.sessions[id]
		if s == nil {
			continue
		}
		for _, f := range s.books {
			if !f.parts && len(f.restless.m) == 0 {
				continue // as nearly always: an Envoy may have thousands
			}
			now, stable := h.bookOf(f.service)
			if m := f.find(s.stream); now == f && m != nil && (stable == "" || m.unrest != nil && m.lagging) {
				clusters = append(clusters, s.inv.clustersOf(f.service)...)
			}
		}
	}
	return clusters
}

// bookOf is the book of a service, or of one that was removed: stable is empty then.
func (h *Hub) bookOf(name string) (f *Force, stable string) {
	if s := h.services[name]; s != nil {
		return s.force, s.edition.forms.table.Stable
	}
	if p := h.parting[name]; p != nil {
		return p.force, ""
	}
	return nil, ""
}

// used books that an Envoy reports requests at clusters, other than the stable version's. There may be very many: the mutex is let go of
// in between.
func (h *Hub) used(n Node, clusters map[string]ClusterLoad) {
	h.usedWith(&breaks{mu: door{h}}, n, clusters)
}

func (h *Hub) usedWith(b *breaks, n Node, clusters map[string]ClusterLoad) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := h.witnessesOf(n)
	for name, load := range clusters {
		if b.looks(max(1, len(w.streams))) && !w.again(h, n) {
			return
		}
		c, _ := ParseCluster(name)
		f, stable := h.bookOf(c.Service)
		if f == nil || load.Counts.Requests == 0 || c.Version == stable {
			continue
		}
		for _, s := range w.streams {
			f.Used(s, h.now())
		}
	}
}

// returns books a node that comes back and says which clusters it has.
func (h *Hub) returns(s *session, brought map[string]string) {
	if len(h.parting) > 0 && !s.Diagnostic {
		h.returnsWith(&breaks{mu: door{h}}, s, brought)
	}
}

// returnsWith looks at what the Envoy has, and at the books that its node may be gone from, however many services were removed. The mutex
// is let go of in between: a service that is removed meanwhile may be one that it brought along, so all of these are known before.
func (h *Hub) returnsWith(b *breaks, s *session, brought map[string]string) {
	has := map[string]struct{}{} // services
	for name := range brought {
		b.looks(1)
		c, _ := ParseCluster(name)
		has[c.Service] = struct{}{}
	}
	if k := h.nodes[s.ID]; k != nil {
		for f := range withBreaks(b, len(k.books), slices.Values(k.books)) {
			if _, is := has[f.service]; f.parts && !is {
				f.Restarted(s.ID) // it has let go since, or is a new process
			}
		}
	}
	for name := range has {
		b.looks(1)
		if p := h.parting[name]; p != nil {
			p.force.Join(s.stream, Content{Version: "removed"}, h.now())
		}
	}
}
