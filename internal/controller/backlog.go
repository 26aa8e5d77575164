package controller

import (
	"runtime"
	"time"

	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/xds"
)

const (
	pieceMost   = 64                   // services that the loop works on before it looks what else there is to do
	pieceFor    = 2 * time.Millisecond // and for no longer than about that: on busy cores it takes some times as long
	compareMost = 1024                 // policies that it compares with those that there are
	ageMost     = 1024                 // services of which it finds out whether evidence is to be stored
	aheadMost   = 4                    // of what somebody waits for, before a piece: who asks without end does not stop the judgement

	crowded    = 20 * time.Millisecond // who gives way for longer has waited for many that it did not wake, or woke all at once
	crowdRests = 4                     // and does so for a fifth of the time at most
)

// backlog is work that concerns many services. It is done a piece at a time, each kind in its order and the kinds in turns:
// a command, a cut that is due and a write that has ended wait for a piece, whatever came before them.
type backlog struct {
	turn     int
	ahead    int           // of what somebody waits for, since the last piece
	ready    chan struct{} // closed
	ticks    queue[*unit]
	ageing   queue[*unit] // of which is to be stored what changed of their evidence since it was stored last
	evidence queue[metrics.Evidence]
	statuses queue[status]
	namings  []*naming       // what origins name anew
	findings queue[*finding] // each once
	stored   queue[job]      // of a write that ended
	leaving  queue[string]   // services that were removed: of which is to be looked who still waits for them
	reading  *adoption       // the policies that are being taken in; nil: none are
}

// status is news of who has a service's table.
type status struct {
	u *unit
	xds.Status
}

func newBacklog() backlog {
	b := backlog{ready: make(chan struct{})}
	close(b.ready)
	return b
}

// queue is work of one kind.
type queue[T any] []T

// some does a piece of it: so many at most, and what time there is for.
func (q *queue[T]) some(most int, f func(T)) {
	piece, begun, n := (*q)[:min(len(*q), most)], time.Now(), 0
	for n < len(piece) && (n == 0 || time.Since(begun) < pieceFor) {
		f(piece[n])
		n++
	}
	if *q = (*q)[n:]; len(*q) == 0 {
		*q = nil
	}
}

// more is a channel that can be read while there is work.
func (b *backlog) more() <-chan struct{} {
	if len(b.ticks)+len(b.ageing)+len(b.evidence)+len(b.statuses)+len(b.namings)+len(b.findings)+len(b.stored)+len(b.leaving) > 0 || b.reading != nil {
		return b.ready
	}
	return nil
}

// first does something that somebody waits for, before more of what concerns many services is done: who commands a cut, or
// decided one, waits for the piece under way and not for those that chance puts before it.
func (c *Controller) first() bool {
	if c.backlog.more() == nil {
		return false // whatever comes is done at once
	}
	if c.backlog.ahead++; c.backlog.ahead > aheadMost {
		c.work(time.Now())
		return true
	}
	select {
	case call := <-c.calls:
		c.answer(call)
	case r := <-c.writer.done:
		c.written(r)
	default:
		return false
	}
	return true
}

// answer does what somebody waits for.
func (c *Controller) answer(call func()) {
	call()
	c.woke = true
}

// giveWay lets whoever the loop woke go on, before more of what concerns many services is done. Go has them wait for the loop's own
// processor; while memory is collected on all others none takes them over, and by itself Go takes a processor away after 10 ms only.
// Where thousands want one it would wait for all of them each time.
func (c *Controller) giveWay() {
	woke := c.woke
	if c.woke = false; !woke || c.backlog.more() == nil {
		return
	}
	begun := time.Now()
	if begun.Before(c.stays) {
		return
	}
	runtime.Gosched()
	if took := time.Since(begun); took > crowded {
		c.stays = begun.Add((1 + crowdRests) * took)
	}
}

// work does a piece of the kind whose turn it is. While a cut waits to be stored, it is the turn of what is: the writer begins
// when that is worked off.
func (c *Controller) work(now time.Time) {
	c.backlog.ahead = 0
	if len(c.cutting) > 0 && len(c.backlog.stored) > 0 {
		c.durable(now)
		return
	}
	for {
		c.backlog.turn++
		switch b := &c.backlog; {
		case b.turn%9 == 0 && len(b.ticks) > 0:
			c.tickSome(now)
		case b.turn%9 == 1 && len(b.evidence) > 0:
			c.observeSome(now)
		case b.turn%9 == 2 && len(b.statuses) > 0:
			c.applySome(now)
		case b.turn%9 == 3 && len(b.findings) > 0:
			c.useSome()
		case b.turn%9 == 4 && len(b.stored) > 0:
			c.durable(now)
		case b.turn%9 == 5 && b.reading != nil:
			c.adoptSome()
		case b.turn%9 == 6 && len(b.ageing) > 0 && len(b.ticks) == 0: // else what is written is old at once
			c.ageSome()
		case b.turn%9 == 7 && len(b.namings) > 0:
			c.nameSome()
		case b.turn%9 == 8 && len(b.leaving) > 0:
			c.departSome()
		default:
			continue
		}
		return
	}
}

// tickSome lets time pass for services with something under judgement.
func (c *Controller) tickSome(now time.Time) {
	tick := rollout.Plain(rollout.Tick{At: now})
	c.backlog.ticks.some(pieceMost, func(u *unit) {
		if u.noted && !u.spares(now) {
			c.must(u, tick)
		}
	})
}

// spares reports whether a tick is left out: evidence has just let time pass, and since the last tick, which changed nothing, nothing
// else was taken in. What a tick does that evidence does not begins with something else, or with a tick.
func (u *unit) spares(now time.Time) bool {
	return u.passing && now.Sub(u.observedAt) < tickEvery
}

// ageSome has evidence stored.
func (c *Controller) ageSome() {
	c.backlog.ageing.some(ageMost, func(u *unit) {
		if _, changed := c.stale[u]; changed { // it may be in a write by now
			c.aged[u] = struct{}{}
		}
	})
}

func (c *Controller) observeSome(now time.Time) {
	c.backlog.evidence.some(pieceMost, func(ev metrics.Evidence) { c.observed(ev, now) })
}

func (c *Controller) applySome(now time.Time) {
	c.backlog.statuses.some(pieceMost, func(st status) {
		if c.units[st.Service] == st.u {
			c.applied(st.u, &st.Status, now)
		}
	})
}

// useSome brings what is named and the state together.
func (c *Controller) useSome() {
	c.backlog.findings.some(pieceMost, func(f *finding) {
		if f.queued = false; !f.unnamed {
			c.reconcileOne(f)
		}
	})
}
