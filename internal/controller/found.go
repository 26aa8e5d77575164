package controller

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/registry"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/xds"
)

const (
	byLabels  = "docker labels" // the origin of versions whose containers others started
	goneAfter = 30 * time.Second
)

// Labelled takes in what Docker containers that others started say of themselves.
func (c *Controller) Labelled(ctx context.Context) func([]docker.Labelled) {
	return func(ls []docker.Labelled) {
		select {
		case c.labelled <- ls:
		case <-ctx.Done():
		}
	}
}

// labels announces what runs with labels; ls is all there is.
func (c *Controller) labels(ls []docker.Labelled) {
	var found []registry.Found
	c.labelledNow = map[string]bool{}
	for _, l := range ls {
		found = append(found, registry.Found{Service: l.Service, Version: l.Version, Endpoints: l.Endpoints, Origin: byLabels})
		c.labelledNow[xds.ClusterName(l.Service, l.Version)] = true
	}
	c.found(found)
}

// leave ends versions under test whose labelled containers have been gone for a while.
func (c *Controller) leave(now time.Time) {
	if c.labelledNow == nil {
		return // nobody has looked yet
	}
	for service, u := range c.busy {
		for _, v := range u.state.Versions {
			name := xds.ClusterName(service, v.Name)
			if v.Origin != byLabels || !v.Phase.Waiting() || c.labelledNow[name] {
				delete(c.goneSince, name)
				continue
			}
			if c.goneSince[name].IsZero() {
				c.goneSince[name] = now
			} else if now.Sub(c.goneSince[name]) >= goneAfter {
				c.must(u, rollout.Left{At: now, Version: v.Name, Origin: byLabels})
			}
		}
	}
}

// found announces what others run. A version that is no longer named keeps its endpoints: that nobody
// answers there is seen by asking, and a wrong file must not take a service down.
func (c *Controller) found(found []registry.Found) {
	for _, f := range found {
		log := c.Log.WithFields(logrus.Fields{"service": f.Service, "version": f.Version, "origin": f.Origin})
		u := c.units[f.Service]
		switch {
		case u == nil:
			log.Warn("found a version of a service that has no policy")
		case len(f.Endpoints) == 0:
			log.Info("a version is no longer named; its endpoints stay until it ends")
		default:
			e := rollout.Announced{At: time.Now(), Version: f.Version, Endpoints: f.Endpoints, Origin: f.Origin, Secret: rand.Text(), By: f.Origin}
			if _, err := c.step(u, e); err != nil {
				log.WithError(err).Warn("a version that was found was not announced")
			}
		}
	}
}
