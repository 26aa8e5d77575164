package xds

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// line is a connection, read no faster than its peer may write. grpc reads a message as a whole, however long that
// takes: what is on its way is seen only here.
type line struct {
	net.Conn
	account *account
	ended   context.Context
	end     context.CancelFunc
	waited  atomic.Int64 // nanoseconds in all that it was kept waiting
	until   atomic.Int64 // Unix time, in nanoseconds, until when it is kept waiting
	paid    int          // bytes that its handshake may have: they are counted
	turn    *joining     // nil: it has none

	// Guarded by the account's mutex.
	pending int       // bytes that were read, of messages that are not dealt with
	since   time.Time // when they became more than windowBytes
}

// lines are the credentials of a server whose connections are lines. They are above TLS: what they count is messages.
type lines struct {
	credentials.TransportCredentials
	accounts *accounts
}

// ServerHandshake implements credentials.TransportCredentials.
func (c lines) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	l := c.accounts.open(raw)
	if err := l.account.fits(); err != nil {
		_ = l.Close()
		return nil, nil, err
	}
	l.wait(handshakeBytes)
	l.paid = handshakeBytes           // who has his turn does not wait again behind all that others send: Envoy waits for a handshake for a second
	c.accounts.hub.arrivals.arrive(l) // before the handshake: of thousands at once each takes seconds, and Envoy waits for one
	conn, info, err := c.TransportCredentials.ServerHandshake(paced{raw, l})
	if err != nil {
		_ = l.Close() // grpc closes it as well
		return conn, info, err
	}
	l.Conn, l.paid = conn, 0
	l.begins()
	return l, onLine{info, l}, nil
}

// Clone implements credentials.TransportCredentials.
func (c lines) Clone() credentials.TransportCredentials {
	return lines{c.TransportCredentials.Clone(), c.accounts}
}

// onLine is what is known of whoever speaks on a line.
type onLine struct {
	credentials.AuthInfo
	line *line
}

// lineOf is the connection that a stream is on; nil outside of a server.
func lineOf(ctx context.Context) *line {
	if p, ok := peer.FromContext(ctx); ok {
		if on, ok := p.AuthInfo.(onLine); ok {
			return on.line
		}
	}
	return nil
}

// Read implements net.Conn.
func (l *line) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if n > 0 && !l.account.free {
		l.account.received(l, n)
	}
	return n, err
}

// paced is the connection itself, below TLS: what a handshake has, and what TLS says to itself, are work as well.
type paced struct {
	net.Conn
	line *line
}

// Read implements net.Conn.
func (p paced) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	paid := min(n, p.line.paid)
	p.line.paid -= paid
	p.line.wait(n - paid)
	return n, err
}

// owes counts so many bytes of the peer's pace: what it sends next is read later.
func (l *line) owes(bytes int) {
	if l != nil && !l.account.free {
		l.account.reserve(bytes)
	}
}

// wait lets so many bytes pass at the peer's pace.
func (l *line) wait(bytes int) {
	if l == nil || l.account.free || bytes <= 0 {
		return
	}
	pace := l.account.pace
	if d := l.account.reserve(bytes); d > 0 {
		l.account.hub.refusals.count(overPace, Node{Peer: l.RemoteAddr().String()}, "%s sends more than %d bytes a second, and is read no faster", l.account.host, pace.Burst())
		l.waited.Add(int64(d))
		for until := time.Now().Add(d).UnixNano(); ; {
			if was := l.until.Load(); was >= until || l.until.CompareAndSwap(was, until) {
				break
			}
		}
		sleep(l.ended, d)
	}
}

// waits is how much longer it is kept waiting.
func (l *line) waits() time.Duration { return time.Until(time.Unix(0, l.until.Load())) }

// took books that a message was dealt with, with what its frames add to it.
func (l *line) took(bytes int) {
	const head, frame, frameHead = 5, 16 << 10, 9
	if l != nil && bytes > 0 && !l.account.free {
		l.account.took(l, bytes+head+frameHead*(1+bytes/frame))
	}
}

// Close implements net.Conn.
func (l *line) Close() error {
	l.end()
	l.arrived()
	l.account.accounts.close(l)
	return l.Conn.Close()
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
