package controller

import (
	"time"

	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/probe"
)

// want tells the fleet what is to run of a service, and what is to be stopped.
func (c *Controller) want(service string) {
	if c.Fleet != nil {
		c.Fleet.Want(service, c.containers(service))
	}
}

func (c *Controller) containers(service string) []docker.Want {
	wants := c.leaving[service].wants(service)
	if u := c.units[service]; u != nil {
		p := &u.state.Policy
		for _, w := range u.state.Containers() {
			want := docker.Want{Service: service, Container: w, Probe: probe.Of(p)}
			if p.Docker != nil {
				want.Spec = *p.Docker
			}
			wants = append(wants, want)
		}
	}
	return wants
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
