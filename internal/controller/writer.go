package controller

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
	"github.com/canaryd/canaryd/internal/xds"
)

const (
	writeAgain    = time.Second      // after a write that failed
	writeHangs    = 2 * time.Second  // a write that takes longer is told, and what waits for it answers
	stopPatience  = 10 * time.Second // a last write that takes longer is told
	agedAtOnce    = 64               // services whose evidence is stored in one transaction: a cut may wait behind it
	storedAtOnce  = 64               // services whose decisions are
	besideCuts    = 16               // services that both are stored of at once while versions are cut: another cut may follow
	cutsFollow    = time.Second      // for so long after one
	neighbourMost = 1024             // names that are looked at for services to be stored together

	// Evidence is written for a fifth of the time at most, however many services are under judgement and however slow the disk
	// is: so a decision hardly ever finds the disk busy, and the cores are the loop's. What that costs is some seconds more of evidence
	// after a crash. But it never waits for longer than checkpoint.
	agedRests = 4
)

// writer stores what was decided, one transaction at a time, outside the loop.
type writer struct {
	store   Store
	done    chan saved
	cursor  uint64      // of the newest record that is known to be stored
	since   time.Time   // of the write under way; zero: there is none
	err     error       // of the last write
	retryAt time.Time   // after an error
	under   []*unit     // in that write
	left    []string    // removed services of which nothing is left
	doubted []job       // what the write that failed held: a disk may have it all the same
	wakes   *time.Timer // wakes the loop for a cut that waits for the disk, and for evidence that is to be written
	tidyAt  time.Time   // what is kept is looked through then
	untidy  bool        // that failed
	alone   bool        // the last write held nothing but cuts
	paced   bool        // evidence is not written all the time
	aged    bool        // the write under way holds evidence that could have waited
	agedAt  time.Time   // no evidence is written before

	to, wasTo reached // now, and before the last write

	stored bool // something was, since what is kept was looked through
}

// reached is the service to which decisions and evidence were stored, in the order of names.
type reached struct{ decisions, evidence string }

func newWriter(s Store) writer {
	return writer{store: s, done: make(chan saved, 1), wakes: time.NewTimer(time.Hour), tidyAt: time.Now().Add(checkpoint)}
}

// slow reports whether a cut has nothing to gain from waiting for the disk.
func (w *writer) slow(now time.Time) bool {
	return !w.since.IsZero() && now.Sub(w.since) >= cutPatience
}

// trouble is why decisions are not being stored; nil: they are.
func (w *writer) trouble(now time.Time) error {
	if !w.since.IsZero() && now.Sub(w.since) >= writeHangs {
		return fmt.Errorf("the disk has not answered for %s", now.Sub(w.since).Round(time.Second))
	}
	return w.err
}

// job is one service's part of a transaction.
type job struct {
	u        *unit
	decision uint64 // everything up to this one
	remove   bool
	move     *move    // it is published with all others of it
	remains  *remains // with remove
	reborn   *unit    // its policy is back: it begins anew in the write that removes it
	state    rollout.State
	decides  bool // what is decided in state is to be stored as well
	records  []*pending
	parts    []*journal.Part
	write    store.Write

	table rollout.Table // of state, filled in by the writer
	made  *xds.Prepared // of table
	err   error         // why state cannot be stored

	unkept error // why parts cannot be: they are let go
}

// saved is a transaction that ended.
type saved struct {
	jobs  []job
	left  []string
	first uint64 // cursor of the first record
	err   error

	asked, there bool // it is the one that failed; the store was asked about it, and has it
	tidied, more bool // it stored nothing: what is kept was looked through, and there is more to be done
}

// write begins the next transaction, when none is under way: decisions first, then evidence.
func (c *Controller) write(now time.Time) {
	w := &c.writer
	if !w.since.IsZero() || now.Before(w.retryAt) || len(c.backlog.stored) > 0 {
		return
	}
	if len(w.doubted) > 0 {
		w.since = now
		go func(cursor uint64, jobs []job) { w.done <- recall(w.store, cursor, jobs) }(w.cursor, w.doubted)
		return
	}
	if c.untidied(now) {
		w.stored = false
		c.tidy(now)
		return
	}
	jobs, left := c.jobs(now), w.left
	if len(jobs) == 0 && len(left) == 0 {
		c.tidy(now)
		return
	}
	w.since, w.left, w.under, w.stored = now, nil, make([]*unit, len(jobs)), true
	for i := range jobs {
		w.under[i] = jobs[i].u
	}
	go func() { w.done <- save(w.store, c.Hub, jobs, left) }()
	c.woke = true
}

// neighbours are services of a set whose names follow one another, from the last ones on: neighbours share pages of the store, and
// a page is written whole. Then come the others, as where the next ones are far.
func (c *Controller) neighbours(set map[*unit]struct{}, last *string) iter.Seq[*unit] {
	return func(yield func(*unit) bool) {
		var names []string
		if len(set) > storedAtOnce { // else all go at once
			if names = c.targets.after(*last); len(names) == 0 {
				names = c.targets.services
			}
		}
		for _, name := range names[:min(len(names), neighbourMost)] {
			u := c.units[name]
			if _, in := set[u]; in && !yield(u) {
				return
			}
			*last = name
		}
		for u := range set {
			if !yield(u) {
				return
			}
		}
	}
}

// job says what is to be stored of a service. The state may be encoded elsewhere: Step never changes
// one that it returned. After a write that failed the journal waits: what is decided may find the room that both do not.
func (u *unit) job(journalled bool) job {
	j := job{u: u, decision: u.outbox.Begin(), remove: u.removing, state: u.lend(), decides: !u.kept}
	u.kept = true // a write that fails says otherwise
	if journalled {
		j.parts = u.scribe.take(&u.state, u.outbox.Unstored())
	}
	j.write = store.Write{Service: u.state.Policy.Service, Delete: u.removing, PolicyHash: u.state.PolicyHash, PolicyText: u.text}
	u.records = slices.DeleteFunc(u.records, (*pending).void)
	for _, r := range u.records {
		if r.cursor == 0 { // the others are in the store since a write that failed
			j.records = append(j.records, r)
		}
	}
	return j
}

// save runs outside the loop: it encodes, and waits for the disk.
func save(s Store, h *xds.Hub, jobs []job, left []string) saved {
	var ws []store.Write
	for _, service := range left {
		ws = append(ws, store.Write{Service: service, Remains: []byte{}})
	}
	sideBySide(len(jobs), func(i int) { jobs[i].err = jobs[i].encode() })
	for i := range jobs {
		if j := &jobs[i]; j.err == nil {
			ws = append(ws, j.write)
		}
	}
	// What is to go out is made while the disk is busy anyway, and out of the loop.
	made := make(chan struct{})
	go func() {
		defer close(made)
		prepare(h, jobs)
	}()
	defer func() { <-made }()
	first, err := put(s, ws)
	return saved{jobs: jobs, left: left, first: first, err: err}
}

// put stores writes. A page that the disk has changed is an error of it: cuts still go out.
func put(s Store, ws []store.Write) (first uint64, err error) {
	defer recovered(&err)
	return s.Save(ws)
}

// prepare makes what is published when the jobs are stored. Only decisions change what is.
func prepare(h *xds.Hub, jobs []job) {
	sideBySide(len(jobs), func(i int) {
		if j := &jobs[i]; j.err == nil && j.table.Policy != nil && (len(j.records) > 0 || j.reborn != nil) {
			p := h.Prepare(j.table)
			j.made = &p
		}
	})
}

// recall asks the store whether it has what a write that failed held, as after an error of the last sync: its records
// must not be written again. Whether they are on the disk nobody knows before a later write that succeeds.
func recall(s Store, cursor uint64, jobs []job) saved {
	n := 0
	for _, j := range jobs {
		if j.err == nil {
			n += len(j.write.Records)
		}
	}
	last, err := s.Last()
	if err != nil || n == 0 || last != cursor+uint64(n) {
		return saved{jobs: jobs, err: err, asked: true}
	}
	return saved{jobs: jobs, first: cursor + 1, asked: true, there: true}
}

func (j *job) encode() (err error) {
	defer recovered(&err)
	for _, r := range j.records {
		if err := r.encode(); err != nil {
			return err
		}
		j.write.Records = append(j.write.Records, r.line)
	}
	j.write.Parts, j.unkept = storedParts(j.parts)
	if j.remove {
		if j.write.Remains, err = json.Marshal(j.remains.Remains); err != nil {
			return err
		}
	}
	if j.remove && j.reborn == nil {
		return nil
	}
	j.table = j.state.Table()
	j.write.State, j.write.Evidence, err = rollout.EncodeParts(j.state, j.decides)
	return err
}

// written takes in how a transaction ended.
func (c *Controller) written(r saved) {
	now := time.Now()
	w := &c.writer
	w.rest(now)
	if r.tidied {
		c.tidied(r, now)
		return
	}
	for _, j := range r.jobs {
		stored := r.err == nil && !r.asked && j.err == nil
		if j.u.scribe.landed(stored, j.write.Parts); stored && j.unkept != nil {
			c.Log.WithError(j.unkept).WithField("service", j.write.Service).Error("a bug in canaryd, please report it: the journal cannot be encoded; it begins anew")
			j.u.scribe.restart(journal.Gap)
			j.u.scribe.lost = j.parts[0].Since()
		}
	}
	if r.err != nil {
		c.notWritten(r, now)
		return
	}
	if !r.asked || r.there {
		w.number(r)
	}
	if r.asked { // all of it is written again, less the records that are there
		w.doubted = nil
		return
	}
	if w.err != nil {
		c.Log.Info("the state is being stored again")
	}
	w.err, w.retryAt = nil, time.Time{}
	c.backlog.stored = append(c.backlog.stored, r.jobs...)
	c.durable(now)
}

// rest takes in that a write ended.
func (w *writer) rest(now time.Time) {
	if w.aged && w.paced {
		w.agedAt = now.Add(min(agedRests*now.Sub(w.since), checkpoint))
	}
	w.since, w.aged = time.Time{}, false
}

func (c *Controller) notWritten(r saved, now time.Time) {
	w := &c.writer
	if w.err == nil {
		c.Log.WithError(r.err).Error("the state cannot be stored: no weight is raised until it can be, rollbacks still go out; the history is not being written")
	}
	w.err, w.retryAt, w.left = r.err, now.Add(writeAgain), append(w.left, r.left...)
	w.to = w.wasTo // whose turn it was is stored before all who come after
	if !r.asked {  // else they are bound, and due, already
		w.doubted = r.jobs
		c.moves.again(r.jobs)
	}
	for _, j := range r.jobs {
		j.u.outbox.Failed(now)
		j.u.kept = false
		c.unsaved[j.u] = struct{}{}
		if _, cuts := c.cutting[j.u]; cuts {
			c.cutting[j.u] = now
		}
	}
}

// durable takes in a piece of what is stored: it may be published, told and answered. A move is one piece,
// however long that takes.
func (c *Controller) durable(now time.Time) {
	var stored []*unit
	jobs, begun, n := c.backlog.stored, time.Now(), 0
	for n < len(jobs) && (n == 0 || jobs[n].follows(&jobs[n-1]) || n < pieceMost && time.Since(begun) < pieceFor) {
		if u := c.landed(jobs[n], now); u != nil {
			stored = append(stored, u)
		}
		n++
	}
	if c.backlog.stored = jobs[n:]; len(c.backlog.stored) == 0 {
		c.backlog.stored, c.writer.under = nil, nil
	}
	c.publish(now, stored...)
	for _, u := range stored {
		c.admitDropped(u, now)
	}
}

// follows reports whether one job may not be published without the one before it.
func (j *job) follows(before *job) bool { return j.move != nil && j.move == before.move }

// landed takes in that one service's part is stored, and returns what may be published: the service, or the one that begins in its
// place; nil: nothing.
func (c *Controller) landed(j job, now time.Time) *unit {
	if j.err != nil {
		c.unwritable(j, now)
		return nil
	}
	j.u.encodes, j.u.tried = nil, nil
	j.u.tell(j.decision, c.events)
	if j.remove {
		return c.gone(j, now)
	}
	j.u.outbox.Stored(now, j.decision, j.table)
	j.u.made = j.made
	return j.u
}

// allDurable takes in all that is stored.
func (c *Controller) allDurable() {
	for len(c.backlog.stored) > 0 {
		c.durable(time.Now())
	}
}

// number gives the records of a transaction the cursors that the store gave them.
func (w *writer) number(r saved) {
	cursor := r.first
	for _, j := range r.jobs {
		if j.err != nil {
			continue
		}
		for _, x := range j.records {
			x.cursor = cursor
			cursor++
		}
	}
	w.cursor = cursor - 1
}

// unwritable is a state that cannot be encoded. It is tried again with the next checkpoint, so that it
// does not hold up the others.
func (c *Controller) unwritable(j job, now time.Time) {
	if j.u.encodes == nil {
		c.Log.WithError(j.err).WithField("service", j.write.Service).Error("a bug in canaryd, please report it: the state cannot be encoded, so its decisions are not stored; rollbacks still go out")
	}
	j.u.encodes, j.u.kept = j.err, false
	c.outdated(j.u)
	j.u.outbox.Failed(now)
}

// firstWrite gives what start-up decided the time to be stored before anybody is served.
func (c *Controller) firstWrite() {
	if c.writer.since.IsZero() {
		return
	}
	select {
	case r := <-c.writer.done:
		c.written(r)
		c.allDurable()
	case <-time.After(writeHangs):
		c.Log.Warn("the disk does not answer: serving what is stored")
	}
}
