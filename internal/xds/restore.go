package xds

import (
	"cmp"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// crowds are the nodes that serve a table of this service, by what they serve: what has to be remembered
// over a restart, so that nothing is stopped that one of them still sends users to. An Envoy that lags and
// has not been heard of for so long that it would be forgotten, were it gone, is left out. What it reports counts as
// well: requests at the stable version alone do not.
func (f *Force) crowds(at time.Time) []rollout.Crowd {
	var cs []rollout.Crowd
	for _, m := range f.members {
		has := f.has(m)
		if m.isDoubted() || has.Version == "" || f.overdue(m, at) {
			continue
		}
		unknown := m.isGone() && has.Slots == nil // restored: a table was sent to it, and its answer was lost
		c := rollout.Crowd{Version: has.Version, Has: has.Slots, Present: has.is(f.wanted(m).Version) && !unknown}
		if m.isGone() && m.sent != "" && !sameVersion(m.sent, has.Version) { // its answer was lost with its connection
			c = rollout.Crowd{Version: m.sent}
		}
		i := slices.IndexFunc(cs, func(o rollout.Crowd) bool { return o.Version == c.Version && (o.Has == nil) == (c.Has == nil) })
		if i < 0 {
			i = len(cs)
			cs = append(cs, c)
		}
		if n := len(cs[i].Nodes); n == 0 || cs[i].Nodes[n-1] != m.who.ID { // they come in order
			cs[i].Nodes = append(cs[i].Nodes, m.who.ID)
		}
	}
	slices.SortFunc(cs, func(a, b rollout.Crowd) int {
		return cmp.Or(cmp.Compare(a.Version, b.Version), cmp.Compare(len(a.Has), len(b.Has)))
	})
	return cs
}

// overdue reports whether an Envoy has lagged for so long that nothing waits for it any more.
func (f *Force) overdue(m *member, at time.Time) bool {
	return f.standing(m) == Lagging && at.Sub(f.lastSign(m)) >= f.ForgetAfter
}

// lastSign is when a node was last heard of.
func (f *Force) lastSign(m *member) time.Time {
	return f.about(max(m.used, f.lastHeard(m)))
}

// lastHeard is its last ACK or NACK.
func (f *Force) lastHeard(m *member) tenths {
	if f.begun.IsZero() || !m.who.heard.After(f.begun) {
		return m.heard
	}
	return max(m.heard, f.tenths(m.who.heard))
}

// Restore books nodes that served a table before a restart of canaryd: they are gone since then.
func (f *Force) Restore(cs []rollout.Crowd, at time.Time) {
	for _, c := range cs {
		for _, id := range c.Nodes {
			f.add(&member{who: &stream{Node: Node{ID: id}}, unrest: &unrest{accepted: &Content{c.Version, c.Has}, gone: true, left: at, charged: at}})
		}
	}
}

// restored reports whether a node has not come back since a restart: whether it is still admitted nobody knows
// until it does, for of its group nothing is stored.
func (m *member) restored() bool { return m.isGone() && m.who.Cluster == "" }

// restore books nodes that served a table before a restart.
func (h *Hub) restore(f *Force, cs []rollout.Crowd) {
	f.Restore(cs, h.now())
	for _, c := range cs {
		h.nodes.restored(c.Nodes, f, h.now())
	}
}

// Restore books what is stored of a service's nodes, before the first of them is answered.
func (h *Hub) Restore(service string, cs []rollout.Crowd) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.services[service]; s != nil {
		h.restore(s.force, cs)
	} else { // its table cannot be published yet
		h.restored[service] = cs
	}
	h.changes(service)
}
