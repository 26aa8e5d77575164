package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
)

const (
	listenerRoom = 256 // entries that a listener may be behind
	replayAtOnce = 500
)

// events hands stored entries to listeners. One that falls behind is let go; it comes back with the
// cursor of the last entry that it got, and misses nothing.
type events struct {
	store Store

	mu   sync.Mutex
	subs map[chan Entry]struct{}
}

func newEvents(s Store) *events { return &events{store: s, subs: map[chan Entry]struct{}{}} }

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

// Listen hands every stored entry to f, in order, until ctx ends, f returns an error, or f is too slow
// to keep up. After names the last entry that was got before, by its cursor; empty: only new ones.
func (c *Controller) Listen(ctx context.Context, after string, f func(Entry) error) error {
	ch := c.events.subscribe()
	defer c.events.leave(ch)
	var last uint64
	if after != "" {
		var err error
		if last, err = strconv.ParseUint(after, 10, 64); err != nil {
			return &CursorError{after}
		}
		if last, err = c.events.replay(ctx, last, f); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-ch:
			if !ok {
				return fmt.Errorf("more than %d entries behind: go on after the last one", listenerRoom)
			}
			if e.cursor <= last {
				continue // it was replayed
			}
			if err := f(e); err != nil {
				return err
			}
		}
	}
}

// replay hands over what was stored after a cursor, and returns the last cursor.
func (b *events) replay(ctx context.Context, last uint64, f func(Entry) error) (uint64, error) {
	for ctx.Err() == nil {
		stored, err := b.store.Events(last, replayAtOnce)
		if err != nil {
			return last, fmt.Errorf("read the events after %d: %w", last, err)
		}
		for _, s := range stored {
			var e Entry
			if err := json.Unmarshal(s.Record, &e); err != nil {
				return last, fmt.Errorf("read event %d: %w", s.Cursor, err)
			}
			e.at(s.Cursor)
			if err := f(e); err != nil {
				return last, err
			}
			last = s.Cursor
		}
		if len(stored) < replayAtOnce {
			break
		}
	}
	return last, nil
}

// CursorError says that a cursor is not one that canaryd gave out.
type CursorError struct{ Cursor string }

func (e *CursorError) Error() string {
	return fmt.Sprintf("%q is not a cursor: send the id of the last event that you got", e.Cursor)
}
