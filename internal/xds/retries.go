package xds

import (
	"container/heap"
	"time"
)

// retries are what one stream refused and is sent again, by when: as each response is looked for it is asked what is due, and an
// Envoy may refuse ten thousand clusters.
type retries struct {
	by    lean[Ref, *retry]
	queue retryQueue
}

// retry is one of them.
type retry struct {
	of    Ref
	at    time.Time
	place int // in the queue
}

// put has something sent again at a time, whatever was meant before.
func (r *retries) put(of Ref, at time.Time) {
	if had := r.by.m[of]; had != nil {
		had.at = at
		heap.Fix(&r.queue, had.place)
		return
	}
	e := &retry{of: of, at: at}
	r.by.put(of, e)
	heap.Push(&r.queue, e)
}

// drop has it not sent again.
func (r *retries) drop(of Ref) {
	if e := r.by.m[of]; e != nil {
		heap.Remove(&r.queue, e.place)
		r.by.drop(of)
	}
}

// hurry has what is to be sent again looked at at once: what was refused is not there any more.
func (r *retries) hurry(of Ref) {
	if r.by.m[of] != nil {
		r.put(of, time.Unix(0, 0))
	}
}

// first is when the first one is due; false: there is none.
func (r *retries) first() (at time.Time, ok bool) {
	if e := r.queue.first(); e != nil {
		return e.at, true
	}
	return at, false
}

// take takes one out that is due.
func (r *retries) take(now time.Time) (of Ref, ok bool) {
	e := r.queue.first()
	if e == nil || now.Before(e.at) {
		return of, false
	}
	r.drop(e.of)
	return e.of, true
}

// retryQueue is a heap.
type retryQueue struct {
	all   []*retry
	looks int // how many were looked at so far
}

func (q *retryQueue) Len() int { return len(q.all) }

func (q *retryQueue) Less(i, j int) bool {
	q.looks += 2
	return q.all[i].at.Before(q.all[j].at)
}

func (q *retryQueue) Swap(i, j int) {
	q.all[i], q.all[j] = q.all[j], q.all[i]
	q.all[i].place, q.all[j].place = i, j
}

func (q *retryQueue) Push(e any) {
	e.(*retry).place = len(q.all)
	q.all = append(q.all, e.(*retry))
}

func (q *retryQueue) Pop() any {
	last := len(q.all) - 1
	e := q.all[last]
	if q.all[last], q.all = nil, q.all[:last]; last == 0 {
		q.all = nil // with its memory
	}
	return e
}

// first is the one that is due first; nil: there is none.
func (q *retryQueue) first() *retry {
	if len(q.all) == 0 {
		return nil
	}
	q.looks++
	return q.all[0]
}
