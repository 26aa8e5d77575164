package xds

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// countPlainly counts what Figures does, in all books at once: to compare with.
func countPlainly(h *Hub) (unapplied map[string]int, nodes map[Standing]int) {
	unapplied, nodes = map[string]int{}, map[Standing]int{Joining: 0, Applied: 0, Behind: 0, Lagging: 0, Refused: 0, Gone: 0}
	worst := map[[2]string]Standing{}
	for name, s := range h.services {
		for _, m := range s.force.members {
			if m.isDoubted() {
				continue
			}
			standing, who := s.force.standing(m), [2]string{m.who.ID, m.who.Peer}
			if refuses := m.unrest != nil && len(m.refusals) > 0; standing == Behind || standing == Lagging || standing == Refused || standing == Joining && refuses {
				unapplied[name]++
			}
			if worst[who] == "" || standing.worse(worst[who]) {
				worst[who] = standing
			}
		}
		for p, why := range outsidersPlainly(h, name) {
			if why.Why != "" {
				unapplied[name]++
			}
			if who := [2]string{p.ID, p.Peer}; worst[who] == "" || Joining.worse(worst[who]) {
				worst[who] = Joining
			}
		}
	}
	for _, p := range h.parting { // nothing is wanted there: who is connected has it
		for _, m := range p.force.members {
			if who := [2]string{m.who.ID, m.who.Peer}; !m.isGone() && worst[who] == "" {
				worst[who] = Applied
			}
		}
	}
	for _, s := range worst {
		nodes[s]++
	}
	return unapplied, nodes
}

// outsidersPlainly are the streams that refuse a service's listener, may have the service and are not in its book, and what is told of each.
func outsidersPlainly(h *Hub, service string) map[*stream]NodeStatus {
	out := map[*stream]NodeStatus{}
	f := h.services[service].force
	for _, p := range h.peers {
		for r := range p.refuses {
			inBook := slices.ContainsFunc(f.members, func(m *member) bool { return m.who == p })
			if on := h.listeners.on[r.Name]; on != nil && slices.Contains(on.services, service) && f.admits(p.Node) && p.sees(service) && !inBook {
				out[p] = h.disputed[r].nodeStatus(r, p, service)
			}
		}
	}
	return out
}

// countsPlainly are the book's counts, with all who stand outside of it.
func countsPlainly(h *Hub, service string) Counts {
	st, _ := statusPlainly(h, service)
	return st.Counts
}

// statusPlainly is what the book says, and all who stand outside of it.
func statusPlainly(h *Hub, service string) (st Status, unlisted int) {
	st = h.services[service].force.Status(service)
	refuse := 0
	for _, n := range outsidersPlainly(h, service) {
		st.Counts.Joining++
		if n.Why != "" {
			refuse++
			st.Nodes = append(st.Nodes, n)
		}
	}
	return st.derive(), max(0, refuse-toldOutside)
}

// shift is the hub's mutex. It counts how often that is taken, and has something happen before.
type shift struct {
	h       *Hub
	taken   int
	happens func()
}

func (l *shift) Unlock() { l.h.mu.Unlock() }

func (l *shift) Lock() {
	if l.taken++; l.happens != nil {
		l.happens()
	}
	l.h.mu.Lock()
}

// Whatever happened to a fleet, Figures are what all books say; and if it happens meanwhile, they are told all the same.
func TestFiguresAreWhatAllBooksSay(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 3))
		h, at := crowded(t, 12), time.Now()
		h.now = func() time.Time { return at }
		var open []*session
		for range 100 {
			at = at.Add(time.Duration(r.IntN(20)) * time.Second)
			if open = befalls(t, h, r, open); r.IntN(10) == 0 {
				h.tick(at)
			}
			unapplied, nodes := countPlainly(h)
			if got := h.Figures(); !reflect.DeepEqual(got.Unapplied, unapplied) || !reflect.DeepEqual(got.Nodes, nodes) || got.Streams != len(h.peers) {
				t.Fatalf("seed %d: %+v, not %v and %v", seed, got, unapplied, nodes)
			}
		}
		meanwhile := &shift{h: h, happens: func() { open = befalls(t, h, r, open) }}
		if n := h.figures(&breaks{mu: meanwhile}).Nodes[Gone]; meanwhile.taken < 2 || n < 150 {
			t.Errorf("seed %d: %d are away, and the mutex was taken %d times", seed, n, meanwhile.taken)
		}
	}
}

// Who asks for the figures lets the mutex go after each thousand streams, books and members that are not at rest.
func TestFiguresLetTheMutexGo(t *testing.T) {
	h := NewHub(quietLog())
	for i := range 3500 {
		name := fmt.Sprint("s", i)
		h.services[name] = &service{force: NewForce(name, time.Hour)}
	}
	for i := range 2500 {
		h.services["s0"].force.Join(h.open(Node{ID: fmt.Sprint("edge-", i)}).stream, Content{Version: "old"}, h.now())
	}
	l := &shift{h: h}
	if f := h.figures(&breaks{mu: l}); f.Unapplied["s0"] != 2500 || f.Nodes[Behind] != 2500 || f.Streams != 2500 {
		t.Errorf("%+v", f)
	}
	if want := 1 + (2500+3500+2500)/toldAtOnce; l.taken != want {
		t.Errorf("the mutex was taken %d times, want %d", l.taken, want)
	}
}
