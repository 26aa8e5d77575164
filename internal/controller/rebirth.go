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

// comesBack takes in the policy of a service that is being removed.
func (c *Controller) comesBack(u *unit, d *policy.Document) {
	if u.back == nil || u.back.Hash != d.Hash {
		u.back = d
		c.number(u, nil, u.state.Stable)
	}
}

// returns reports whether the policy of a service that is being removed is there again, and not taken in yet: what the service is
// to be stored with is not known.
func (c *Controller) returns(u *unit) bool {
	return u.removing && u.back == nil && c.backlog.reading != nil && c.document(u.state.Policy.Service) != nil
}

// rebirth adds to the write that removes a service its beginning anew, where its policy is there.
func (c *Controller) rebirth(j job) job {
	if !j.remove {
		return j
	}
	if j.u.back == nil && c.backlog.reading == nil { // that of one whose state cannot be read was not taken in
		j.u.back = c.document(j.write.Service)
	}
	d := j.u.back
	if d == nil {
		return j
	}
	u := newUnit(j.remains.Successor())
	u.origin, u.text, u.adopted = c.set.origin(d), d.Shown, true
	before := u.state
	records, err := stepped(u, &before, rollout.PolicyChanged{At: time.Now(), Policy: d.Policy, Hash: d.Hash, Secret: rand.Text(), By: "the policy is back"}, nil)
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
func (c *Controller) afresh(u *unit, back *policy.Document) {
	switch {
	case back == nil:
		c.must(u, rollout.Orphaned{At: time.Now()})
	case back.Hash != u.state.PolicyHash:
		c.adopt(back, "an edit")
	}
}

// gone takes in that the removal of a service is stored, and returns the one that begins anew in its place: the Envoys have it when
// they have the rest of its move. Without one it stays where there is more to be told of it, or where its policy has come back
// meanwhile: it goes with the next write.
func (c *Controller) gone(j job, now time.Time) *unit {
	more := j.u.outbox.decided > j.decision
	late := j.u.panicked == nil && c.document(j.write.Service) != nil
	if j.reborn == nil && (more || late) {
		if j.move != nil {
			c.letGo(j.u)
		}
		c.unsaved[j.u] = struct{}{}
		return nil
	}
	m := c.moves.of[j.u]
	c.removed(j.u, &j)
	if u := j.reborn; u != nil {
		c.units[j.write.Service] = u
		u.tell(u.outbox.decided, c.events)
		u.outbox.Stored(now, u.outbox.decided, j.table)
		c.note(u)
		c.aim(u)
		u.made = j.made
		if more || m != nil {
			c.inherits(u, j.u, m)
		}
		c.afresh(u, j.u.back)
	}
	c.queueUp(inTurn(c.findings.byService[j.write.Service])...) // what the old one knew is new to the next
	return j.reborn
}

// letGo takes a service that is not to be told to the end yet from the Envoys: others may have its places, which are stored.
func (c *Controller) letGo(u *unit) {
	if err := c.Hub.Remove(u.state.Policy.Service); err != nil {
		c.Log.WithError(err).WithField("service", u.state.Policy.Service).Error("the service cannot be taken from the Envoys")
	}
	u.outbox.durable = rollout.Table{}
}

// inherits has what was decided of a service while the one that begins anew was being stored told, and answered, with that one.
func (c *Controller) inherits(u, old *unit, m *move) {
	n := c.number(u, nil, u.state.Stable)
	for _, p := range old.records {
		p.decision = n
	}
	u.records, u.dropped = append(u.records, old.records...), old.dropped
	for _, w := range old.waiting {
		w.receipt.of = append(w.receipt.of, u)
		u.waiting = append(u.waiting, waiter{n, w.receipt})
	}
	if m != nil {
		c.moves.bind(u, m)
	}
}

// removed takes a service out of the loop, now that it is out of the store.
func (c *Controller) removed(u *unit, j *job) {
	name := u.state.Policy.Service
	delete(c.units, name)
	delete(c.busy, name)
	u.noted, u.stale, u.next = false, false, nil
	if c.observedLast == u {
		c.observedLast = nil
	}
	for _, set := range []map[*unit]struct{}{c.unsaved, c.stale, c.aged, c.hidden} {
		delete(set, u)
	}
	delete(c.cutting, u)
	delete(c.moves.of, u)
	c.targets.remove(name)
	delete(c.targets.aimed, name)
	c.aims.put(name, nil)
	c.prober.set(name, &rollout.State{})
	if j.reborn == nil && c.document(name) == nil {
		c.letGo(u)
	}
	c.dismiss(name, j.remains)
}
