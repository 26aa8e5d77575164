package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// mostKept is how many records of a service wait for a disk that stores nothing; later ones are counted.
const mostKept = 1000

// Entry is a record of the history with what was in force when it was made.
type Entry struct {
	rollout.Record
	Cursor     string `json:"-"` // opaque: where Listen goes on after it
	PolicyHash string `json:"policy_hash"`
	Policy     string `json:"policy,omitempty"` // text, filled in when the history is read
	Commit     string `json:"policy_commit,omitempty"`
	Clean      *bool  `json:"policy_clean,omitempty"` // no uncommitted change in the policy's directory

	cursor uint64
}

func (e *Entry) at(cursor uint64) { e.cursor, e.Cursor = cursor, strconv.FormatUint(cursor, 10) }

// Number is the cursor as a number: each stored entry has the next one.
func (e *Entry) Number() uint64 { return e.cursor }

func entryOf(u *unit, r rollout.Record) Entry {
	return Entry{Record: r, PolicyHash: u.state.PolicyHash, Commit: u.origin.commit, Clean: u.origin.clean}
}

// pending is an entry of a decision that is not stored.
type pending struct {
	decision uint64
	entry    Entry
	line     []byte // as it is stored: the writer's, which encodes it once, however often the disk fails
	cursor   uint64 // in the store; 0: it is not there, as far as anybody knows

	withdrawn bool     // with a promotion: it is history only where it is in the store all the same
	instead   *pending // says the same as that one, which is withdrawn: it is history only where that one is not
}

// void reports whether an entry is not to be stored. It is asked when no write is under way, and none is in doubt.
func (p *pending) void() bool {
	return p.cursor == 0 && (p.withdrawn || p.instead != nil && p.instead.cursor != 0)
}

// of reports whether the entry is of the same event, and says the same of it, as a record.
func (e *Entry) of(r rollout.Record) bool {
	return e.At.Equal(r.At) && e.Version == r.Version && e.Attempt == r.Attempt && e.Kind == r.Kind
}

// keep holds an entry back until its decision is stored. It may stand in for one that is withdrawn.
func (u *unit) keep(decision uint64, e Entry, instead *pending) {
	if len(u.records) >= mostKept && !e.Kind.Cut() && e.Kind != rollout.KindRemoved {
		u.dropped++
		return
	}
	u.records = append(u.records, &pending{decision: decision, entry: e, instead: instead})
}

// encode runs outside the loop.
func (p *pending) encode() (err error) {
	if p.line != nil {
		return nil
	}
	if p.line, err = json.Marshal(p.entry); err != nil { // the verdict's numbers are none
		plain := p.entry
		plain.Verdict = nil
		p.line, err = json.Marshal(plain)
	}
	return err
}

// tell hands on the entries that are durable now, and answers the commands that waited for it.
func (u *unit) tell(decision uint64, to *events) {
	n := 0
	for ; n < len(u.records) && u.records[n].decision <= decision; n++ {
		e := u.records[n].entry
		e.at(u.records[n].cursor)
		to.send(e)
	}
	u.records = slices.Clone(u.records[n:])
	u.answer(decision)
}

// admitDropped writes into the history that records were dropped, as soon as there is room again.
func (c *Controller) admitDropped(u *unit, now time.Time) {
	if u.dropped == 0 || len(u.records) > 0 {
		return
	}
	reason := fmt.Sprintf("%d records before this one were dropped: too many were made while nothing could be stored", u.dropped)
	u.dropped = 0
	c.decided(u, []rollout.Record{{At: now, Service: u.state.Policy.Service, Kind: rollout.KindDropped, Reason: reason, By: rollout.System,
		Before: u.state.Weights(), After: u.state.Weights()}})
}

// waiter waits until what was decided of a service is stored.
type waiter struct {
	decision uint64
	receipt  *receipt
}

// receipt is what a command, or a reload, waits for: that what was decided of some services is stored.
type receipt struct {
	of     []*unit
	left   int           // of these
	stored chan struct{} // closed when none is
	some   chan struct{} // says that fewer are
}

// receiptFor is one for the decisions taken so far.
func receiptFor(us ...*unit) *receipt {
	r := &receipt{stored: make(chan struct{}), some: make(chan struct{}, 1)}
	for _, u := range us {
		if u.outbox.Unstored() {
			r.of, r.left = append(r.of, u), r.left+1
			u.waiting = append(u.waiting, waiter{u.outbox.decided, r})
		}
	}
	if r.left == 0 {
		close(r.stored)
	}
	return r
}

func (u *unit) answer(decision uint64) {
	u.waiting = slices.DeleteFunc(u.waiting, func(w waiter) bool {
		if w.decision > decision {
			return false
		}
		w.receipt.landed()
		return true
	})
}

// landed takes in that what was decided of one more service is stored.
func (r *receipt) landed() {
	if r.left--; r.left == 0 {
		close(r.stored)
		return
	}
	select {
	case r.some <- struct{}{}:
	default: // who waits has not heard of the one before yet
	}
}

// drop lets a command go that waits no longer.
func (r *receipt) drop() {
	for _, u := range r.of {
		u.waiting = slices.DeleteFunc(u.waiting, func(w waiter) bool { return w.receipt == r })
	}
}

// History returns the newest entries of a service, oldest first.
func (c *Controller) History(ctx context.Context, service string, limit int) ([]Entry, error) {
	known := false
	if err := c.do(ctx, func() { known = c.units[service] != nil || c.unreadable[service] != nil }); err != nil {
		return nil, err
	}
	lines, err := c.Store.History(service, limit)
	if err != nil {
		return nil, fmt.Errorf("history of %s: %w", service, err)
	}
	if !known && len(lines) == 0 {
		return nil, c.unknownService(service)
	}
	texts := map[string]string{}
	entries := make([]Entry, len(lines))
	for i, l := range lines {
		e := &entries[i]
		if err := json.Unmarshal(l, e); err != nil {
			return nil, fmt.Errorf("history of %s: %w", service, err)
		}
		if _, ok := texts[e.PolicyHash]; !ok {
			text, err := c.Store.Policy(e.PolicyHash)
			if err != nil {
				return nil, fmt.Errorf("history of %s: %w", service, err)
			}
			texts[e.PolicyHash] = policy.Redacted(text) // earlier releases stored it as it was written
		}
		e.Policy = texts[e.PolicyHash]
	}
	return entries, nil
}
