package xds

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	messageBytes   = 1 << 10  // that a message counts at least: it costs more than it weighs; and a stream
	handshakeBytes = 8 << 10  // that a connection counts: a signature
	spareLines     = 100      // connections that may be without a stream, when all streams are there
	windowBytes    = 64 << 10 // that may be on their way on any connection: more is of a long message
)

// accounts are those of all peers that are connected.
type accounts struct {
	hub *Hub

	mu sync.Mutex
	of map[string]*account // by IP address
}

// account is what all connections of one IP address cost together. Nothing is counted of loopback: what runs on this
// machine can do worse, and may speak for many, as sidecars or a tunnel do.
type account struct {
	*accounts
	host string
	free bool // loopback
	pace *rate.Limiter
	long chan struct{} // of who is taking in more names than are taken in at once

	turns chan struct{} // of its connections that are arriving

	// Guarded by the mutex of all accounts.
	lines   map[*line]struct{}
	streams int
	names   int // that its streams have asked for
	pending int // bytes of its lines, less windowBytes of each
}

func newAccounts(h *Hub) *accounts { return &accounts{hub: h, of: map[string]*account{}} }

// open books a new connection.
func (as *accounts) open(c net.Conn) *line {
	l := &line{Conn: c}
	l.ended, l.end = context.WithCancel(context.Background())
	as.mu.Lock()
	defer as.mu.Unlock()
	host := hostOf(c.RemoteAddr().String())
	a := as.of[host]
	if a == nil {
		most := as.hub.Admission.Limits.BytesPerSecond
		ip, err := netip.ParseAddr(host)
		a = &account{accounts: as, host: host, free: err == nil && ip.Unmap().IsLoopback(), pace: rate.NewLimiter(rate.Limit(most), most), lines: map[*line]struct{}{}, long: make(chan struct{}, 1),
			turns: make(chan struct{}, ofOneAddress)}
		if a.free {
			a.turns = make(chan struct{}, atATime)
		}
		as.of[host] = a
	}
	l.account, a.lines[l] = a, struct{}{}
	return l
}

// close books its end, once or again. What a peer has spent is remembered until it would have it back anyway.
func (as *accounts) close(l *line) {
	as.mu.Lock()
	defer as.mu.Unlock()
	a := l.account
	a.book(l, -l.pending)
	if delete(a.lines, l); len(a.lines) == 0 {
		time.AfterFunc(time.Second, func() { as.forget(a) })
	}
}

func (as *accounts) forget(a *account) {
	as.mu.Lock()
	defer as.mu.Unlock()
	if len(a.lines) > 0 || as.of[a.host] != a {
		return
	}
	if d := a.spent(); d > 0 {
		time.AfterFunc(d, func() { as.forget(a) })
		return
	}
	delete(as.of, a.host)
}

// spent is how long it takes until a peer has back what it has spent, which may be more than it has in a second.
func (a *account) spent() time.Duration {
	return time.Duration((float64(a.pace.Burst()) - a.pace.Tokens()) / float64(a.pace.Limit()) * float64(time.Second))
}

// book adds to what a line has pending.
func (a *account) book(l *line, bytes int) {
	before := max(0, l.pending-windowBytes)
	l.pending = max(0, l.pending+bytes)
	after := max(0, l.pending-windowBytes)
	if before == 0 && after > 0 {
		l.since = time.Now()
	}
	a.pending += after - before
}

// took books that so much of what was read on a line is dealt with.
func (a *account) took(l *line, bytes int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.book(l, -bytes)
}

// received books what was read. When that is too much, the connection ends whose long message is longest on its way.
func (a *account) received(l *line, bytes int) {
	a.mu.Lock()
	var oldest *line
	if a.book(l, bytes); a.pending > a.hub.Admission.Limits.BytesPerPeer {
		for other := range a.lines {
			if other.pending > windowBytes && (oldest == nil || other.since.Before(oldest.since)) {
				oldest = other
			}
		}
		if oldest != nil {
			a.book(oldest, -oldest.pending)
		}
	}
	a.mu.Unlock()
	if oldest != nil {
		a.hub.refusals.count(overBytes, Node{Peer: oldest.RemoteAddr().String()}, "a connection is ended: messages of %s that are on their way have more than %d bytes: see xds.limits.bytes_per_peer in canaryd.yml",
			a.host, a.hub.Admission.Limits.BytesPerPeer)
		_ = oldest.Close()
	}
}

// reserve takes so many bytes of the peer's pace, and returns how long it has to wait for them.
func (a *account) reserve(bytes int) (wait time.Duration) {
	for now := time.Now(); bytes > 0; bytes -= a.pace.Burst() {
		wait = a.pace.ReserveN(now, min(bytes, a.pace.Burst())).Delay()
	}
	return wait
}

// fits says why there are too many connections of a peer. Each is more than a stream, and is there before it says anything.
func (a *account) fits() error {
	a.mu.Lock()
	lines, most := len(a.lines), a.hub.Admission.Limits.StreamsPerPeer+spareLines
	a.mu.Unlock()
	if a.free || lines <= most {
		return nil
	}
	err := fmt.Errorf("%s has %d connections already: see xds.limits.streams_per_peer in canaryd.yml", a.host, most)
	a.hub.refusals.count(overStreams, Node{Peer: a.host}, "%s", err)
	return err
}

// enters counts a stream; false: there are too many.
func (a *account) enters() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.free && a.streams >= a.hub.Admission.Limits.StreamsPerPeer {
		return false
	}
	a.streams++
	return true
}

func (a *account) leaves() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.streams--
}

// asks counts names that a stream asks for besides, or no longer does, and returns how many all streams of the peer ask for.
func (l *line) asks(names int) (all int) {
	if l == nil || l.account.free {
		return 0
	}
	l.account.mu.Lock()
	defer l.account.mu.Unlock()
	l.account.names += names
	return l.account.names
}

// mayAsk counts so many more names before they are taken in, unless all streams of the peer ask for too many then.
func (h *Hub) mayAsk(n Node, more int) error {
	names := n.line.asks(more)
	if more <= 0 || names <= h.Admission.Limits.NamesPerPeer {
		return nil
	}
	n.line.asks(-more)
	err := status.Errorf(codes.ResourceExhausted, "%d names on all streams of %s: see xds.limits.names_per_peer in canaryd.yml", names, n.line.account.host)
	h.ends(overPeer, n, err)
	return err
}

// alone lets one stream of a peer at a time take in many names: all others have their turn between any two hundreds.
func (l *line) alone(names int) (done func()) {
	if l == nil || l.account.free || names <= atOnce {
		return func() {}
	}
	l.account.long <- struct{}{}
	return func() { <-l.account.long }
}
