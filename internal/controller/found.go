package controller

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/registry"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Labelled takes in what Docker containers that others started say of themselves.
func (c *Controller) Labelled(ctx context.Context) func([]docker.Labelled) {
	return func(ls []docker.Labelled) {
		var found []registry.Found
		for _, l := range ls {
			found = append(found, registry.Found{Service: l.Service, Version: l.Version, Endpoints: l.Endpoints, Origin: "docker labels"})
		}
		select {
		case c.Found <- found:
		case <-ctx.Done():
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
