package xds

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// A tick that leaves out the books of which time changes nothing shows in nothing: of two books that hear the same, one is
// looked at by every tick, and the other when it is due.
func TestTicksLeftOutShowInNothing(t *testing.T) {
	left, looked := 0, 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		rounds := rounds{}
		all, due := newBook(), newBook()
		all.ForgetAfter, due.ForgetAfter = 4*time.Minute, 4*time.Minute
		rounds.join(due.Force)
		streams := []string{"a", "a/2", "b", "b/2", "c"}
		var told []string
		for range 80 {
			kind, stream, v := r.IntN(17), streams[r.IntN(len(streams))], 1+r.IntN(3)
			ticks, every := r.IntN(12), time.Second*time.Duration(1+r.IntN(30))
			said := []string{all.hearMore(kind, stream, v), due.hearMore(kind, stream, v)}
			told = append(told, said[0])
			for range ticks {
				all.at, due.at = all.at.Add(every), due.at.Add(every)
				if left++; len(rounds.queue) > 0 && !rounds.queue[0].round.due.After(due.at) {
					looked++
				}
				changed := false
				rounds.tick(due.at, &breaks{mu: &sync.Mutex{}}, func(*Force) { changed = true })
				said[0] += fmt.Sprint("\n\t", all.Tick(all.at), all.shows(stream))
				said[1] += fmt.Sprint("\n\t", changed, due.shows(stream))
			}
			if said[0] != said[1] {
				t.Fatalf("seed %d: %s\nlooked at by every tick, and when due:\n%s\n%s", seed, strings.Join(told, "\n"), said[0], said[1])
			}
		}
	}
	if looked == 0 || looked > left/2 {
		t.Errorf("of %d ticks %d looked at the book", left, looked)
	}
}

// hearMore has more kinds of things happen than hear.
func (b *book) hearMore(kind int, stream string, v int) string {
	switch open := b.streams[stream] != nil; {
	case kind == 10 && open:
		b.Drop(b.streams[stream])
	case kind == 11:
		b.Restarted(b.node(stream).ID)
	case kind == 12 && v == 1 && !open:
		b.Restore([]rollout.Crowd{{Nodes: []string{b.node(stream).ID}, Version: content(1).Version, Has: content(1).Slots}}, b.at)
	case kind == 13:
		b.refuse(stream, TypeRoute, "shop", b.Force.want.Envoys.Version)
	case kind == 14:
		b.Forget(b.node(stream).ID)
	case kind == 16: // the same table for other canaries
		w := b.Force.want
		w.Canaries = [][]string{{"v2"}, {"v2", "v3"}, {"v3"}}[v-1]
		b.Want(w, b.at)
	case kind == 15:
		b.Changed(Ref{TypeCluster, "shop/v2"}, b.at)
	default:
		return b.hear(kind, stream, v, 0)
	}
	return fmt.Sprint(kind, stream, v, " ", b.shows(stream))
}

// A service that is removed and comes back is in the rounds again: who was away then is forgotten in time, and nobody looks
// at the book of one that is gone.
func TestRoundsFollowRemovalAndReturn(t *testing.T) {
	h := NewHub(quietLog())
	at := time.Unix(1e9, 0)
	h.now = func() time.Time { return at }
	h.Restore("shop", []rollout.Crowd{{Nodes: []string{"away"}, Version: "t1"}})
	gone := func() int { return h.services["shop"].force.Status("shop").Counts.Gone }
	publish := func() {
		t.Helper()
		if err := h.PublishTable(table(1, map[string]int{"v1": 10000})); err != nil {
			t.Fatal(err)
		}
		if gone() != 1 {
			t.Fatalf("%d nodes are away", gone())
		}
	}
	pass := func(d time.Duration) {
		at = at.Add(d)
		h.tick(at)
	}
	publish()
	pass(time.Second)
	if err := h.Remove("shop"); err != nil {
		t.Fatal(err)
	}
	if pass(time.Second); len(h.rounds.queue) != 0 {
		t.Error("there is no service, and books are due")
	}
	publish()
	pass(ForgetAfter - 3*time.Second)
	if gone() != 1 {
		t.Error("it is forgotten too early")
	}
	if pass(time.Second); gone() != 0 || len(h.rounds.queue) != 0 {
		t.Errorf("after %s %d are still away, and %d books are due", ForgetAfter, gone(), len(h.rounds.queue))
	}
}

// BenchmarkTickAtRest10000 is a tick of ten thousand services at rest, which an Envoy that is away had.
func BenchmarkTickAtRest10000(b *testing.B) {
	h := NewHub(quietLog())
	at := time.Unix(1e9, 0)
	h.now = func() time.Time { return at }
	var all []Prepared
	for i := range 10_000 {
		t := table(1, map[string]int{"v1": 10000})
		t.Service = fmt.Sprint("s", i)
		t.Policy.Service = t.Service
		h.Restore(t.Service, []rollout.Crowd{{Nodes: []string{"away"}, Version: "t1"}})
		all = append(all, h.Prepare(t))
	}
	for _, err := range h.Publish(all...) {
		if err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		at = at.Add(time.Millisecond)
		h.tick(at)
	}
}

// A tick with thousands of books due lets the mutex go now and then. What is removed meanwhile is not due any more, and what comes back
// or is woken is looked at in this tick or the next one.
func TestATickLetsTheMutexGo(t *testing.T) {
	h := NewHub(quietLog())
	at := time.Unix(1e9, 0)
	h.now = func() time.Time { return at }
	const services = 3500
	publish := func(i int) {
		t := table(1, map[string]int{"v1": 10000})
		t.Service = fmt.Sprint("s", i)
		t.Policy.Service = t.Service
		if err := h.PublishTable(t); err != nil {
			panic(err)
		}
	}
	for i := range services {
		h.Restore(fmt.Sprint("s", i), []rollout.Crowd{{Nodes: []string{"away"}, Version: "t1"}})
		publish(i)
	}
	gone := func() (n int) {
		for _, svc := range h.services {
			n += svc.force.Status("").Counts.Gone
		}
		return n
	}
	at = at.Add(time.Second)
	h.tick(at)
	if gone() != services || len(h.rounds.queue) != services {
		t.Fatalf("%d are away, %d books are due", gone(), len(h.rounds.queue))
	}
	r := rand.New(rand.NewPCG(1, 1))
	l := &shift{h: h, happens: func() {
		for range 500 {
			switch i := r.IntN(services); r.IntN(3) {
			case 0:
				_ = h.Remove(fmt.Sprint("s", i))
			case 1:
				publish(i)
			default:
				if svc := h.services[fmt.Sprint("s", i)]; svc != nil {
					svc.force.wake()
				}
			}
		}
	}}
	at = at.Add(ForgetAfter)
	h.mu.Lock()
	h.rounds.tick(at, &breaks{mu: l}, func(*Force) {})
	h.mu.Unlock()
	if l.taken < 3 || l.taken > 20 {
		t.Errorf("the mutex was taken %d times", l.taken)
	}
	h.tick(at)
	if gone() != 0 {
		t.Errorf("%d are still away", gone())
	}
	if h.tick(at.Add(time.Second)); len(h.rounds.queue) != 0 {
		t.Errorf("%d books are due", len(h.rounds.queue))
	}
}
