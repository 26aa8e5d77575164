// Package controller is the shell: one loop that feeds events to the state machine, stores what it
// decides, and then tells the Envoys.
package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
	"github.com/canaryd/canaryd/internal/xds"
)

const (
	tickEvery  = time.Second
	checkpoint = 5 * time.Second
	restBatch  = 10 * time.Second // evidence of services at rest is gathered for so long
	restSaved  = 5 * time.Minute  // and what was learnt from it is stored so often
)

// Store keeps states and history; each Save is one transaction. Its second implementation is the slow,
// full and dead disk of the tests.
type Store interface {
	States() (map[string]store.State, error)
	Remains() (map[string][]byte, error) // of services that were removed
	Save([]store.Write) (first uint64, err error)
	Key() []byte // seals what Envoys remember; the same after a restart, once a Save was well
	Policy(hash string) (string, error)
	History(service string, limit int) ([][]byte, error)
	Events(after uint64, limit int) ([]store.Event, error)
	Last() (cursor uint64, err error)
	Chunk(service string, after uint64, around bool) (c store.Chunk, found bool, err error)
	Tidy(now time.Time, l store.Limits) (more bool, err error)
}

// Options are what the loop works with.
type Options struct {
	Log    logrus.FieldLogger
	Store  Store
	Hub    *xds.Hub
	Source metrics.Source
	// Ask says which clusters the Envoys are to report; nil when load reports are not the source.
	Ask func(clusters []xds.Asked)
	// Fleet runs versions as containers; nil where there is no Docker.
	Fleet *docker.Fleet
	// Limits are how much of the history and the journal is kept; without Pack all of it is, as it was written.
	Limits store.Limits
	// Policies are the globs of policy files.
	Policies []string
}

// Controller is the loop and what it owns. Everything in it is touched by the loop only, and the loop
// does nothing that can wait for a disk, a program or a network.
type Controller struct {
	Options
	units      map[string]*unit
	unreadable map[string]error // services whose stored state cannot be read: they are left as they are
	busy       map[string]*unit
	unsaved    map[*unit]struct{}  // with decisions to be stored
	stale      map[*unit]struct{}  // changed since they were stored last
	aged       map[*unit]struct{}  // with evidence to be stored
	moves      moves               // unsaved, each published at once: one leaves a listener that another one joins
	cutting    map[*unit]time.Time // with a cut that is neither stored nor published, and when that is to be looked at
	hidden     map[*unit]struct{}  // with a table that could not be published
	leaving    map[string]*remains // of services that were removed
	findings   findings
	targets    targets
	aims       *aims
	backlog    backlog
	calls      chan func()
	evidence   chan []metrics.Evidence
	probes     chan probed
	prober     *prober
	writer     writer
	spare      rollout.Spare // of states that only the loop had
	woke       bool          // somebody, since the last piece
	stays      time.Time     // the loop gives way to nobody before
	collector  *collector
	atOnce     int       // decisions that are stored in one transaction
	cutAt      time.Time // the last cut was decided
	events     *events
	policies   *policies

	clock        clock
	checkedAt    time.Time
	restedAt     time.Time
	set          policySet      // the policies as they were read last
	lateReading  <-chan reading // of the policy files at start, when it took too long to wait for
	reloadErr    error
	reloadedAt   time.Time
	decisions    durations
	patience     time.Duration // with a disk that fails when canaryd is told to end
	source       sourceLog
	observedLast *unit             // evidence of it came last
	warned       map[string]string // node: build of an Envoy that loses load reports
}

// unit is one service in the loop.
type unit struct {
	state  rollout.State
	lent   bool   // somebody but the loop may have it, or one that shares a version or a judge with it: see lend
	text   string // of the policy
	origin origin
	outbox outbox
	kept   bool // what is decided in state is stored, but for what is in outbox and waits for it: a checkpoint needs the evidence alone

	records   []*pending // made by decisions that are not stored, oldest first
	dropped   int        // records that found no room in there
	waiting   []waiter
	adopted   bool             // its policy was compared with the text since start-up
	removing  bool             // a person deleted the service: it goes when that is stored, and is judged until then
	tried     []*policy.Route  // given to the disk since it stored a decision last: any of them may be there. Those with other places than what is durable
	back      *policy.Document // with removing: the policy that was taken in since, with which it begins anew
	publishes error            // why its table could not be published
	made      *xds.Prepared    // of the table that was stored last; nil: used
	encodes   error            // why its state could not be stored
	panicked  error            // what its state machine stumbled over last
	shadows   []*shadow        // of promotions that are not stored, oldest first
	scribe    scribe           // of the journal

	fleet      xds.Status // who has the table
	rest       restEvidence
	doubts     []string  // what the source of evidence warned of last
	observedAt time.Time // evidence was taken in last
	passing    bool      // a tick changed nothing, and nothing but evidence that decided nothing was taken in since: see spares
	noted      bool      // it is among the busy ones
	stale      bool      // it is among those that have changed since they were stored last: nobody takes it from these without this
	next       *unit     // of which evidence came after its own: see judged
	decidedAt  time.Time // evidence read for the table that is on its way
	verdicts   Verdicts
	outcomes   map[rollout.Kind]int // records since the start of canaryd; nil: none
}

func newUnit(s rollout.State) *unit {
	return &unit{state: s}
}

// lend is for who keeps a state, or reads it outside the loop: Step never changes one, and its memory is not used again.
func (u *unit) lend() rollout.State {
	u.lent = true
	return u.state
}

// New loads the stored state and publishes it, so that the first Envoy already gets the right table. A
// policy that is wrong, a disk that is full and a state that cannot be read are told in `status`; none
// of them keeps the other services from being served.
func New(o Options) (*Controller, error) {
	c := &Controller{
		Options: o, units: map[string]*unit{}, unreadable: map[string]error{}, busy: map[string]*unit{}, unsaved: map[*unit]struct{}{}, stale: map[*unit]struct{}{}, aged: map[*unit]struct{}{}, moves: newMoves(),
		cutting: map[*unit]time.Time{}, backlog: newBacklog(), atOnce: math.MaxInt, hidden: map[*unit]struct{}{}, calls: make(chan func()), evidence: make(chan []metrics.Evidence), probes: make(chan probed, 64),
		leaving: map[string]*remains{}, patience: stopPatience, warned: map[string]string{}, findings: newFindings(), targets: newTargets(), aims: newAims(&o), writer: newWriter(o.Store), events: newEvents(o.Store, o.Log),
	}
	var err error
	if c.writer.cursor, err = o.Store.Last(); err != nil {
		return nil, fmt.Errorf("load the stored events: %w", err)
	}
	o.Hub.Key = o.Store.Key()
	c.policies = newPolicies(o.Policies, c.sourceName())
	c.prober = newProber(c.probes)
	policies := c.beginReading() // while the states are
	now := time.Now()
	c.restedAt = now // what was learnt of services at rest is as it is stored
	if err := c.load(now); err != nil {
		return nil, err
	}
	c.serveStored(now)
	if err := c.loadRemains(); err != nil {
		return nil, err
	}
	c.firstReload(policies)
	c.settle(now)
	c.firstWrite()
	return c, nil
}

// load takes the stored states in, and makes what is to be published of them.
func (c *Controller) load(now time.Time) error {
	states, err := c.Store.States()
	if err != nil {
		return fmt.Errorf("load the stored state: %w", err)
	}
	names := slices.Sorted(maps.Keys(states))
	units, errs := make([]*unit, len(names)), make([]error, len(names))
	sideBySide(len(names), func(i int) { units[i], errs[i] = c.restored(names[i], states[names[i]], now) })
	for i, name := range names {
		if errs[i] == nil {
			errs[i] = c.admit(units[i])
		}
		if err := errs[i]; err != nil {
			c.unreadable[name] = err
			delete(c.units, name)
			delete(c.busy, name)
			c.Hub.Hold(name)
			c.Log.WithError(err).WithField("service", name).Error("the stored state cannot be read: the service is left as the Envoys have it, and nothing of it is judged")
		}
	}
	return nil
}

// sideBySide calls a function for each of n: on all processors where they are thousands, as at the start, and else on one, which
// leaves another to the loop. Each gives way to what else wants a processor: the loop waits for none that takes long in all.
func sideBySide(n int, f func(i int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(1+n/1000, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
				runtime.Gosched()
			}
		})
	}
	wg.Wait()
}

// restored is a service as it is stored.
func (c *Controller) restored(name string, stored store.State, now time.Time) (u *unit, err error) {
	defer recovered(&err)
	s, dropped, err := rollout.DecodeParts(stored.Decided, stored.Evidence)
	if err != nil {
		return nil, err
	}
	if len(dropped) > 0 {
		c.Log.WithFields(logrus.Fields{"service": name, "parts": dropped}).Warn("parts of the stored state cannot be read: the evidence in them is lost, the weights are not")
	}
	u = newUnit(rollout.Resume(s, now))
	if u.text, err = c.Store.Policy(s.PolicyHash); err != nil {
		return nil, fmt.Errorf("its policy: %w", err)
	}
	u.outbox.durable, u.scribe.why = u.state.Table(), journal.Resumed
	u.scribe.begun = nanoseconds(s.At) // no chunk of what was written has a later name, whatever the clock says now
	made := c.Hub.Prepare(u.outbox.durable)
	u.made = &made
	return u, nil
}

// admit takes a service into the loop.
func (c *Controller) admit(u *unit) (err error) {
	defer recovered(&err)
	c.units[u.state.Policy.Service] = u
	c.note(u)
	c.aim(u)
	return nil
}

// serveStored publishes what was loaded, all at once: what services share is made once.
func (c *Controller) serveStored(now time.Time) {
	c.publish(now, slices.Collect(maps.Values(c.units))...)
	for name, u := range c.units {
		c.Hub.Restore(name, u.state.Crowds)
	}
}

// recovered makes an error of a panic, so that one service's trouble stays its own.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
	}
}

// Run is the loop. It ends with ctx, after the last state is stored.
func (c *Controller) Run(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	go c.prober.run(ctx)
	go c.aims.run(ctx)
	var launches <-chan docker.Event
	if c.Fleet != nil {
		launches = c.Fleet.Events()
	}
	sourceDone := make(chan error, 1)
	go func() { sourceDone <- c.Source.Run(ctx, c.deliver(ctx)) }()
	c.atOnce, c.writer.paced, c.collector = storedAtOnce, true, newCollector(time.Now())
	c.settle(time.Now())
	for {
		c.giveWay()
		if c.first() {
			c.settle(time.Now())
			continue
		}
		if c.backlog.more() == nil {
			c.collector.rest(time.Now())
		}
		select {
		case <-ctx.Done():
			c.stop()
			return nil
		case err := <-sourceDone:
			if ctx.Err() == nil {
				return fmt.Errorf("the source of evidence ended: %w", cmp.Or(err, errors.New("it did not say why")))
			}
		case call := <-c.calls:
			c.answer(call)
		case evs := <-when(c.evidence, len(c.backlog.evidence) == 0):
			c.tellSource(time.Now(), evs)
			c.backlog.evidence = evs
			c.observeSome(time.Now())
		case <-when(c.Hub.Changes(), len(c.backlog.statuses) == 0):
			c.changes()
		case e := <-c.probes:
			c.probed(e)
		case e := <-launches:
			c.launched(e)
		case set := <-c.findings.handed:
			c.found(set)
		case r := <-c.writer.done:
			c.written(r)
		case r := <-c.lateReading:
			_ = c.firstRead(r) // it is shown in status
		case now := <-tick.C:
			c.collector.ticked = now
			c.tick(now)
		case <-c.writer.wakes.C: // settle sends a cut out that has waited long enough for the disk, or has evidence written
		case <-c.backlog.more():
			c.work(time.Now())
		}
		c.settle(time.Now())
	}
}

// when is a channel that is read under a condition.
func when[T any](ch <-chan T, open bool) <-chan T {
	if open {
		return ch
	}
	return nil
}

func (c *Controller) deliver(ctx context.Context) func([]metrics.Evidence) {
	return func(evs []metrics.Evidence) {
		select {
		case c.evidence <- evs:
		case <-ctx.Done():
		}
	}
}

// step feeds one event to a service's state machine. A cut that it decides goes out when it is stored, or
// cutPatience later; everything else only when it is stored.
func (c *Controller) step(u *unit, e rollout.Event) ([]rollout.Record, error) {
	c.keepTime(time.Now())
	e = rollout.Plain(e)
	passed := u.passing
	if u.passing = c.passes(u, e); u.passing {
		return nil, nil
	}
	before, shadows := u.state, len(u.shadows)
	records, err := stepped(u, &before, e, &c.spare)
	if err != nil {
		return nil, err
	}
	if _, byHand := e.(rollout.Commanded); byHand {
		u.panicked = nil // a person has seen it, and the state machine took the command
	}
	decided := len(records) > 0 || u.state.Generation != before.Generation
	_, evidence := e.(rollout.Observed)
	u.passing = passed && evidence && !decided
	keeps := !decided && rollout.KeepsDecisions(e, &before, &u.state)
	u.kept = u.kept && keeps
	c.outdated(u)
	c.journalled(u, &before, e, records)
	if decided {
		c.decided(u, records)
	}
	switch {
	case promotes(records):
		u.cast(before, records)
	case u.follow(e):
		c.withdraw(u)
	case evidence && !decided:
		c.reuse(u, &before)
	}
	if u.state.Generation != before.Generation {
		c.findings.stir(u.state.Policy.Service)
	}
	if !keeps || shadows+len(u.shadows) > 0 { // else it is asked and looked at as before
		c.note(u)
	}
	if decided || shadows != len(u.shadows) {
		c.aim(u)
	}
	return records, nil
}

// outdated notes that a service is not as it was stored last: with each event, so the set is not asked.
func (c *Controller) outdated(u *unit) {
	if !u.stale {
		u.stale = true
		c.stale[u] = struct{}{}
	}
}

// reuse has the memory of what lives used again of a state that evidence was taken into, where only the loop has seen it.
// Events other than evidence leave judges as they are.
func (c *Controller) reuse(u *unit, before *rollout.State) {
	if !u.lent {
		c.spare.Return(before, &u.state)
	}
	u.lent = false // all that lives is new
}

// passes takes in a tick that changes nothing but the time, as nearly all do: nothing is copied for it.
func (c *Controller) passes(u *unit, e rollout.Event) bool {
	if u.scribe.w == nil || len(u.shadows) > 0 || !u.passes(e) {
		return false
	}
	c.outdated(u)
	c.journalled(u, &u.state, e, nil)
	return true
}

func (u *unit) passes(e rollout.Event) (passes bool) {
	defer func() { _ = recover() }() // the state machine stumbles over the same, which is told
	return u.state.Passes(e)
}

// stepped is rollout.Step of a service's state; a panic in it is an error of this service, which keeps its state as it was before.
func stepped(u *unit, before *rollout.State, e rollout.Event, spare *rollout.Spare) (records []rollout.Record, err error) {
	defer func() {
		if r := recover(); r != nil {
			u.state, u.panicked = *before, fmt.Errorf("a bug in canaryd, please report it: the state machine failed on %T: %v", e, r)
			records, err = nil, fmt.Errorf("%w\n%s", u.panicked, debug.Stack())
		}
	}()
	return u.state.Take(e, spare)
}

// decided numbers a decision and keeps its records until it is stored.
func (c *Controller) decided(u *unit, records []rollout.Record) {
	c.takes(u, records, u.falls(records), u.state.Stable)
}

// takes is decided, with what is taken from the Envoys whether it can be stored or not, and who gets it.
func (c *Controller) takes(u *unit, records []rollout.Record, falls []fall, heir string) {
	n := c.number(u, falls, heir)
	for _, r := range records {
		u.keep(n, entryOf(u, r), nil)
		c.say(r)
		if u.outcomes == nil {
			u.outcomes = map[rollout.Kind]int{}
		}
		u.outcomes[r.Kind]++
	}
}

// say writes a record to the log.
func (c *Controller) say(r rollout.Record) {
	c.Log.WithFields(logrus.Fields{"service": r.Service, "version": r.Version, "event": r.Kind, "by": r.By,
		"from": r.Before[r.Version], "to": r.After[r.Version]}).Info(r.Reason)
}

// number numbers a decision, which is to be stored.
func (c *Controller) number(u *unit, falls []fall, heir string) uint64 {
	now := time.Now()
	c.unsaved[u] = struct{}{}
	if len(falls) > 0 {
		c.cutting[u], c.cutAt = now, now
	}
	return u.outbox.Decide(now, falls, heir, c.writer.slow(now))
}

// note keeps the list of services that cost work, and tells the source and the prober.
func (c *Controller) note(u *unit) {
	name, busy := u.state.Policy.Service, u.busy()
	_, was := c.busy[name]
	if u.noted = busy; busy {
		c.busy[name] = u
	} else {
		delete(c.busy, name)
		u.next = nil
	}
	if was != busy {
		c.aim(u)
	}
	if was || busy {
		c.prober.set(name, u.looked())
	}
}

// observed takes in what is known of a service's requests.
func (c *Controller) observed(ev metrics.Evidence, now time.Time) {
	u := c.judged(ev.Service)
	if u == nil {
		c.observeAtRest(ev, now)
		return
	}
	u.rest, u.doubts, u.observedAt = restEvidence{}, ev.Warnings, now
	generation := u.state.Generation
	if shown := c.Hub.TakeExamples(ev.Service); len(shown) > 0 {
		c.must(u, rollout.Sampled{At: now, Failures: shown})
	}
	c.must(u, rollout.Observed{At: now, Cells: ev.Cells, Batch: ev.Batch, Missing: ev.Missing, Stuck: c.writer.err != nil || c.writer.slow(now)})
	for _, v := range u.state.Versions {
		if v.Verdict.At.Equal(now) {
			u.verdicts.add(v.Verdict.Outcome)
		}
	}
	if u.state.Generation != generation {
		u.decidedAt = now
	}
}

// must takes an event that cannot be refused.
func (c *Controller) must(u *unit, e rollout.Event) {
	if _, err := c.step(u, e); err != nil {
		c.Log.WithError(err).WithField("service", u.state.Policy.Service).Error("an event was refused")
	}
}

// changes takes in what the Hub has to say.
func (c *Controller) changes() {
	for _, st := range c.Hub.TakeChanges() {
		if u := c.units[st.Service]; u != nil {
			c.backlog.statuses = append(c.backlog.statuses, status{u, st})
		}
	}
	c.applySome(time.Now())
}

// applied takes in who has a service's table.
func (c *Controller) applied(u *unit, st *xds.Status, now time.Time) {
	c.lossy(st)
	u.fleet = *st
	for _, a := range st.Recalled {
		c.must(u, rollout.Recalled{At: now, Version: a.Version, Attempt: a.Number, ID: a.ID})
	}
	var refusing []string
	for _, r := range st.Refusals {
		refusing = append(refusing, r.Node)
		c.must(u, rollout.Rejected{At: now, Generation: st.Generation, Node: r.Node, Message: r.Message})
	}
	c.must(u, rollout.Applied{At: now, Generation: st.Generation, InForce: st.InForce, Subscribers: st.Subscribers, Lagging: st.Lagging,
		Otherwise: st.Otherwise, Refusing: refusing, Gone: st.Counts.Gone, Away: st.Away(), Crowds: st.Crowds, Restarted: st.Restarted})
	if st.InForce && st.Generation == u.state.Generation && !u.decidedAt.IsZero() {
		c.decisions.add(now.Sub(u.decidedAt))
		u.decidedAt = time.Time{}
	}
	if c.Fleet != nil { // what is in force decides which containers may be stopped
		c.aim(u)
	}
}

func (c *Controller) tick(now time.Time) {
	if len(c.backlog.ageing) == 0 { // else it is busy enough, and a checkpoint waits until no tick does
		c.begin(now)
	}
	c.lookAgain(now)
	if c.targets.turn(now) {
		c.look()
	}
	c.depart()
	c.publish(now, slices.Collect(maps.Keys(c.hidden))...)
}

// begin has time pass for services that are under judgement and, now and then, looks for what is to be stored of them.
func (c *Controller) begin(now time.Time) {
	busy := slices.AppendSeq(make(queue[*unit], 0, len(c.busy)), maps.Values(c.busy))
	if len(c.backlog.ticks) == 0 {
		c.backlog.ticks = busy
	}
	switch {
	case now.Sub(c.restedAt) >= restSaved: // seldom: what is at rest has to be fetched from memory to be looked at
		c.checkedAt, c.restedAt, c.backlog.ageing = now, now, slices.Collect(maps.Keys(c.stale))
	case now.Sub(c.checkedAt) >= checkpoint:
		c.checkedAt, c.backlog.ageing = now, busy
	}
}

// settle starts a write when there is something to store, and publishes cuts that the disk holds up.
func (c *Controller) settle(now time.Time) {
	c.write(now)
	wait := time.Hour
	if len(c.aged) > 0 && c.writer.agedAt.After(now) {
		wait = c.writer.agedAt.Sub(now)
	}
	var due []*unit
	for u, at := range c.cutting {
		switch {
		case at.After(now):
			wait = min(wait, at.Sub(now))
		case len(due) < pieceMost:
			due = append(due, u)
		default:
			wait = 0
		}
	}
	c.publish(now, due...)
	for _, u := range due {
		if c.cutting[u] = u.outbox.Due(now); c.cutting[u].IsZero() {
			delete(c.cutting, u)
		} else {
			wait = min(wait, c.cutting[u].Sub(now))
		}
	}
	c.writer.wakes.Reset(wait)
}

// publish gives the Hub what may be published of services, where that is not what it has. What the writer has made of
// the durable tables is used.
func (c *Controller) publish(now time.Time, us ...*unit) {
	var due []*unit
	var tables []xds.Prepared
	for _, u := range us {
		t, ok := u.outbox.Take(now)
		if !ok {
			continue
		}
		made := u.made
		if u.made = nil; made == nil || len(t.Unstored) > 0 || t.Generation == 0 || t.Generation != u.outbox.durable.Generation {
			p := c.Hub.Prepare(t)
			made = &p
		}
		due, tables = append(due, u), append(tables, *made)
	}
	if len(due) == 0 {
		return
	}
	for i, err := range c.Hub.Publish(tables...) {
		c.published(due[i], err)
	}
	c.woke = true
}

func (c *Controller) published(u *unit, err error) {
	log := c.Log.WithField("service", u.state.Policy.Service)
	if err != nil {
		u.outbox.Returned()
		c.hidden[u] = struct{}{}
		if u.publishes == nil {
			log.WithError(err).Error("the new weights cannot be published: the Envoys keep those from before")
		}
	} else {
		delete(c.hidden, u)
	}
	u.publishes = err
	if err == nil && u.outbox.Early() {
		log.Warn("a rollback was sent out before it was stored: the disk is slow or full")
	}
}

// do runs a function in the loop and waits for it.
func (c *Controller) do(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case c.calls <- func() { f(); close(done) }:
		<-done
		return nil
	case <-ctx.Done():
		return errors.Join(errors.New("canaryd is stopping or busy"), ctx.Err())
	}
}

// sourceName is what `metrics.source` says.
func (o *Options) sourceName() string {
	if o.Ask != nil {
		return policy.SourceEnvoy
	}
	return policy.SourcePrometheus
}
