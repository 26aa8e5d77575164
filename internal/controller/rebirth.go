package controller

import (
	"crypto/rand"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// A service may be removed, and its policy be there all the same: it begins anew. Both are one write, so that at any
// moment the Envoys have a service that is judged: the old one until the new one is stored.

// document is what the policies say of a service; nil: nothing.
func (c *Controller) document(service string) *policy.Document {
	i, ok := c.set.place[service]
	if !ok {
		return nil
	}
	return &c.set.docs[i]
}

// rebirth adds to the write that removes a service its beginning anew, where its policy is there.
func (c *Controller) rebirth(j job) job {
	if !j.remove {
		return j
	}
	d := c.document(j.write.Service)
	if d == nil {
		return j
	}
	u := newUnit(j.remains.Successor())
	u.origin, u.text, u.adopted = c.set.origin(d), d.Shown, true
	records, err := stepped(u, rollout.PolicyChanged{At: time.Now(), Policy: d.Policy, Hash: d.Hash, Secret: rand.Text(), By: "the policy is back"}, nil)
	if err != nil {
		c.Log.WithError(err).WithField("service", d.Policy.Service).Error("a service that was removed does not begin anew")
		j.u.panicked = err
		return j
	}
	decision := u.outbox.Decide(time.Now(), nil, u.state.Stable, false)
	u.outbox.Begin()
	for _, r := range records {
		u.keep(decision, entryOf(u, r), nil)
	}
	j.reborn, j.state, j.decides, j.records = u, u.lend(), true, append(j.records, u.records...)
	j.write.Delete, j.write.PolicyHash, j.write.PolicyText = false, u.state.PolicyHash, u.text
	return j
}

// afresh takes in what became of a policy while its service was being stored anew.
func (c *Controller) afresh(u *unit) {
	switch d := c.document(u.state.Policy.Service); {
	case d == nil:
		c.must(u, rollout.Orphaned{At: time.Now()})
	case d.Hash != u.state.PolicyHash:
		c.adopt(d, "an edit")
	}
}

// gone takes in that the removal of a service is stored, and puts the one that began anew in its place.
func (c *Controller) gone(j job, now time.Time) {
	_, more := c.unsaved[j.u]
	late := j.reborn == nil && j.u.panicked == nil && c.document(j.write.Service) != nil
	if more || late { // what was decided since is told as well; a policy that came back meanwhile goes with the next write
		c.unsaved[j.u] = struct{}{}
		return
	}
	c.removed(j.u, j.remains)
	if u := j.reborn; u != nil {
		c.units[j.write.Service] = u
		u.tell(u.outbox.decided, c.events)
		u.outbox.Stored(now, u.outbox.decided, j.table)
		c.note(u)
		c.aim(u)
		u.made = j.made
		c.publish(now, u)
		c.afresh(u)
	}
	c.queueUp(inTurn(c.findings.byService[j.write.Service])...) // what the old one knew is new to the next
}

// removed takes a service out of the loop, now that it is out of the store.
func (c *Controller) removed(u *unit, r *remains) {
	name := u.state.Policy.Service
	delete(c.units, name)
	delete(c.busy, name)
	u.noted = false
	for _, set := range []map[*unit]struct{}{c.unsaved, c.stale, c.aged, c.hidden} {
		delete(set, u)
	}
	delete(c.cutting, u)
	delete(c.moves.of, u)
	c.targets.remove(name)
	delete(c.targets.aimed, name)
	c.aims.put(name, nil)
	c.prober.set(name, &rollout.State{})
	if c.document(name) == nil {
		if err := c.Hub.Remove(name); err != nil {
			c.Log.WithError(err).WithField("service", name).Error("the service cannot be taken from the Envoys")
		}
	}
	c.dismiss(name, r)
}
