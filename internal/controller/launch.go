package controller

import (
	"time"

	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/probe"
)

// wantContainers tells the fleet what is to run and what is to be stopped.
func (c *Controller) wantContainers() {
	if c.Fleet != nil {
		c.Fleet.Want(c.containers())
	}
}

func (c *Controller) containers() (wants []docker.Want) {
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
	return append(wants, c.departing()...)
}

// runs reports whether the containers of an attempt are the service's.
func (u *unit) runs(version string, attempt int) bool {
	v := u.state.Version(version)
	return v != nil && v.Attempt == attempt && v.Image != ""
}

func (c *Controller) launched(e docker.Event) {
	if u := c.units[e.Service]; u != nil && u.runs(e.Version, e.Attempt) {
		e.At = time.Now() // when it is taken in: events come in order
		c.must(u, e.Launched)
		c.aim(u) // what is known of its containers decides what is wanted of them
		return
	}
	c.departed(e)
}
