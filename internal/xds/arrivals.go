package xds

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// When thousands of Envoys come back at once, as after a restart of canaryd, each has its turn: a connection is spoken to when one
// of those before it has got its first answer. To serve all of them at the same time has each wait for all, and what is sent
// meanwhile, such as a cut, waits behind them.
const (
	atATime       = 128              // connections have their turn: enough to keep all processors busy
	ofOneAddress  = 32               // of these: connections that say nothing keep out those of their own address
	silentMost    = time.Second      // who says nothing loses his turn, and goes on without. Clients on a busy machine take long
	answeredMost  = 2 * time.Second  // so does who has no answer by then: it may be that there is none
	turnWaitsMost = 10 * time.Second // who waits for so long needs no turn: Envoy takes a connection for broken after 15 s
)

// arrivals are the turns.
type arrivals struct {
	turns chan struct{}
	over  chan struct{} // closed: nobody waits any more
	once  sync.Once
}

// joining is the turn of one connection.
type joining struct {
	end   func() // may be called again
	late  *time.Timer
	spoke atomic.Bool // a stream had its first message
}

func newArrivals() *arrivals {
	return &arrivals{turns: make(chan struct{}, atATime), over: make(chan struct{})}
}

// end lets everybody in: canaryd ends, and waits for nobody.
func (a *arrivals) end() { a.once.Do(func() { close(a.over) }) }

// arrive waits for the turn of a connection.
func (a *arrivals) arrive(l *line) {
	ctx, cancel := context.WithTimeout(l.ended, turnWaitsMost)
	defer cancel()
	own := l.account.turns
	if !a.take(ctx, own) {
		return
	}
	if !a.take(ctx, a.turns) {
		<-own
		return
	}
	end := sync.OnceFunc(func() { <-a.turns; <-own })
	l.turn = &joining{end: end, late: time.AfterFunc(silentMost, end)}
}

// take waits for one of some turns, and reports whether there was one in time.
func (a *arrivals) take(ctx context.Context, turns chan struct{}) bool {
	select {
	case turns <- struct{}{}:
		return true
	case <-a.over:
	case <-ctx.Done():
	}
	return false
}

// begins takes in that a connection can be used: from now on it is the client that is waited for.
func (l *line) begins() {
	if l.turn != nil && l.turn.late.Stop() {
		l.turn.late.Reset(silentMost)
	}
}

// speaks takes in the first message of a stream: what follows is canaryd's to do.
func (l *line) speaks() {
	if l != nil && l.turn != nil && !l.turn.spoke.Swap(true) && l.turn.late.Stop() {
		l.turn.late.Reset(answeredMost)
	}
}

// arrived ends the turn of a connection that has got its first answer.
func (l *line) arrived() {
	if l != nil && l.turn != nil {
		l.turn.late.Stop()
		l.turn.end()
	}
}
