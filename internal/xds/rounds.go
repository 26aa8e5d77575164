package xds

import (
	"container/heap"
	"time"
)

// rounds are the books of which time may change something, by when: a tick looks at those that are due, and not at ten
// thousand that are at rest. Looking at one too early does no harm.
type rounds struct{ queue roundsQueue }

// round is a book's place in the rounds.
type round struct {
	of    *rounds // nil: none
	due   time.Time
	place int // in the queue, from 1; 0: time changes nothing
}

// join takes a book in.
func (r *rounds) join(f *Force) {
	f.round = round{of: r}
	f.wake()
}

// leave lets a book go.
func (r *rounds) leave(f *Force) {
	if f.round.place > 0 {
		heap.Remove(&r.queue, f.round.place-1)
	}
	f.round = round{}
}

// wake has the next tick look at a book: something happened in it.
func (f *Force) wake() { f.dueAt(time.Time{}) }

func (f *Force) dueAt(t time.Time) {
	switch r := &f.round; {
	case r.of == nil || r.place > 0 && r.due.Equal(t):
	case r.place == 0:
		r.due = t
		heap.Push(&r.of.queue, f)
	default:
		r.due = t
		heap.Fix(&r.of.queue, r.place-1)
	}
}

// tick lets time pass in the books that are due, and calls a function for those in which a standing changed. It lets the mutex go
// now and then: what happens meanwhile may make other books due, which have their turn in this tick or the next one.
func (r *rounds) tick(now time.Time, b *breaks, changed func(*Force)) {
	var again []*Force // due at once: in the next tick
	for left := len(r.queue); left > 0 && len(r.queue) > 0 && !r.queue[0].round.due.After(now); left-- {
		f := heap.Pop(&r.queue).(*Force)
		looked := 1 + len(f.restless.m)
		if f.Tick(now) {
			changed(f)
		}
		switch t, ok := f.next(now); {
		case ok && !t.After(now):
			again = append(again, f)
		case ok:
			f.dueAt(t)
		}
		b.looks(looked)
	}
	for _, f := range again {
		f.dueAt(now)
	}
}

// next is when time may change something, unless something happens before.
func (f *Force) next(now time.Time) (at time.Time, ok bool) {
	for m := range f.restless.m {
		if t, some := f.nextOf(m, now); some && (!ok || t.Before(at)) {
			at, ok = t, true
		}
	}
	return at, ok
}

func (f *Force) nextOf(m *member, now time.Time) (at time.Time, ok bool) {
	switch standing := f.standing(m); {
	case m.doubted || m.silent != f.overdue(m, now):
		return now, true
	case standing == Gone:
		return m.left.Add(f.ForgetAfter), true
	case standing == Behind:
		return m.behind.Add(LaggingAfter - m.waited), true
	case standing == Refused:
		return m.charged.Add(RefusingFor - f.heldLeast(m)), true
	case standing == Lagging && !m.silent:
		return f.lastSign(m).Add(f.ForgetAfter), true
	}
	return time.Time{}, false
}

// roundsQueue is a heap.
type roundsQueue []*Force

func (q roundsQueue) Len() int           { return len(q) }
func (q roundsQueue) Less(i, j int) bool { return q[i].round.due.Before(q[j].round.due) }

func (q roundsQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].round.place, q[j].round.place = i+1, j+1
}

func (q *roundsQueue) Push(f any) {
	*q = append(*q, f.(*Force))
	f.(*Force).round.place = len(*q)
}

func (q *roundsQueue) Pop() any {
	last := len(*q) - 1
	f := (*q)[last]
	(*q)[last], *q = nil, (*q)[:last]
	f.round.place = 0
	return f
}
