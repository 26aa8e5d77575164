package controller

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// firstReadWithin is how long start-up waits for the policy files; the loop goes on without them.
const firstReadWithin = 5 * time.Second

// Reload reads the policies again, and returns when what it changed is stored. When anything is wrong nothing
// changes, and the error says what.
func (c *Controller) Reload(ctx context.Context, by string) error {
	stored, err := c.reload(ctx, by)
	if err != nil {
		return err
	}
	late := time.After(writeHangs)
	for _, s := range stored {
		select {
		case <-s:
		case <-late:
			_ = c.do(ctx, func() { // a loop that has ended keeps nothing
				for _, u := range c.units {
					for _, s := range stored {
						u.forget(s)
					}
				}
			})
			return &NotStoredError{What: "the reload", Why: c.whyNotStored(ctx)}
		}
	}
	return nil
}

// reload returns a channel for each service of which something is not stored, by this reload or from before: it is
// closed when that is.
func (c *Controller) reload(ctx context.Context, by string) (stored []<-chan struct{}, err error) {
	if err := c.policies.take(ctx); err != nil {
		return nil, err
	}
	defer c.policies.release()
	set, err := c.policies.read()
	doErr := c.do(ctx, func() {
		if err = c.reloaded(set, err, by); err != nil {
			return
		}
		for _, u := range c.units {
			if u.outbox.Unstored() {
				stored = append(stored, u.whenStored())
			}
		}
	})
	if doErr != nil {
		c.policies.forget() // nobody took the reading in: the next look is to find the files changed
	}
	return stored, cmp.Or(doErr, err)
}

// firstReload takes the policies in before anything is served. What is wrong with them keeps nobody from
// being served as before. A reading that comes late keeps its turn until the loop has taken it in: it must not
// undo a newer one.
func (c *Controller) firstReload() {
	c.policies.turn <- struct{}{} // nobody else has it yet
	done := make(chan reading, 1)
	go func() {
		set, err := c.policies.read()
		done <- reading{set, err}
	}()
	var err error
	select {
	case r := <-done:
		err = c.firstRead(r)
	case <-time.After(firstReadWithin):
		c.lateReading = done
		err = fmt.Errorf("the policy files have not been read within %s: does their file system answer?", firstReadWithin)
		c.reloadErr = err
	}
	if err != nil {
		c.Log.WithError(err).WithField("services", len(c.units)).Error("starting on what is stored")
	}
}

// firstRead takes the first reading in.
func (c *Controller) firstRead(r reading) error {
	defer c.policies.release()
	return c.reloaded(r.set, r.err, "start")
}

// reading is how a reading of the policy files ended.
type reading struct {
	set policySet
	err error
}

// reloaded takes in what a reading of the files brought. Services whose document is the same hear nothing.
func (c *Controller) reloaded(set policySet, err error, by string) error {
	if err == nil {
		err = c.besideOrphans(set)
	}
	c.reloadErr = err
	if err != nil {
		return fmt.Errorf("the policies were not reloaded, the running ones are untouched:\n%w", err)
	}
	c.reloadedAt = time.Now()
	here := map[string]bool{}
	for _, d := range set.docs {
		here[d.Policy.Service] = true
		c.adopt(d, set.origins[filepath.Dir(d.File)], by)
	}
	for name, u := range c.units {
		if !here[name] && !u.state.Orphaned {
			c.must(u, rollout.Orphaned{At: c.reloadedAt})
		}
	}
	if len(set.docs) == 0 {
		c.Log.WithField("policies", c.policies.globs).Warn("0 services: no file with a policy is named in `policies`; paths are relative to canaryd.yml")
	}
	c.set = set
	c.reconcileAll()
	return nil
}

// besideOrphans finds policies that would take requests from services that have none any more.
func (c *Controller) besideOrphans(set policySet) error {
	here := map[string]bool{}
	for _, d := range set.docs {
		here[d.Policy.Service] = true
	}
	var kept []*policy.Policy
	for name, u := range c.units {
		if !here[name] {
			kept = append(kept, &u.state.Policy)
		}
	}
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
func (c *Controller) adopt(d policy.Document, o origin, by string) {
	name := d.Policy.Service
	if c.unreadable[name] != nil {
		return // to begin anew would send everybody to what the policy's `versions` says
	}
	u := c.units[name]
	if u == nil {
		u = c.successor(name)
		c.units[name] = u
		c.Hub.Hold(name)
	}
	u.origin = o
	same := d.Hash == u.state.PolicyHash && !u.state.Orphaned
	if same && !u.adopted { // the release of canaryd that stored it may have read the text otherwise
		same = reflect.DeepEqual(d.Policy, u.state.Policy)
	}
	if u.removing {
		return
	}
	if u.adopted = true; same {
		return
	}
	u.text = d.Text
	c.must(u, rollout.PolicyChanged{At: time.Now(), Policy: d.Policy, Hash: d.Hash, Secret: rand.Text(), By: by})
	if u.state.Policy.Service == "" { // a defect: its first step failed, and nothing without a name may be stored
		delete(c.units, name)
		c.unreadable[name] = cmp.Or(u.panicked, errors.New("its policy could not be taken in"))
	}
}

// WatchFiles reloads when the policy files change.
func (c *Controller) WatchFiles(ctx context.Context, every time.Duration) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if c.filesChanged(ctx) {
			if err := c.Reload(ctx, "file change"); err != nil && ctx.Err() == nil {
				c.Log.WithError(err).Error("reload after a file change failed")
			}
		}
	}
}

func (c *Controller) filesChanged(ctx context.Context) bool {
	if c.policies.take(ctx) != nil {
		return false
	}
	defer c.policies.release()
	return c.policies.changed(time.Now())
}
