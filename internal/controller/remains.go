package controller

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/rollout"
)

// A service that is removed leaves containers behind that Envoys may still send users to: those that have not accepted
// the removal yet, those that lag, and those that are away. They are stored with the removal, and go when the last of
// these Envoys has let go, was away for xds.forget_after, or is forgotten by a person.

// remains are what one service left behind.
type remains struct {
	rollout.Remains
	free map[rollout.Container]bool // containers that may go
}

// leaves adds to the write that removes a service what it leaves behind, with what an earlier life left.
func (c *Controller) leaves(j job) job {
	if !j.remove {
		return j
	}
	r := j.state.Remains()
	if old := c.leaving[j.write.Service]; old != nil {
		r.Containers = append(r.Containers, old.Containers...)
	}
	j.remains = &remains{Remains: r, free: map[rollout.Container]bool{}}
	return j
}

// loadRemains takes in what services left behind that were removed before a restart.
func (c *Controller) loadRemains() error {
	stored, err := c.Store.Remains()
	if err != nil {
		return fmt.Errorf("load what removed services left behind: %w", err)
	}
	for service, raw := range stored {
		r := &remains{free: map[rollout.Container]bool{}}
		if err := json.Unmarshal(raw, &r.Remains); err != nil {
			c.Log.WithError(err).WithField("service", service).Error("what a removed service left behind cannot be read: its containers are left alone")
			continue
		}
		c.leaving[service] = r
		c.want(service)
		if c.units[service] == nil {
			c.Hub.Remained(service, r.Crowds)
		}
	}
	return nil
}

// depart has it looked which containers of removed services may go by now, a piece at a time: thousands may be waited for, for as long as
// xds.forget_after.
func (c *Controller) depart() {
	if len(c.backlog.leaving) == 0 {
		c.backlog.leaving = slices.AppendSeq(make(queue[string], 0, len(c.leaving)), maps.Keys(c.leaving))
	}
}

func (c *Controller) departSome() {
	c.backlog.leaving.some(pieceMost, func(service string) {
		if r := c.leaving[service]; r != nil {
			c.departs(service, r)
		}
	})
}

// departs looks whether the containers of a removed service may go, and forgets a service that left nothing.
func (c *Controller) departs(service string, r *remains) {
	u := c.units[service]
	waits := u == nil && c.Hub.Remains(service)
	for _, k := range r.Containers {
		if !r.free[k] && !waits && (u == nil || u.state.Released(k.Version)) {
			r.free[k] = true
			c.want(service)
		}
	}
	if len(r.Containers) == 0 && !waits {
		c.left(service)
	}
}

// left has it stored that nothing is left of a service.
func (c *Controller) left(service string) {
	delete(c.leaving, service)
	c.writer.left = append(c.writer.left, service)
}

// wants is what is wanted of the containers of a removed service.
func (r *remains) wants(service string) (wants []docker.Want) {
	if r == nil {
		return nil
	}
	for _, k := range r.Containers {
		if !r.free[k] {
			k.Goal = rollout.Leave
		}
		wants = append(wants, docker.Want{Service: service, Container: k})
	}
	return wants
}

// departed takes in that containers of a removed service are gone.
func (c *Controller) departed(e docker.Event) {
	r := c.leaving[e.Service]
	if r == nil || e.Done < rollout.Remove {
		return
	}
	r.Containers = slices.DeleteFunc(r.Containers, func(k rollout.Container) bool { return k.Version == e.Version && k.Attempt == e.Attempt })
	c.want(e.Service)
}

// dismiss begins to wait for the Envoys of a service that was removed.
func (c *Controller) dismiss(service string, r *remains) {
	c.leaving[service] = r
	c.want(service)
	if len(r.Containers) == 0 {
		return
	}
	log := c.Log.WithField("service", service)
	if nodes := c.Hub.Remaining(service); len(nodes) > 0 {
		log = log.WithField("envoys", nodes)
	}
	log.Infof("its containers (%d) go when its Envoys have let go of it, or were away for %s; `canaryd envoys forget NODE` ends waiting for one", len(r.Containers), c.Hub.ForgetAfter.Round(time.Second))
}

// successor is a service that begins: anew, where it left something behind.
func (c *Controller) successor(service string) *unit {
	if r := c.leaving[service]; r != nil {
		return newUnit(r.Successor())
	}
	return newUnit(rollout.State{})
}
