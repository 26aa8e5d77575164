package controller

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
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
	for _, u := range c.units {
		maps.DeleteFunc(u.conflicts, func(k [2]string, _ string) bool { return k[1] == byLabels })
	}
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
		if u == nil || u.removing {
			log.Warn("found a version of a service that has no policy")
			continue
		}
		var err error
		if len(f.Endpoints) == 0 {
			log.Info("a version is no longer named; its endpoints stay until it ends")
		} else if _, err = c.step(u, rollout.Announced{At: time.Now(), Version: f.Version, Endpoints: f.Endpoints, Origin: f.Origin, Secret: rand.Text(), By: f.Origin}); err != nil {
			log.WithError(err).Warn("a version that was found was not announced")
		}
		u.contradicted(f, err)
	}
}

// contradicted remembers what two origins do not agree on, for `status`, until they do.
func (u *unit) contradicted(f registry.Found, err error) {
	key := [2]string{f.Version, f.Origin}
	var r *rollout.Refusal
	if !errors.As(err, &r) || !r.Conflict {
		delete(u.conflicts, key)
		return
	}
	if u.conflicts == nil {
		u.conflicts = map[[2]string]string{}
	}
	u.conflicts[key] = r.Message
}

// conflict is one contradiction about a live version; empty: there is none.
func (u *unit) conflict() string {
	keys := slices.SortedFunc(maps.Keys(u.conflicts), func(a, b [2]string) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
	for _, k := range keys {
		if v := u.state.Version(k[0]); v != nil && v.Phase.Live() {
			return u.conflicts[k]
		}
	}
	return ""
}
