package controller

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// firstReadWithin is how long start-up waits for the policy files; the loop goes on without them.
const firstReadWithin = 5 * time.Second

// Reload reads the policies again, and returns when what it changed is stored. When anything is wrong nothing
// changes, and the error says what.
func (c *Controller) Reload(ctx context.Context, by string) error {
	if err := c.policies.take(ctx); err != nil {
		return err
	}
	set, err := c.policies.read()
	if err == nil {
		err = c.besideOrphans(ctx, set)
	}
	var a *adoption
	doErr := ctx.Err() // that nobody waits for it any more is no mistake in the policies
	if doErr == nil {
		doErr = c.do(ctx, func() { a, err = c.reloaded(set, err, by) })
	}
	if doErr != nil {
		c.policies.forget() // nobody took the reading in: the next look is to find the files changed
		c.policies.release()
		return doErr
	}
	if err != nil {
		return err
	}
	select {
	case <-a.done:
	case <-ctx.Done():
		return fmt.Errorf("the policies are still being taken in: %w", ctx.Err())
	}
	if !c.await(ctx, a.receipt) {
		return &NotStoredError{What: "the reload", Why: c.whyNotStored(ctx)}
	}
	return nil
}

// beginReading reads the policy files for the first time. A reading that comes late keeps its turn until the loop has
// taken it in: it must not undo a newer one.
func (c *Controller) beginReading() <-chan reading {
	c.policies.turn <- struct{}{} // nobody else has it yet
	done := make(chan reading, 1)
	go func() {
		set, err := c.policies.read()
		done <- reading{set, err}
	}()
	return done
}

// firstReload takes the policies in before anything is served. What is wrong with them keeps nobody from
// being served as before.
func (c *Controller) firstReload(policies <-chan reading) {
	var err error
	select {
	case r := <-policies:
		for err = c.firstRead(r); c.backlog.reading != nil; {
			c.adoptSome()
		}
		for len(c.backlog.findings) > 0 {
			c.useSome()
		}
	case <-time.After(firstReadWithin):
		c.lateReading = policies
		err = fmt.Errorf("the policy files have not been read within %s: does their file system answer?", firstReadWithin)
		c.reloadErr = err
	}
	if err != nil {
		c.Log.WithError(err).WithField("services", len(c.units)).Error("starting on what is stored")
	}
}

// firstRead takes the first reading in.
func (c *Controller) firstRead(r reading) error {
	if r.err == nil {
		r.err = beside(r.set, c.kept(r.set))
	}
	_, err := c.reloaded(r.set, r.err, "start")
	return err
}

// reading is how a reading of the policy files ended.
type reading struct {
	set policySet
	err error
}

// adoption is a reading of the policy files that is being taken in, some services at a time.
type adoption struct {
	by       string
	read     queue[*policy.Document] // that are to be compared with what their services have
	compared bool                    // all are
	crossing crossing                // what services leave and join
	shifts   queue[*change]          // that may meet others there
	changes  queue[*change]          // those that meet first, one move after the other, else in the order of the files
	orphans  queue[string]           // services that no document names, and that leave and join nothing
	done     chan struct{}           // closed when all is taken in
	receipt  *receipt                // that it is stored, as what was decided before; made when it is done
}

// change is a document that says something else than its service has, or than is stored of it.
type change struct {
	service string
	doc     *policy.Document // nil: the service has lost it before all that was decided was stored
	shift   shift
	move    *move // nil: it leaves and joins nothing
}

// reloaded begins to take in what a reading of the files brought, or refuses it. Services whose document is the same hear
// nothing. The turn to read is the adoption's until it is done.
func (c *Controller) reloaded(set policySet, err error, by string) (*adoption, error) {
	c.reloadErr = err
	if err != nil {
		c.policies.release()
		return nil, fmt.Errorf("the policies have mistakes; those from before stay in force:\n%w", err)
	}
	if len(set.docs) == 0 {
		c.Log.WithField("policies", c.policies.globs).Warn("0 services: no file with a policy is named in `policies`; paths are relative to canaryd.yml")
	}
	a := &adoption{by: by, crossing: crossing{}, done: make(chan struct{})}
	c.reloadedAt, c.set, c.backlog.reading = time.Now(), set, a
	for i := range set.docs {
		a.read = append(a.read, &set.docs[i])
	}
	c.adoptSome()
	return a, nil
}

// compare finds out what a piece of the documents says anew; with the last of them, who has none.
func (c *Controller) compare(a *adoption) {
	a.read.some(compareMost, func(d *policy.Document) {
		has, ch := c.has(d, c.set.origin(d)), c.changed(d.Policy.Service, d, &d.Policy.Route)
		if has && ch.move == nil {
			c.lookAgainAt(ch.service)
			return
		}
		a.put(ch)
	})
	if a.compared = len(a.read) == 0; !a.compared {
		return
	}
	for name, u := range c.units {
		if _, here := c.set.place[name]; here {
			continue
		}
		if ch := c.changed(name, nil, &u.state.Policy.Route); ch.move != nil { // it goes on where it was to be
			a.put(ch)
		} else {
			a.orphans = append(a.orphans, name)
		}
	}
}

// put takes in a change, and where others may meet it.
func (a *adoption) put(ch *change) {
	if ch.move != nil {
		a.crossing.note(ch.shift)
		a.shifts = append(a.shifts, ch)
	}
	a.changes = append(a.changes, ch)
}

// has reports whether a service has its policy already, wherever the file may be now.
func (c *Controller) has(d *policy.Document, o origin) bool {
	u := c.units[d.Policy.Service]
	if u == nil {
		return false
	}
	u.origin = o
	return u.adopted && !u.removing && !u.state.Orphaned && u.state.PolicyHash == d.Hash
}

// changed finds out what a service leaves and joins: of the places that it has, and of those that the Envoys know of it, or may
// know before what is decided is stored.
func (c *Controller) changed(service string, d *policy.Document, is *policy.Route) *change {
	ch, was := &change{service: service, doc: d}, []*policy.Route(nil)
	if u := c.units[service]; u != nil {
		was = u.routes()
	} else {
		was = append(was, &policy.Route{})
	}
	if !slices.ContainsFunc(was, func(r *policy.Route) bool { return !samePlaces(is, r) }) {
		return ch
	}
	if ch.shift = shiftOf(is, was...); len(ch.shift.left)+len(ch.shift.joined) > 0 {
		ch.move = newMove()
	}
	return ch
}

// inMoves puts the services of a move beside each other, before all that meet nobody: until the last of them has its policy nothing of
// the move is stored, nor what else is decided of its services.
func inMoves(changes queue[*change]) (sorted queue[*change]) {
	var moves []*move
	of, alone := map[*move][]*change{}, queue[*change]{}
	for _, ch := range changes {
		if ch.move == nil || ch.move.now().size == 1 {
			alone = append(alone, ch)
			continue
		}
		m := ch.move.now()
		if of[m] == nil {
			moves = append(moves, m)
		}
		of[m] = append(of[m], ch)
	}
	for _, m := range moves {
		sorted = append(sorted, of[m]...)
	}
	return append(sorted, alone...)
}

func samePlaces(a, b *policy.Route) bool {
	return a.Listener == b.Listener && slices.Equal(a.Domains, b.Domains) && slices.Equal(a.Nodes, b.Nodes)
}

// adoptSome takes in a piece of the policies.
func (c *Controller) adoptSome() {
	a := c.backlog.reading
	switch {
	case !a.compared:
		c.compare(a)
	case len(a.shifts) > 0:
		a.shifts.some(compareMost, func(ch *change) { a.crossing.meet(ch.shift, ch.move) })
		if len(a.shifts) == 0 {
			a.changes = inMoves(a.changes)
		}
	case len(a.changes) > 0:
		a.changes.some(pieceMost, func(ch *change) { c.adoptChange(ch, a.by) })
	default:
		a.orphans.some(pieceMost, func(service string) {
			if c.orphan(service) != nil {
				c.lookAgainAt(service)
			}
		})
	}
	if a.compared && len(a.shifts)+len(a.changes)+len(a.orphans) == 0 {
		c.adoptionDone(a)
	}
}

// adoptChange adopts what changed of a service, and has it stored with those that it meets.
func (c *Controller) adoptChange(ch *change, by string) {
	var u *unit
	if ch.doc != nil {
		u = c.adopt(ch.doc, by)
	} else {
		u = c.orphan(ch.service)
	}
	if ch.move != nil && ch.move.now().size > 1 {
		if u != nil && u.outbox.Unstored() {
			c.moves.bind(u, ch.move)
			c.unsaved[u] = struct{}{} // also where all of it is in the write under way
		}
		c.moves.adopted(ch.move)
	}
	c.lookAgainAt(ch.service)
}

// orphan takes in that a service has lost its policy.
func (c *Controller) orphan(service string) *unit {
	u := c.units[service]
	if u == nil {
		return nil
	}
	if u.back = nil; !u.state.Orphaned {
		c.must(u, rollout.Orphaned{At: c.reloadedAt})
	}
	return u
}

func (c *Controller) adoptionDone(a *adoption) {
	c.backlog.reading = nil
	c.useSome() // what few services have found is in use when the reload is done
	a.receipt = receiptFor(c.unsettled()...)
	c.policies.release()
	close(a.done)
}

// unsettled are the services with something that is decided and not stored.
func (c *Controller) unsettled() []*unit {
	return slices.AppendSeq(slices.Clone(c.writer.under), maps.Keys(c.unsaved))
}

// besideOrphans finds policies that would take requests from services that have none any more. It is done outside of the
// loop: while a reading has its turn no service loses its policy.
func (c *Controller) besideOrphans(ctx context.Context, set policySet) (err error) {
	var kept []*policy.Policy
	if err := c.do(ctx, func() { kept = c.kept(set) }); err != nil {
		return err
	}
	return beside(set, kept)
}

// kept are the policies of services that no document names. One that is being removed may begin anew all the same, as far as the
// disk has been given that.
func (c *Controller) kept(set policySet) (kept []*policy.Policy) {
	for name, u := range c.units {
		if _, here := set.place[name]; here {
			continue
		}
		routes := []*policy.Route{&u.state.Policy.Route}
		if u.removing {
			routes = u.routes()
		}
		for _, r := range routes {
			kept = append(kept, &policy.Policy{Service: name, Route: *r})
		}
	}
	return kept
}

func beside(set policySet, kept []*policy.Policy) error {
	if len(kept) == 0 {
		return nil
	}
	if errs := policy.CheckBeside(set.docs, kept).Errors(); len(errs) > 0 {
		return errs
	}
	return nil
}

// adopt gives a service its policy, when that is another one than it has. One that is new is held until it is
// stored: an Envoy may have it from an earlier life.
func (c *Controller) adopt(d *policy.Document, by string) *unit {
	name := d.Policy.Service
	if c.unreadable[name] != nil {
		return nil // to begin anew would send everybody to what the policy's `versions` says
	}
	u := c.units[name]
	if u == nil {
		u = c.successor(name)
		c.units[name] = u
		c.Hub.Hold(name)
	}
	u.origin = c.set.origin(d)
	same := d.Hash == u.state.PolicyHash && !u.state.Orphaned
	if same && !u.adopted { // the release of canaryd that stored it may have read the text otherwise
		same = reflect.DeepEqual(d.Policy, u.state.Policy)
	}
	if u.removing {
		c.comesBack(u, d)
		return u
	}
	if u.adopted = true; same {
		return u
	}
	u.text = d.Shown
	c.must(u, rollout.PolicyChanged{At: time.Now(), Policy: d.Policy, Hash: d.Hash, Secret: rand.Text(), By: by})
	if u.state.Policy.Service == "" { // a defect: its first step failed, and nothing without a name may be stored
		delete(c.units, name)
		c.unreadable[name] = cmp.Or(u.panicked, errors.New("its policy could not be taken in"))
	}
	return u
}

// WatchFiles reloads when the policy files change. They are looked at when an event says that something happened there, and
// every so often where no event may come.
func (c *Controller) WatchFiles(ctx context.Context, events <-chan struct{}, every time.Duration) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		told := false
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			told = true
		case <-t.C:
		}
		if c.filesChanged(ctx, told) {
			if err := c.Reload(ctx, "file change"); err != nil && ctx.Err() == nil {
				c.Log.WithError(err).Error("reload after a file change failed")
			}
		}
	}
}

func (c *Controller) filesChanged(ctx context.Context, told bool) bool {
	if c.policies.take(ctx) != nil {
		return false
	}
	defer c.policies.release()
	return c.policies.changed(time.Now(), told)
}
