package controller

import (
	"time"

	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/rollout"
)

// wantContainers tells the fleet what is to run and what is to be stopped.
func (c *Controller) wantContainers() {
	if c.Fleet == nil {
		return
	}
	var wants []docker.Want
	for name, u := range c.units {
		if u.state.Policy.Docker == nil {
			continue
		}
		for _, w := range u.state.Containers() {
			wants = append(wants, docker.Want{Service: name, Version: w.Version, Attempt: w.Attempt, Image: w.Image, Spec: *u.state.Policy.Docker, Run: w.Run})
		}
	}
	c.Fleet.Want(wants)
}

func (c *Controller) launched(e docker.Event) {
	if u := c.units[e.Service]; u != nil {
		c.must(u, rollout.Launched{At: time.Now(), Version: e.Version, Attempt: e.Attempt, Endpoints: e.Endpoints, Note: e.Note, Failed: e.Failed, Stopped: e.Stopped, Logs: e.Logs})
	}
}
