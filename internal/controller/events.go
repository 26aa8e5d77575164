package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"

	"github.com/sirupsen/logrus"
)

const (
	listenerRoom = 256 // entries that a listener may be behind
	replayAtOnce = 500
)

// events hands stored entries to listeners. One that falls behind is let go; it comes back with the
// cursor of the last entry that it got, and misses nothing.
type events struct {
	store Store
	log   logrus.FieldLogger

	mu   sync.Mutex
	subs map[chan Entry]struct{}
}

func newEvents(s Store, log logrus.FieldLogger) *events {
	return &events{store: s, log: log, subs: map[chan Entry]struct{}{}}
}

func (b *events) send(e Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.subs {
		select {
		case ch <- e:
		default:
			delete(b.subs, ch)
			close(ch)
		}
	}
}

func (b *events) subscribe() chan Entry {
	ch := make(chan Entry, listenerRoom)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs[ch] = struct{}{}
	return ch
}

func (b *events) leave(ch chan Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.subs[ch]; ok {
		delete(b.subs, ch)
		close(ch)
	}
}

// Listen returns stored entries in order, until ctx ends. After names the last entry that the caller has,
// by its cursor; empty: only new ones are wanted. The channel is closed early when the caller falls
// behind, or the store cannot be read: it goes on with another Listen.
func (c *Controller) Listen(ctx context.Context, after string) (<-chan Entry, error) {
	var last uint64
	if after != "" {
		var err error
		if last, err = strconv.ParseUint(after, 10, 64); err != nil {
			return nil, &CursorError{after}
		}
	}
	if newest, err := c.Store.Last(); err == nil && last > newest {
		c.Log.WithFields(logrus.Fields{"cursor": last, "newest": newest}).Warn("a client is ahead of the events, so an older copy of the database was restored: it is sent what is new")
		last = newest
	}
	live := c.events.subscribe() // before the replay, so that nothing falls between the two
	out := make(chan Entry)
	go func() {
		defer close(out)
		defer c.events.leave(live)
		if after != "" {
			var err error
			if last, err = c.events.replay(ctx, last, out); err != nil {
				c.Log.WithError(err).Error("a client of /events missed some: it has to connect again")
				return
			}
		}
		for {
			select {
			case <-ctx.Done():
				return
			case e, ok := <-live:
				if !ok {
					return
				}
				if e.cursor > last && !pass(ctx, out, e) { // the others were replayed
					return
				}
			}
		}
	}()
	return out, nil
}

func pass(ctx context.Context, to chan<- Entry, e Entry) bool {
	select {
	case to <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// replay passes on what was stored after a cursor, and returns the last cursor.
func (b *events) replay(ctx context.Context, last uint64, to chan<- Entry) (uint64, error) {
	for {
		stored, err := b.store.Events(last, replayAtOnce)
		if err != nil {
			return last, fmt.Errorf("read the events after %d: %w", last, err)
		}
		for _, s := range stored {
			var e Entry
			if err := json.Unmarshal(s.Record, &e); err != nil {
				b.log.WithError(err).WithField("event", s.Cursor).Error("an event cannot be read: it is left out")
				last = s.Cursor
				continue
			}
			e.at(s.Cursor)
			if !pass(ctx, to, e) {
				return last, nil
			}
			last = s.Cursor
		}
		if len(stored) < replayAtOnce {
			return last, nil
		}
	}
}

// CursorError says that a cursor is not one that canaryd gave out.
type CursorError struct{ Cursor string }

func (e *CursorError) Error() string {
	return fmt.Sprintf("%q is not a cursor: send the id of the last event that you got", e.Cursor)
}
