package controller

import (
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
	aimed    map[string]*aim
}

func newTargets() targets {
	return targets{resting: map[string]struct{}{}, aimed: map[string]*aim{}}
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
}

// after are the services whose names come after one.
func (t *targets) after(name string) []string {
	i, there := slices.BinarySearch(t.services, name)
	if there {
		i++
	}
	return t.services[i:]
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
	c.targets.add(name)
	c.want(name)
	next, was := c.target(u), c.targets.aimed[name]
	if next.same(was) {
		return
	}
	if c.targets.aimed[name] = next; next == nil {
		delete(c.targets.aimed, name)
	}
	c.aims.put(name, next)
}

// target is what is compared of a service; nil: nothing.
func (c *Controller) target(u *unit) *aim {
	s, busy := &u.state, u.busy()
	if _, chosen := c.targets.resting[s.Policy.Service]; !chosen && !busy {
		return nil
	}
	a := &aim{Target: metrics.Target{Service: s.Policy.Service, Stable: s.Stable, Queries: s.Policy.Judge.Queries, AtRest: !busy, Judged: u.looked().Judging(),
		Statuses: s.Policy.GRPCStatuses(), Limited: s.Policy.Route.Thresholds().Requests < policy.NoLimit, Versions: u.reported(),
		Classes: s.Classes(), Timed: s.Timed(), Edges: s.SlowEdges()}}
	if a.Stable == "" || len(a.Versions) == 0 {
		return nil
	}
	for _, name := range a.Versions {
		asked := xds.Asked{Cluster: xds.ClusterID{Service: a.Service, Version: name}.String(), Judged: a.Judged}
		if v := s.Version(name); v != nil {
			asked.Endpoints = len(v.Endpoints)
		}
		a.clusters = append(a.clusters, asked)
	}
	return a
}
