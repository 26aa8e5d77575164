package xds

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// envoysPlainly is all of Envoys at once, by walking all books: to compare with.
func envoysPlainly(h *Hub) []Envoy {
	found := map[[2]string]*Envoy{}
	of := func(n Node, connected bool, since time.Time) *Envoy {
		key := [2]string{n.ID, n.Peer}
		if found[key] == nil {
			found[key] = &Envoy{Node: n.ID, Cluster: n.Cluster, Build: n.Build, Peer: n.Peer, Client: n.Client, Connected: connected, Since: since}
		}
		return found[key]
	}
	for _, p := range h.peers {
		if !p.Diagnostic && p.ID != "" {
			of(p.Node, true, p.since)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h.services)) {
		f := h.services[name].force
		for _, m := range f.members {
			if !m.isDoubted() {
				of(m.who.Node, !m.isGone(), m.since()).add(name, f.nodeStatus(m))
			}
		}
		for _, p := range slices.SortedFunc(maps.Keys(h.peers), cmp.Compare[uint64]) {
			if n, outside := outsidersPlainly(h, name)[h.peers[p]]; outside {
				of(h.peers[p].Node, true, h.peers[p].since).add(name, n)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h.parting)) {
		f := h.parting[name].force
		for _, m := range f.members {
			of(m.who.Node, !m.isGone(), m.since()).add(name, f.nodeStatus(m))
		}
	}
	var out []Envoy
	for _, e := range found {
		out = append(out, *e)
	}
	slices.SortFunc(out, func(a, b Envoy) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Peer, b.Peer)) })
	return out
}

// Whatever happened to a fleet: whoever asks for all Envoys, for those behind one, or for a service's, is told what
// all books say.
func TestEnvoysAreWhatAllBooksSay(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		h, at := crowded(t, 12), time.Unix(2e9, 0)
		h.now = func() time.Time { return at }
		if seed%2 == 0 { // with fewer that are away
			for n := range 195 {
				h.Forget(fmt.Sprintf("edge-%03d", n))
			}
		}
		var open []*session
		for range 150 {
			at = at.Add(time.Duration(r.IntN(20)) * time.Second)
			open = befalls(t, h, r, open)
			if r.IntN(10) == 0 {
				h.tick(at)
			}
		}
		for _, s := range h.services {
			s.force.Tick(at)
		}
		comparePages(t, h, r)
	}
}

// befalls has something happen to a fleet.
func befalls(t *testing.T, h *Hub, r *rand.Rand, open []*session) []*session {
	name := fmt.Sprintf("shop-%05d", r.IntN(12))
	svc := h.services[name]
	if len(open) == 0 || r.IntN(3) == 0 {
		n := Node{ID: []string{"a", "a!", "a b", "b", "edge-198", "", "c"}[r.IntN(7)], Cluster: "edge", Build: fmt.Sprint("envoy ", r.IntN(2)), Diagnostic: r.IntN(10) == 0}
		n.Peer = fmt.Sprint("10.0.0.", r.IntN(5), ":", h.opened)
		return append(open, h.open(n))
	}
	i := r.IntN(len(open))
	s := open[i]
	switch r.IntN(8) {
	case 0:
		s.close()
		return slices.Delete(open, i, i+1)
	case 1:
		if r.IntN(4) == 0 {
			if err := h.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	case 2:
		forgets(t, h, s.ID)
	case 3:
		h.Restore(name, []rollout.Crowd{{Version: "0123456789abcdef", Nodes: []string{"a", fmt.Sprint("away-", r.IntN(3))}}})
	default:
		if svc == nil {
			break
		}
		switch r.IntN(6) {
		case 0:
			svc.force.Join(s.stream, Content{}, h.now())
			h.refusesIn(s.stream, svc.force)
		case 1, 2:
			l := h.cat.resources[Ref{TypeListener, shared}]
			h.disputes(s, l.ref(), l.Version, "no")
		case 3:
			l := h.cat.resources[Ref{TypeListener, shared}]
			h.listens(s, parcel{ref: l.ref(), res: l}, h.now())
		default:
			svc.force.Join(s.stream, Content{}, h.now())
			h.refusesIn(s.stream, svc.force)
			svc.force.Accept(s.stream, *svc.force.envoys, true, h.now())
		}
	}
	return open
}

// forgets has a node forgotten, and holds what is said of it against all books.
func forgets(t *testing.T, h *Hub, id string) {
	t.Helper()
	var waits []string
	has := false
	for name, s := range h.services {
		outside := slices.ContainsFunc(slices.Collect(maps.Keys(outsidersPlainly(h, name))), func(s *stream) bool { return s.ID == id })
		if has = has || outside || len(s.force.of(id)) > 0; outside || s.force.waitsFor(id) {
			waits = append(waits, name)
		}
	}
	for _, p := range h.parting {
		has = has || len(p.force.of(id)) > 0
	}
	waited, known := h.Forget(id)
	slices.Sort(waits)
	if slices.Sort(waited); !slices.Equal(waited, waits) || known != has {
		t.Errorf("%s: %v waited, known %v; want %v, %v", id, waited, known, waits, has)
	}
	for name, s := range h.services {
		if slices.ContainsFunc(s.force.of(id), func(m *member) bool { return m.isGone() }) {
			t.Errorf("%s: it is gone, and still in the book of %s", id, name)
		}
	}
	for name, p := range h.parting {
		if len(p.force.of(id)) > 0 {
			t.Errorf("%s is still in the book of %s, which was removed", id, name)
		}
	}
}

// comparePages asks for all, for what follows some Envoy or none, and for those of a service.
func comparePages(t *testing.T, h *Hub, r *rand.Rand) {
	t.Helper()
	all := envoysPlainly(h)
	if got := h.Envoys(); !reflect.DeepEqual(got, all) {
		t.Fatalf("%d Envoys, not %d:\n%+v\n%+v", len(got), len(all), got, all)
	}
	behind := func(after string) (out []Envoy) {
		for _, e := range all {
			if e.Node+" "+e.Peer > after {
				out = append(out, e)
			}
		}
		return out
	}
	for range 10 {
		after := all[r.IntN(len(all))].Key()
		after = after[:len(after)-r.IntN(3)]
		if got := slices.Collect(h.EnvoysAfter(after, "")); !reflect.DeepEqual(got, behind(after)) {
			t.Fatalf("after %q:\n%+v\n%+v", after, got, behind(after))
		}
	}
	for i := range 13 {
		name := fmt.Sprintf("shop-%05d", i)
		has := func(e Envoy) bool {
			return slices.ContainsFunc(e.Services, func(s EnvoyService) bool { return s.Service == name })
		}
		without := func(es []Envoy) []Envoy {
			return slices.DeleteFunc(slices.Clone(es), func(e Envoy) bool { return !has(e) })
		}
		got, want := without(slices.Collect(h.EnvoysAfter("", name))), without(all)
		if !slices.EqualFunc(got, want, func(a, b Envoy) bool { return reflect.DeepEqual(a, b) }) {
			t.Fatalf("of %s:\n%+v\n%+v", name, got, want)
		}
	}
}

// An Envoy is looked at when it is asked for: whoever stops after a page has nothing made of the others, and has not the mutex.
func TestAnEnvoyIsLookedAtWhenItIsAskedFor(t *testing.T) {
	h := crowded(t, 10)
	var got []string
	for e := range h.EnvoysAfter("edge-099 ", "") {
		if !h.mu.TryLock() {
			t.Fatal("the mutex is held")
		}
		h.mu.Unlock()
		if got = append(got, e.Node); len(got) == 2 {
			break
		}
		h.Forget("edge-101")
	}
	if want := []string{"edge-100", "edge-102"}; !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
}

// Envoys are all that the hub tells of.
func (h *Hub) Envoys() []Envoy { return slices.Collect(h.EnvoysAfter("", "")) }
