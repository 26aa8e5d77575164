// Package controller is the shell: one loop that feeds events to the state machine, stores what it
// decides, and then tells the Envoys.
package controller

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/registry"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
	"github.com/canaryd/canaryd/internal/xds"
)

const (
	tickEvery   = time.Second
	checkpoint  = 5 * time.Second
	cutPatience = 100 * time.Millisecond // how long a cut waits for the disk
	restBatch   = 10 * time.Second       // evidence of services at rest is gathered for so long
	restSaved   = 5 * time.Minute        // and what was learnt from it is stored so often
)

// Options are what the loop works with.
type Options struct {
	Log    logrus.FieldLogger
	Store  *store.Bolt
	Hub    *xds.Hub
	Source metrics.Source
	// Ask says which clusters the Envoys are to report; nil when load reports are not the source.
	Ask func(clusters []string)
	// Fleet runs versions as containers; nil where there is no Docker.
	Fleet *docker.Fleet
	// Found tells of versions that others run; nil where nobody looks.
	Found chan []registry.Found
	// Policies are the globs of policy files.
	Policies []string
}

// Controller is the loop and what it owns. Everything in it is touched by the loop only.
type Controller struct {
	Options
	units    map[string]*unit
	busy     map[string]*unit
	unsaved  map[string]*unit // to be stored
	cutting  map[string]*unit // with a cut that is not published yet
	leaving  []docker.Want    // containers of services that were deleted
	labelled chan []docker.Labelled
	moved    bool // what is compared may have changed
	calls    chan func()
	evidence chan []metrics.Evidence
	probes   chan rollout.Probed
	stored   chan saved
	prober   *prober
	history  *broadcast

	writing    bool
	storeErr   error
	retryAt    time.Time
	checkedAt  time.Time
	restedAt   time.Time
	turnedAt   time.Time
	restFirst  int // which services at rest are looked at
	reloadErr  error
	reloadedAt time.Time
	decisions  durations

	labelledNow map[string]bool      // versions whose labelled containers run; nil: not known yet
	goneSince   map[string]time.Time // of those whose do not

	rest *time.Timer // wakes the loop for a cut that waits for the disk
}

// unit is one service in the loop.
type unit struct {
	state     rollout.State
	text      string // of the policy
	origin    origin
	stale     bool // changed since the last checkpoint, without a decision
	rest      restEvidence
	pending   []Entry
	published rollout.Table
	cut       []string // cut and not published yet
	cutAt     time.Time
	decidedAt time.Time // evidence read for the table that is on its way
	verdicts  map[string]int
	seq, told uint64 // decisions taken, and stored
	waiting   []waiter
	conflicts map[[2]string]string // what origins (version, origin) do not agree on
}

// waiter is a command that answers when its decision is stored.
type waiter struct {
	seq    uint64
	stored chan struct{}
}

type saved struct {
	tables  map[string]rollout.Table
	entries map[string]int
	seqs    map[string]uint64
	err     error
}

// New loads the stored state and publishes it, so that the first Envoy already gets the right table.
func New(o Options) (*Controller, error) {
	c := &Controller{
		Options: o, units: map[string]*unit{}, busy: map[string]*unit{}, unsaved: map[string]*unit{}, cutting: map[string]*unit{}, calls: make(chan func()),
		evidence: make(chan []metrics.Evidence), probes: make(chan rollout.Probed, 64), stored: make(chan saved, 1),
		labelled: make(chan []docker.Labelled), goneSince: map[string]time.Time{}, history: newBroadcast(), rest: time.NewTimer(time.Hour),
	}
	c.prober = newProber(c.probes)
	states, err := o.Store.States()
	if err != nil {
		return nil, fmt.Errorf("load the stored state: %w", err)
	}
	now := time.Now()
	for name, raw := range states {
		s, lost, err := rollout.DecodeState(raw)
		if err != nil {
			return nil, fmt.Errorf("stored state of %s: %w", name, err)
		}
		for _, what := range lost {
			o.Log.WithField("service", name).Warn("evidence could not be read and is gathered anew: " + what)
		}
		u := &unit{state: rollout.Resume(s, now), verdicts: map[string]int{}}
		if u.text, err = o.Store.Policy(s.PolicyHash); err != nil {
			return nil, fmt.Errorf("stored policy of %s: %w", name, err)
		}
		c.units[name] = u
		c.publish(u, u.state.Table())
		c.note(u)
	}
	if err := c.reload(now, "start"); err != nil {
		return nil, err
	}
	return c, c.saveNow()
}

// saveNow writes what start-up decided before anything is served.
func (c *Controller) saveNow() error {
	batch, result := c.collect()
	if len(batch) == 0 {
		return nil
	}
	if result.err = c.Store.Save(batch); result.err != nil {
		return result.err
	}
	c.settleSaved(result)
	return nil
}

// Run is the loop. It ends with ctx, after the last state is stored.
func (c *Controller) Run(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	go c.prober.run(ctx)
	var launches <-chan docker.Event
	if c.Fleet != nil {
		launches = c.Fleet.Events()
	}
	sourceDone := make(chan error, 1)
	go func() { sourceDone <- c.Source.Run(ctx, c.deliver(ctx)) }()
	c.retarget()
	for {
		select {
		case <-ctx.Done():
			c.stop()
			return nil
		case err := <-sourceDone:
			if ctx.Err() == nil {
				return fmt.Errorf("the source of evidence ended: %w", err)
			}
		case call := <-c.calls:
			call()
		case evs := <-c.evidence:
			c.observe(evs)
		case <-c.Hub.Changes():
			c.applied()
		case e := <-c.probes:
			c.probed(e)
		case e := <-launches:
			c.launched(e)
		case ls := <-c.labelled:
			c.labels(ls)
		case found := <-c.Found:
			c.found(found)
		case result := <-c.stored:
			c.writing = false
			c.settleSaved(result)
		case now := <-tick.C:
			c.tick(now)
		case <-c.rest.C:
		}
		c.settle(time.Now())
	}
}

func (c *Controller) deliver(ctx context.Context) func([]metrics.Evidence) {
	return func(evs []metrics.Evidence) {
		select {
		case c.evidence <- evs:
		case <-ctx.Done():
		}
	}
}

// stop stores the last checkpoint.
func (c *Controller) stop() {
	if c.writing {
		c.settleSaved(<-c.stored)
	}
	for name, u := range c.units {
		if u.stale {
			c.unsaved[name] = u
		}
	}
	if err := c.saveNow(); err != nil {
		c.Log.WithError(err).Error("the last checkpoint was not stored")
	}
}

// step feeds one event to a service's state machine.
func (c *Controller) step(u *unit, e rollout.Event) ([]rollout.Record, error) {
	generation := u.state.Generation
	next, records, err := rollout.Step(u.state, e)
	if err != nil {
		return nil, err
	}
	u.state, u.stale = next, true
	name := u.state.Policy.Service
	if len(records) > 0 || next.Generation != generation {
		c.unsaved[name], c.moved = u, true
		u.seq++
	}
	for _, r := range records {
		u.pending = append(u.pending, c.entry(u, r))
		if r.Kind.Cut() {
			u.cut = append(u.cut, r.Version)
			c.cutting[name] = u
			if u.cutAt.IsZero() {
				u.cutAt = time.Now().Add(cutPatience)
			}
		}
		c.Log.WithFields(logrus.Fields{"service": r.Service, "version": r.Version, "event": r.Kind, "by": r.By,
			"from": r.Before[r.Version], "to": r.After[r.Version]}).Info(r.Reason)
	}
	c.note(u)
	return records, nil
}

// note keeps the list of services that cost work, and tells the source and the prober.
func (c *Controller) note(u *unit) {
	name := u.state.Policy.Service
	_, was := c.busy[name]
	c.moved = c.moved || was != u.state.Busy()
	if u.state.Busy() {
		c.busy[name] = u
	} else {
		delete(c.busy, name)
	}
	if was || u.state.Busy() {
		c.prober.set(name, u.state)
	}
}

func (c *Controller) observe(evs []metrics.Evidence) {
	now := time.Now()
	for _, ev := range evs {
		u := c.busy[ev.Service]
		if u == nil {
			c.observeAtRest(ev, now)
			continue
		}
		u.rest = restEvidence{}
		generation := u.state.Generation
		c.must(u, rollout.Observed{At: now, Cells: ev.Cells, Batch: ev.Batch, Missing: ev.Missing})
		for _, v := range u.state.Versions {
			if v.Verdict.At.Equal(now) {
				u.verdicts[string(v.Verdict.Outcome)]++
			}
		}
		if u.state.Generation != generation {
			u.decidedAt = now
		}
	}
}

// must takes an event that cannot be refused.
func (c *Controller) must(u *unit, e rollout.Event) {
	if _, err := c.step(u, e); err != nil {
		c.Log.WithError(err).WithField("service", u.state.Policy.Service).Error("an event was refused")
	}
}

func (c *Controller) applied() {
	now := time.Now()
	for _, st := range c.Hub.TakeChanges() {
		u := c.units[st.Service]
		if u == nil {
			continue
		}
		c.moved = c.moved || c.Fleet != nil // what is in force decides which containers may be stopped
		for _, r := range st.Refusals {
			c.must(u, rollout.Rejected{At: now, Generation: st.Generation, Node: r.Node, Message: r.Message})
		}
		c.must(u, rollout.Applied{At: now, Generation: st.Generation, InForce: st.InForce, Subscribers: st.Subscribers, Lagging: st.Lagging})
		if st.InForce && st.Generation == u.state.Generation && !u.decidedAt.IsZero() {
			c.decisions.add(now.Sub(u.decidedAt))
			u.decidedAt = time.Time{}
		}
	}
}

func (c *Controller) probed(e rollout.Probed) {
	service, version, _ := xds.SplitCluster(e.Version)
	if u := c.units[service]; u != nil {
		e.Version = version
		c.must(u, e)
	}
}

func (c *Controller) tick(now time.Time) {
	for _, u := range c.busy {
		c.must(u, rollout.Tick{At: now})
	}
	if now.Sub(c.checkedAt) >= checkpoint {
		c.checkedAt = now
		for name, u := range c.busy {
			if u.stale {
				c.unsaved[name] = u
			}
		}
	}
	c.leave(now)
	c.nextTurn(now)
	if now.Sub(c.restedAt) >= restSaved {
		c.restedAt = now
		for name, u := range c.units {
			if u.stale {
				c.unsaved[name] = u
			}
		}
	}
}

// settle starts a write when there is something to store, publishes cuts that the disk holds up, and
// tells the source what to look at.
func (c *Controller) settle(now time.Time) {
	if !c.writing && !now.Before(c.retryAt) {
		if batch, result := c.collect(); len(batch) > 0 {
			c.writing = true
			go func() {
				result.err = c.Store.Save(batch)
				c.stored <- result
			}()
		}
	}
	wait := time.Hour
	for name, u := range c.cutting {
		if u.cutAt.IsZero() {
			delete(c.cutting, name)
			continue
		}
		if left := u.cutAt.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		c.cutUnsaved(u)
	}
	c.rest.Reset(wait)
	if c.moved {
		c.retarget()
	}
}

// cutUnsaved takes the failed versions out of the table that the Envoys have, because the newer one
// is not on disk yet.
func (c *Controller) cutUnsaved(u *unit) {
	t := u.published.Without(u.cut, u.state.Stable)
	t.Generation = 0 // what is in force is not the stored decision
	u.cutAt = time.Time{}
	c.publish(u, t)
	c.Log.WithField("service", u.state.Policy.Service).Warn("a cut went out before it was stored: the disk is slow or full")
}

// collect gathers what is to be stored, with the tables to publish afterwards.
func (c *Controller) collect() ([]store.Write, saved) {
	result := saved{tables: map[string]rollout.Table{}, entries: map[string]int{}, seqs: map[string]uint64{}}
	var batch []store.Write
	defer clear(c.unsaved)
	for name, u := range c.unsaved {
		raw, err := rollout.EncodeState(u.state)
		if err != nil {
			c.Log.WithError(err).WithField("service", name).Error("the state cannot be encoded")
			continue
		}
		w := store.Write{Service: name, State: raw, PolicyHash: u.state.PolicyHash, PolicyText: u.text}
		for _, e := range u.pending {
			line, err := json.Marshal(e)
			if err == nil {
				w.Records = append(w.Records, line)
			}
		}
		u.stale = false
		result.entries[name], result.seqs[name] = len(u.pending), u.seq
		s := u.state // the table of this very state
		result.tables[name] = s.Table()
		batch = append(batch, w)
	}
	return batch, result
}

// settleSaved publishes what is durable now; on an error everything is tried again in a second.
func (c *Controller) settleSaved(r saved) {
	if r.err != nil {
		if c.storeErr == nil {
			c.Log.WithError(r.err).Error("the state cannot be stored: no weight is raised until it can; cuts still go out; the history is not being written")
		}
		c.storeErr, c.retryAt = r.err, time.Now().Add(time.Second)
		for name := range r.tables {
			if u := c.units[name]; u != nil {
				c.unsaved[name] = u
			}
		}
		return
	}
	if c.storeErr != nil {
		c.Log.Info("the state is being stored again")
	}
	c.storeErr, c.retryAt = nil, time.Time{}
	for name, t := range r.tables {
		u := c.units[name]
		if u == nil {
			continue
		}
		u.pending = slices.Delete(u.pending, 0, r.entries[name])
		u.told = r.seqs[name]
		u.tell(u.told)
		if t.Generation != u.published.Generation || u.published.Policy == nil {
			c.publish(u, t)
		}
		if t.Generation == u.state.Generation {
			u.cut, u.cutAt = nil, time.Time{}
		}
	}
}

// whenStored returns a channel that is closed when the decisions taken so far are stored.
func (u *unit) whenStored() <-chan struct{} {
	w := waiter{u.seq, make(chan struct{})}
	u.waiting = append(u.waiting, w)
	if u.told >= u.seq {
		u.tell(u.seq)
	}
	return w.stored
}

func (u *unit) tell(seq uint64) {
	u.waiting = slices.DeleteFunc(u.waiting, func(w waiter) bool {
		if w.seq <= seq {
			close(w.stored)
		}
		return w.seq <= seq
	})
}

func (c *Controller) publish(u *unit, t rollout.Table) {
	if err := c.Hub.Publish(t); err != nil {
		c.Log.WithError(err).Error("a table cannot be published")
		return
	}
	u.published = t
}

// retarget tells the source, and the Envoys, which versions are being compared.
func (c *Controller) retarget() {
	var targets []metrics.Target
	var clusters []string
	c.moved = false
	resting := c.resting()
	for name, u := range c.units {
		if !u.state.Busy() && !resting[name] {
			continue
		}
		t := metrics.Target{Service: name, Stable: u.state.Stable, Queries: u.state.Policy.Judge.Queries, AtRest: !u.state.Busy(), Statuses: u.state.Policy.GRPCStatuses()}
		for _, v := range u.state.Versions {
			if v.Phase.Judged() || v.Phase == rollout.Warm || v.Phase == rollout.Stable || v.Phase == rollout.Draining {
				t.Versions = append(t.Versions, v.Name)
				clusters = append(clusters, xds.ClusterName(name, v.Name))
			}
		}
		if t.Stable != "" && len(t.Versions) > 0 {
			targets = append(targets, t)
		}
	}
	c.wantContainers()
	slices.SortFunc(targets, func(a, b metrics.Target) int { return cmp.Compare(a.Service, b.Service) })
	c.Source.Watch(targets)
	if c.Ask != nil {
		c.Ask(clusters)
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
