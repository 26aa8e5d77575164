package controller

import (
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/probe"
	"github.com/canaryd/canaryd/internal/rollout"
)

// wantContainers tells the fleet what is to run and what is to be stopped.
func (c *Controller) wantContainers() {
	if c.Fleet == nil {
		return
	}
	var wants []docker.Want
	for u := range c.housed {
		p := &u.state.Policy
		for _, w := range u.state.Containers() {
			want := docker.Want{Service: p.Service, Container: w, Probe: probe.Of(p)}
			if p.Docker != nil {
				want.Spec = *p.Docker
			}
			wants = append(wants, want)
		}
	}
	for _, w := range c.leaving {
		if u := c.units[w.Service]; u == nil || !u.runs(w.Version, w.Attempt) { // else it exists again, and knows them by their labels
			wants = append(wants, w)
		}
	}
	c.Fleet.Want(wants)
}

// runs reports whether the containers of an attempt are the service's.
func (u *unit) runs(version string, attempt int) bool {
	v := u.state.Version(version)
	return v != nil && v.Attempt == attempt && v.Image != ""
}

func (c *Controller) launched(e docker.Event) {
	if u := c.units[e.Service]; u != nil && (u.runs(e.Version, e.Attempt) || e.Done < rollout.Remove) {
		e.At = time.Now() // when it is taken in: events come in order
		c.must(u, e.Launched)
		c.aim(u) // what is known of its containers decides what is wanted of them
		return
	}
	if e.Done >= rollout.Remove {
		c.leaving = slices.DeleteFunc(c.leaving, func(w docker.Want) bool {
			return w.Service == e.Service && w.Version == e.Version && w.Attempt == e.Attempt
		})
		c.moved = true
	}
}

// dismiss has the containers removed of a service that was deleted.
func (c *Controller) dismiss(u *unit) {
	for _, v := range u.state.Versions {
		if v.Image != "" && v.Done < rollout.Remove {
			c.leaving = append(c.leaving, docker.Want{Service: u.state.Policy.Service,
				Container: rollout.Container{Version: v.Name, Attempt: v.Attempt, Image: v.Image, Goal: rollout.Remove}})
		}
	}
}
