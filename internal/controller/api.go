package controller

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/xds"
)

// UnknownError says that a service or a version does not exist.
type UnknownError struct{ Message string }

func (e *UnknownError) Error() string { return e.Message }

func (c *Controller) unknownService(name string) error {
	return &UnknownError{fmt.Sprintf("there is no service %s: `canaryd status` lists them; a service exists when a policy names it", name)}
}

// NotStoredError says that something was decided and is not durable: it is carried out when the disk
// answers.
type NotStoredError struct {
	What, Why string
	Unless    string // what may come in between
}

func (e *NotStoredError) Error() string {
	return fmt.Sprintf("%s is decided but not stored yet (%s): it takes effect when it is stored%s; `abort` of a version that has traffic does not wait for the disk", e.What, e.Why, e.Unless)
}

// Service is a snapshot of one service.
type Service struct {
	Name       string
	State      rollout.State
	Stored     bool       // what was decided is durable
	Storing    error      // why nothing is being stored
	Policies   error      // why the policies were not reloaded
	Publishing error      // why its table is not what the Envoys get
	Defect     error      // of canaryd: its state machine stumbled, or its state cannot be encoded
	Unreadable error      // why its stored state cannot be used: State is empty then
	Fleet      xds.Status // who has the table, and who does not
	Conflict   string     // between those who say where a version runs
	Doubts     []string   // about the evidence, while there is something to judge

	Dropped  []metrics.Dropped    // by circuit breakers
	Verdicts Verdicts             // since canaryd began
	Outcomes map[rollout.Kind]int // records since then
}

// Services are snapshots of the services whose names come after one and that are wanted (nil: all), in order. Whether one is
// wanted is asked in the loop. The loop is asked for some at a time, so they are of different moments; an error is the last that
// there is.
func (c *Controller) Services(ctx context.Context, after string, wanted func(*Present) bool) iter.Seq2[Service, error] {
	return func(yield func(Service, error) bool) {
		for last, more := after, true; more; {
			var piece []Service
			if err := c.do(ctx, func() { piece, last, more = c.some(last, wanted) }); err != nil {
				yield(Service{}, err)
				return
			}
			for _, s := range piece {
				if !yield(s, nil) {
					return
				}
			}
		}
	}
}

// looksMost is how many services are looked at for those that are wanted in one piece, and for no longer than pieceFor: what is asked of
// each is up to who wants to know.
const looksMost = 16 * pieceMost

// some are the snapshots of the next services that are wanted, the name of the last one that was looked at, and whether
// there are more.
func (c *Controller) some(after string, wanted func(*Present) bool) (out []Service, last string, more bool) {
	names := c.targets.after(after)
	if more = len(names) > looksMost; more {
		names = names[:looksMost]
	}
	p, begun := Present{c: c}, time.Now()
	for i, name := range names {
		if len(out) == pieceMost || i > 0 && time.Since(begun) >= pieceFor {
			more = true
			break
		}
		if u := c.units[name]; wanted == nil || wanted(p.of(u)) {
			out = append(out, c.snapshot(u))
		}
		last = name
	}
	for name := range c.unreadable {
		if name > after && (name < last || !more) && (wanted == nil || wanted(p.unread(name))) {
			out = append(out, c.unread(name))
		}
	}
	slices.SortFunc(out, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	return out, last, more
}

// Ready returns when the loop answers.
func (c *Controller) Ready(ctx context.Context) error { return c.do(ctx, func() {}) }

// Service returns a snapshot of one service.
func (c *Controller) Service(ctx context.Context, name string) (Service, error) {
	var out Service
	var err error
	if doErr := c.do(ctx, func() {
		switch u := c.units[name]; {
		case u != nil:
			out = c.snapshot(u)
		case c.unreadable[name] != nil:
			out = c.unread(name)
		default:
			err = c.unknownService(name)
		}
	}); doErr != nil {
		return out, doErr
	}
	return out, err
}

// snapshot is safe to read outside the loop: Step never changes a state that it returned.
func (c *Controller) snapshot(u *unit) Service {
	s := c.see(u)
	s.State, s.Outcomes = u.lend(), maps.Clone(u.outcomes)
	return s
}

// see is a snapshot that is good until the loop goes on: nothing is copied or lent for it.
func (c *Controller) see(u *unit) Service {
	s := Service{Name: u.state.Policy.Service, State: u.state, Stored: !u.outbox.Unstored(), Storing: c.writer.trouble(time.Now()), Policies: c.reloadErr,
		Publishing: u.publishes, Defect: cmp.Or(u.encodes, u.panicked), Fleet: u.fleet, Conflict: c.contradiction(u), Dropped: c.Source.Dropped(u.state.Policy.Service), Verdicts: u.verdicts, Outcomes: u.outcomes}
	if u.state.Busy() {
		s.Doubts = u.doubts
	}
	return s
}

// Verdicts are numbers of judgements by outcome.
type Verdicts struct{ Pass, Fail, Wait int }

func (v *Verdicts) add(o analysis.Outcome) {
	switch o {
	case analysis.Pass:
		v.Pass++
	case analysis.Fail:
		v.Fail++
	case analysis.Wait:
		v.Wait++
	}
}

func (c *Controller) unread(name string) Service {
	return Service{Name: name, Policies: c.reloadErr, Unreadable: c.unreadable[name]}
}

// unit finds a service that takes commands; one that is being removed takes none but to cut what it still
// serves.
func (c *Controller) unit(name string, cut bool) (*unit, error) {
	u := c.units[name]
	switch {
	case c.unreadable[name] != nil:
		return nil, &rollout.Refusal{Message: fmt.Sprintf("the stored state of %s cannot be read (%v): restore a copy of the database, or remove the service and begin anew", name, c.unreadable[name])}
	case u == nil:
		return nil, c.unknownService(name)
	case u.removing && !cut:
		return nil, &rollout.Refusal{Message: fmt.Sprintf("service %s is being removed", name)}
	}
	return u, nil
}

// Announce says that a version exists; known reports that it did before, and that no new attempt of it began.
func (c *Controller) Announce(ctx context.Context, service string, e rollout.Announced) (s Service, known bool, err error) {
	e.At, e.Secret = time.Now(), rand.Text()
	stored, err := c.decide(ctx, func() (*unit, error) {
		u, err := c.unit(service, false)
		if err != nil {
			return nil, err
		}
		if known, err = c.announce(u, e); err == nil {
			s = c.snapshot(u)
		}
		return u, err
	})
	if err == nil && !stored {
		err = &NotStoredError{What: "the announcement of " + e.Version, Why: c.whyNotStored(ctx)}
	}
	return s, known, err
}

func (c *Controller) announce(u *unit, e rollout.Announced) (known bool, err error) {
	before := u.state.Version(e.Version)
	if e.Image != "" && c.Fleet == nil {
		return false, &rollout.Refusal{Message: "canaryd has no Docker to start " + e.Image + " with: write `docker: {host: unix:///var/run/docker.sock}` in canaryd.yml, or announce endpoints"}
	}
	if d := u.state.Policy.Docker; d != nil && e.Image != "" {
		e.Image = d.Reference(e.Image)
		if err := c.Fleet.Refuse(d, e.Image); err != nil {
			return before != nil, &rollout.Refusal{Message: err.Error()}
		}
	}
	if e.Image == "" && (before == nil || len(e.Endpoints) > 0) {
		if err := policy.EndpointList(e.Endpoints); err != nil {
			return before != nil, &rollout.Refusal{Message: fmt.Sprintf("version %s: %v", e.Version, err)}
		}
	}
	_, err = c.step(u, e)
	after := u.state.Version(e.Version)
	return before != nil && after != nil && after.Attempt == before.Attempt, err
}

// Command carries out promote, abort, pause or resume. Without a version it means the only canary. An
// abort, and a return to an older version that the Envoys have, are carried out whether they can be stored or
// not, and Stored says so; the others are refused with a NotStoredError then.
func (c *Controller) Command(ctx context.Context, service string, e rollout.Commanded) (Service, string, error) {
	s, err := c.Service(ctx, service)
	if err != nil {
		return s, "", err
	}
	if e.Version == "" && s.Unreadable == nil {
		if e.Version, err = s.State.Only(e.Verb); err != nil {
			return s, "", err
		}
	}
	var unless string
	if v := s.State.Version(e.Version); v != nil && e.Verb == "promote" {
		e.Reachable = reachable(ctx, &s.State, v)
		if v.Phase.Waiting() && s.State.Weight(v.Name) > 0 {
			unless = ", unless it fails before: it is judged as long as the Envoys have it as a canary"
		}
	}
	cuts := e.Verb == "abort"
	stored, err := c.decide(ctx, func() (*unit, error) {
		u, err := c.unit(service, cuts)
		if err != nil {
			return nil, err
		}
		returns, err := c.command(u, e)
		if err != nil {
			return nil, err
		}
		cuts = cuts || returns
		s = c.snapshot(u)
		return u, nil
	})
	s.Stored = stored
	if err == nil && e.Verb == "promote" {
		err = c.withdrawn(ctx, service, e.Version)
	}
	if err == nil && !stored && !cuts {
		err = &NotStoredError{fmt.Sprintf("%s of %s", e.Verb, e.Version), c.whyNotStored(ctx), unless}
	}
	return s, e.Version, err
}

// command carries a command out, and reports whether it is a return to a version that the Envoys have.
func (c *Controller) command(u *unit, e rollout.Commanded) (returns bool, err error) {
	if e.Verb == "abort" && !e.Tested {
		if taken, err := c.takeAway(u, e.Version, e.By); taken || err != nil {
			return false, err
		}
	}
	e.At = time.Now()
	records, err := c.step(u, e)
	if err != nil {
		return false, c.honest(u, err)
	}
	if e.Verb == "resume" { // what was refused may be accepted now
		c.Hub.Retry(u.state.Policy.Service)
	}
	return u.returns(records), nil
}

// withdrawn says that a version that was promoted a moment ago was cut, or is judged again.
func (c *Controller) withdrawn(ctx context.Context, service, version string) error {
	s, err := c.Service(ctx, service)
	if err != nil {
		return nil // a loop that has ended says nothing
	}
	v := s.State.Version(version)
	switch {
	case v == nil || v.Wanted != "":
		return nil
	case v.Cut():
		return &rollout.Refusal{Message: fmt.Sprintf("version %s was promoted, and is %s since: %s; promote it all the same with --even-failed", version, v.Phase, v.Verdict.Reason)}
	case v.Phase.Waiting():
		return &rollout.Refusal{Message: fmt.Sprintf("version %s was promoted, and is %s again: %s", version, v.Phase, v.Verdict.Reason)}
	}
	return nil
}

// honest has a refusal say that what it rests on, such as that a version is stable already, is not durable.
func (c *Controller) honest(u *unit, err error) error {
	var r *rollout.Refusal
	if !u.outbox.Unstored() || !errors.As(err, &r) {
		return err
	}
	said := *r
	said.Message += "; this rests on what is decided and not stored yet"
	if why := c.writer.trouble(time.Now()); why != nil {
		said.Message += " (" + why.Error() + ")"
	}
	return &said
}

// decide runs a function in the loop that decides something about a service, and waits for two seconds at
// most until that is on disk.
func (c *Controller) decide(ctx context.Context, f func() (*unit, error)) (stored bool, err error) {
	var r *receipt
	doErr := c.do(ctx, func() {
		var u *unit
		if u, err = f(); err == nil {
			r = receiptFor(u)
		}
	})
	if err = cmp.Or(doErr, err); err != nil {
		return false, err
	}
	return c.await(ctx, r), nil
}

// await waits until what was decided is on disk, of several services for as long as one after the other is stored: two seconds without
// any are a disk that hangs.
func (c *Controller) await(ctx context.Context, r *receipt) (stored bool) {
	for {
		select {
		case <-r.stored:
			return true
		case <-r.some:
		case <-time.After(writeHangs):
			_ = c.do(ctx, r.drop) // a loop that has ended keeps nothing
			return false
		}
	}
}

// whyNotStored is what keeps decisions from being stored, for a person.
func (c *Controller) whyNotStored(ctx context.Context) string {
	why := "the disk is slow"
	_ = c.do(ctx, func() { // a loop that has ended says nothing
		if err := c.writer.trouble(time.Now()); err != nil {
			why = err.Error()
		}
	})
	return why
}

// Delete removes an orphaned service, or one whose stored state cannot be read.
func (c *Controller) Delete(ctx context.Context, service, by string) error {
	stored, err := c.decide(ctx, func() (*unit, error) {
		u := c.units[service]
		switch {
		case c.unreadable[service] != nil:
			u = newUnit(rollout.State{})
			u.state.Policy.Service, u.state.Orphaned = service, true
			c.units[service] = u
			delete(c.unreadable, service)
		case u == nil:
			return nil, c.unknownService(service)
		case !u.state.Orphaned:
			return nil, &rollout.Refusal{Message: fmt.Sprintf("service %s still has a policy: remove the policy first", service)}
		}
		return u, c.remove(u, by)
	})
	if err == nil && !stored {
		err = &NotStoredError{What: "the removal of " + service, Why: c.whyNotStored(ctx)}
	}
	return err
}

// remove decides that a service goes. Its Envoys keep it until that is stored.
func (c *Controller) remove(u *unit, by string) error {
	u.removing = true
	_, err := c.step(u, rollout.Removing{At: time.Now(), By: by})
	return err
}

// Figures are for the metrics, beside those of each service.
type Figures struct {
	Decisions  []time.Duration // since the last call
	ReloadOK   bool
	ReloadedAt time.Time
	StoreError error
	Hub        xds.Figures
}

// Figures returns the present ones.
func (c *Controller) Figures(ctx context.Context) (Figures, error) {
	f := Figures{Hub: c.Hub.Figures()}
	err := c.do(ctx, func() {
		f.Decisions = c.decisions.take()
		f.ReloadOK, f.ReloadedAt, f.StoreError = c.reloadErr == nil, c.reloadedAt, c.writer.trouble(time.Now())
	})
	return f, err
}
