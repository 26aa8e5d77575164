package xds

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Whoever broke a limit is let in again after a pause. It begins anew, and twice as long, when they do it again, and
// is forgotten when they do not for long enough.
const (
	pauseLeast   = time.Second
	pauseMost    = time.Minute
	forgivenIn   = 10 * time.Minute
	pausesMost   = 4096        // that are remembered
	pauseAddress = time.Second // that everybody at the same address waits at most: who it was is not known of all of them
)

// penalties are the pauses, by who they are of. An address is an identity without a node.
type penalties struct {
	least, address time.Duration

	mu sync.Mutex
	of map[Identity]penalty
}

type penalty struct {
	pause time.Duration
	until time.Time
}

func newPenalties() *penalties {
	return &penalties{least: pauseLeast, address: pauseAddress, of: map[Identity]penalty{}}
}

// add begins a pause. That somebody broke a limit while theirs runs makes it no longer: they have many streams.
func (p *penalties) add(who Identity, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was, known := p.of[who]
	if at.Before(was.until) {
		return
	}
	if !known && len(p.of) >= pausesMost {
		p.forget(at)
	}
	next := penalty{pause: p.least}
	if at.Sub(was.until) < forgivenIn {
		next.pause = min(2*was.pause, pauseMost)
	}
	next.until = at.Add(next.pause)
	p.of[who] = next
}

// forget makes room: of those who are forgiven, else of anybody.
func (p *penalties) forget(at time.Time) {
	var any Identity
	for who, was := range p.of {
		if any = who; at.Sub(was.until) >= forgivenIn {
			delete(p.of, who)
		}
	}
	delete(p.of, any)
}

// left is how long somebody has to wait.
func (p *penalties) left(who Identity, at time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(0, p.of[who].until.Sub(at))
}

// ends notes that a stream ends because it broke a limit.
func (h *Hub) ends(reason Reason, n Node, err error) {
	h.refusals.count(reason, n, "a stream is ended: %s", status.Convert(err).Message())
	h.penalties.add(Identity{By: hostOf(n.Peer)}, h.now())
	if n.ID != "" {
		h.penalties.add(n.identity(), h.now())
	}
}

// delay keeps a new stream waiting whose address somebody broke a limit from.
func (h *Hub) delay(ctx context.Context, n Node) {
	if d := min(h.penalties.left(Identity{By: hostOf(n.Peer)}, h.now()), h.penalties.address); d > 0 {
		h.refusals.count(overPause, n, "a client at this address exceeded a limit: new streams wait for %s", d.Round(time.Millisecond))
		sleep(ctx, d)
	}
}

// paused refuses a node that broke a limit, for as long as its pause is.
func (h *Hub) paused(n Node) error {
	d := h.penalties.left(n.identity(), h.now())
	if n.ID == "" || d <= 0 {
		return nil
	}
	err := status.Errorf(codes.Unavailable, "node %s exceeded a limit: it is admitted again in %s", n.ID, d.Round(time.Millisecond))
	h.refusals.count(overPause, n, "%s", status.Convert(err).Message())
	return err
}
