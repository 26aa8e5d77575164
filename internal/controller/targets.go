package controller

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/xds"
)

const (
	restAtOnce = 200              // services at rest that are looked at
	restTurn   = 10 * time.Minute // then it is the next ones' turn
)

// targets are what the source of evidence is to look at: every service with something under judgement, and of those
// at rest all where they are few, else so many at a time that ten thousand quiet services cost no more than two
// hundred. They are kept up to date by changes: nothing here walks all services but a turn.
type targets struct {
	services []string            // all, sorted
	resting  map[string]struct{} // services that are looked at though they are at rest
	first    int                 // the first of them in services
	turnedAt time.Time
	aimed    map[string]metrics.Target
}

func newTargets() targets {
	return targets{resting: map[string]struct{}{}, aimed: map[string]metrics.Target{}}
}

// add takes a service in. It is looked at while there is room.
func (t *targets) add(service string) {
	i, known := slices.BinarySearch(t.services, service)
	if known {
		return
	}
	t.services = slices.Insert(t.services, i, service)
	if len(t.resting) < restAtOnce {
		t.resting[service] = struct{}{}
	}
}

func (t *targets) remove(service string) {
	if i, known := slices.BinarySearch(t.services, service); known {
		t.services = slices.Delete(t.services, i, i+1)
	}
	delete(t.resting, service)
	delete(t.aimed, service)
}

// turn chooses the next services, where they are many and it is time.
func (t *targets) turn(now time.Time) bool {
	if now.Sub(t.turnedAt) < restTurn || len(t.services) <= restAtOnce && len(t.resting) == len(t.services) {
		return false
	}
	t.turnedAt = now
	if len(t.services) <= restAtOnce {
		for _, name := range t.services {
			t.resting[name] = struct{}{}
		}
		return true
	}
	t.first = (t.first + restAtOnce) % len(t.services)
	clear(t.resting)
	for i := range restAtOnce {
		t.resting[t.services[(t.first+i)%len(t.services)]] = struct{}{}
	}
	return true
}

// look aims at the services whose turn it is.
func (c *Controller) look() {
	for _, name := range slices.Collect(maps.Keys(c.targets.aimed)) {
		if _, chosen := c.targets.resting[name]; !chosen {
			c.aim(c.units[name])
		}
	}
	for name := range c.targets.resting {
		c.aim(c.units[name])
	}
}

// aim brings the target and the containers of a service up to date.
func (c *Controller) aim(u *unit) {
	name := u.state.Policy.Service
	c.moved = true
	c.targets.add(name)
	delete(c.targets.aimed, name)
	if t, ok := c.target(u); ok {
		c.targets.aimed[name] = t
	}
	delete(c.housed, u)
	if len(u.state.Containers()) > 0 {
		c.housed[u] = struct{}{}
	}
}

// target is what is compared of a service.
func (c *Controller) target(u *unit) (t metrics.Target, ok bool) {
	s := &u.state
	if _, chosen := c.targets.resting[s.Policy.Service]; !chosen && !u.busy() {
		return t, false
	}
	looked := u.looked()
	t = metrics.Target{Service: s.Policy.Service, Stable: s.Stable, Queries: s.Policy.Judge.Queries, AtRest: !u.busy(), Judged: looked.Judging(), Statuses: s.Policy.GRPCStatuses(), Limited: s.Policy.Route.Thresholds().Requests < policy.NoLimit, Versions: u.reported()}
	return t, t.Stable != "" && len(t.Versions) > 0
}

// retarget tells the source, and the Envoys, which versions are being compared, and Docker which containers are
// wanted.
func (c *Controller) retarget() {
	c.moved = false
	c.wantContainers()
	list := slices.SortedFunc(maps.Values(c.targets.aimed), func(a, b metrics.Target) int { return cmp.Compare(a.Service, b.Service) })
	c.Source.Watch(list)
	if c.Ask == nil {
		return
	}
	var clusters []xds.Asked
	for _, t := range list {
		s := &c.units[t.Service].state
		for _, name := range t.Versions {
			a := xds.Asked{Cluster: xds.ClusterID{Service: t.Service, Version: name}.String(), Judged: t.Judged}
			if v := s.Version(name); v != nil {
				a.Endpoints = len(v.Endpoints)
			}
			clusters = append(clusters, a)
		}
	}
	c.Ask(clusters)
}
