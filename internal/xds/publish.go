package xds

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Prepared is a table with everything made of it, which costs more than to publish it.
type Prepared struct {
	table    rollout.Table
	edition  *edition
	err      error
	from     *edition // what was served when it was made
	recalled int      // and how many cuts the Envoys remembered
}

// Prepare makes everything of a table. It may be called anywhere, and holds nobody up.
func (h *Hub) Prepare(t rollout.Table) Prepared {
	p := Prepared{table: t}
	var recalled []rollout.Attempt
	h.mu.Lock()
	if s := h.services[t.Service]; s != nil {
		p.from, recalled = s.edition, slices.Clone(s.recalled)
	}
	h.mu.Unlock()
	p.recalled = len(recalled)
	p.make(h, recalled)
	return p
}

// make builds the edition. While the table has under test what Envoys remember as cut, it is served without.
func (p *Prepared) make(h *Hub, recalled []rollout.Attempt) {
	t, _ := p.table.Recall(recalled)
	if p.edition, p.err = build(t, h.Key, p.from, h.log); p.err != nil {
		p.err = fmt.Errorf("service %s: %w", t.Service, p.err)
	}
}

// Publish replaces services' resources by those of their tables, all at once: no Envoy sees a listener that has left one
// service and not joined the other. Only what differs is sent, and only to Envoys that asked for it. A table that
// cannot be published leaves its service as it is; errors are in the order of the tables.
func (h *Hub) Publish(ps ...Prepared) []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	ps, errs := slices.Clone(ps), make([]error, len(ps))
	var names []string
	for i := range ps {
		p := &ps[i]
		if s := h.services[p.table.Service]; s != nil && (s.edition != p.from || len(s.recalled) != p.recalled) {
			p.from = s.edition // something came in between
			p.make(h, s.recalled)
		}
		if errs[i] = p.err; p.err == nil {
			names = append(names, p.table.Service)
		}
	}
	h.unhold(names...)
	var turns []turn
	for _, p := range ps {
		if p.err == nil {
			h.install(p.edition, &turns)
		}
	}
	if err := h.listen(turns); err != nil {
		for i := range errs {
			if errs[i] == nil {
				errs[i] = err
			}
		}
	}
	return errs
}

// PublishTable is Publish for one table.
func (h *Hub) PublishTable(t rollout.Table) error { return h.Publish(h.Prepare(t))[0] }

// reinstall publishes one table while the lock is held.
func (h *Hub) reinstall(p Prepared) error {
	if p.err != nil {
		return p.err
	}
	h.unhold(p.table.Service)
	var turns []turn
	h.install(p.edition, &turns)
	return h.listen(turns)
}

// install serves an edition in place of the last one, all but its listener.
func (h *Hub) install(e *edition, turns *[]turn) {
	name := e.forms.table.Service
	s, old := h.services[name], (*edition)(nil)
	if s == nil {
		s = &service{force: h.resume(name)}
		h.rounds.join(s.force)
		h.restore(s.force, h.restored[name])
		delete(h.restored, name)
		h.services[name] = s
	} else {
		old = s.edition
		s.outdated()
	}
	s.edition = e
	h.regroup(name, e.route.Nodes)
	now := e.refs()
	for ref := range old.refs() {
		if now[ref] == nil {
			h.drop(ref)
		}
	}
	for _, r := range now {
		h.put(r)
	}
	h.clients.publish(name, old.clientView(), e.view)
	h.putRoute(name, s, old)
	if old == nil || s.deaf || !reflect.DeepEqual(s.listens, e.route) {
		*turns = append(*turns, turn{name, s.listens, e.route})
	}
}
