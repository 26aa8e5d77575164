package controller

import (
	"context"
	"fmt"
	"time"

	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/store"
)

// Journal calls take with each chunk of a service's journal that begins between two moments, or before the first and may reach
// into it, in their order; a zero moment is no limit. What is not stored yet is there, too.
func (c *Controller) Journal(ctx context.Context, service string, from, to time.Time, take func(parts [][]byte) error) error {
	unstored, known, err := c.unstoredParts(ctx, service)
	if err != nil {
		return err
	}
	after, around := nanoseconds(from), !from.IsZero()
	for ctx.Err() == nil {
		chunk, found, err := c.Store.Chunk(service, after, around)
		if err != nil {
			return fmt.Errorf("the journal of %s: %w", service, err)
		}
		if !found && len(unstored) == 0 {
			break
		}
		if !found {
			chunk = store.Chunk{Begin: unstored[0].Begin}
		}
		if known = true; !to.IsZero() && chunk.Begin > nanoseconds(to) {
			return nil
		}
		after, around = chunk.Begin, false
		var whole [][]byte
		whole, unstored = joined(chunk, unstored)
		if err := take(whole); err != nil {
			return err
		}
	}
	if !known {
		return c.unknownService(service)
	}
	return ctx.Err()
}

// nanoseconds name a moment as the store does; 0: the zero moment.
func nanoseconds(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(max(0, t.UnixNano()))
}

// unstoredParts are those that no write has held yet, or not for sure.
func (c *Controller) unstoredParts(ctx context.Context, service string) (parts []store.Part, known bool, err error) {
	var waiting []*journal.Part
	if err := c.do(ctx, func() {
		u := c.units[service]
		if known = u != nil; !known {
			return
		}
		u.scribe.cut(&u.state)
		for _, p := range u.scribe.parts { // copies: a part that waits may yet lose what is before it
			part := *p
			waiting = append(waiting, &part)
		}
	}); err != nil {
		return nil, false, err
	}
	parts, err = storedParts(waiting)
	return parts, known, err
}

// joined are the parts of a chunk, with those that are not stored, and what is left of these.
func joined(c store.Chunk, unstored []store.Part) (whole [][]byte, rest []store.Part) {
	last := -1
	for _, p := range c.Parts {
		whole, last = append(whole, p.Data), int(p.Number)
	}
	for _, p := range unstored {
		switch {
		case p.Begin != c.Begin:
			rest = append(rest, p)
		case int(p.Number) > last && (len(whole) == 0 || !journal.Packed(whole[0])):
			whole = append(whole, p.Data)
		}
	}
	return whole, rest
}

// Evidence reads what a plot is made of.
func (c *Controller) Evidence(ctx context.Context, p *journal.Plot) error {
	rd, err := journal.NewReader()
	if err != nil {
		return err
	}
	return c.Journal(ctx, p.Service, p.From, p.To, func(parts [][]byte) error {
		chunk, broken := rd.Beside(parts)
		return p.Take(&chunk, broken)
	})
}
