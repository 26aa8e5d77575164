package controller

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/xds"
)

// UnknownError says that a service or a version does not exist.
type UnknownError struct{ Message string }

func (e *UnknownError) Error() string { return e.Message }

func (c *Controller) unknownService(name string) error {
	return &UnknownError{fmt.Sprintf("no service %s: `canaryd status` lists them; a service exists when a policy names it", name)}
}

// Service is a snapshot of one service.
type Service struct {
	State      rollout.State
	StoreError error
	Conflict   string // between those who say where a version runs
}

// Services returns snapshots of all services, by name.
func (c *Controller) Services(ctx context.Context) ([]Service, error) {
	var out []Service
	err := c.do(ctx, func() {
		for _, name := range slices.Sorted(maps.Keys(c.units)) {
			out = append(out, c.snapshot(c.units[name]))
		}
	})
	return out, err
}

// Service returns a snapshot of one service.
func (c *Controller) Service(ctx context.Context, name string) (Service, error) {
	var out Service
	var err error
	if doErr := c.do(ctx, func() {
		if u := c.units[name]; u != nil {
			out = c.snapshot(u)
		} else {
			err = c.unknownService(name)
		}
	}); doErr != nil {
		return out, doErr
	}
	return out, err
}

// snapshot is safe to read outside the loop: Step never changes a state that it returned.
func (c *Controller) snapshot(u *unit) Service {
	return Service{State: u.state, StoreError: c.storeErr, Conflict: c.contradiction(u)}
}

// Announce says that a version exists; known reports that it did before.
func (c *Controller) Announce(ctx context.Context, service string, e rollout.Announced) (s Service, known bool, err error) {
	e.At, e.Secret = time.Now(), rand.Text()
	var stored <-chan struct{}
	defer func() { untilStored(stored) }()
	doErr := c.do(ctx, func() {
		u := c.units[service]
		if u == nil {
			err = c.unknownService(service)
			return
		}
		before := u.state.Version(e.Version)
		if e.Image != "" && c.Fleet == nil {
			err = &rollout.Refusal{Message: "canaryd has no Docker to start " + e.Image + " with: write `docker: {host: unix:///var/run/docker.sock}` in canaryd.yml, or announce endpoints"}
			return
		}
		if d := u.state.Policy.Docker; d != nil && e.Image != "" {
			e.Image = d.Reference(e.Image)
		}
		known = before != nil && (before.Phase.Live() || !e.Again)
		if e.Image == "" && (before == nil || before.Phase.Live() && before.Image == "") {
			if err = policy.EndpointList(e.Endpoints); err != nil {
				err = &rollout.Refusal{Message: fmt.Sprintf("version %s: %v", e.Version, err)}
				return
			}
		}
		if _, err = c.step(u, e); err == nil {
			s, stored = c.snapshot(u), u.whenStored()
		}
	})
	if doErr != nil {
		return s, known, doErr
	}
	return s, known, err
}

// Command carries out promote, abort, pause or resume. Without a version it means the only canary.
func (c *Controller) Command(ctx context.Context, service string, e rollout.Commanded) (Service, string, error) {
	s, err := c.Service(ctx, service)
	if err != nil {
		return s, "", err
	}
	if e.Version == "" {
		if e.Version, err = onlyCanary(&s.State); err != nil {
			return s, "", err
		}
	}
	if v := s.State.Version(e.Version); v != nil && e.Verb == "promote" {
		e.Reachable = reachable(ctx, &s.State, v)
	}
	var stored <-chan struct{}
	defer func() { untilStored(stored) }()
	doErr := c.do(ctx, func() {
		u := c.units[service]
		if u == nil {
			err = c.unknownService(service)
			return
		}
		e.At = time.Now()
		if _, err = c.step(u, e); err == nil {
			s, stored = c.snapshot(u), u.whenStored()
		}
	})
	if doErr != nil {
		return s, e.Version, doErr
	}
	return s, e.Version, err
}

// untilStored lets a command answer when its decision is on disk. A disk that fails delays the answer
// by two seconds, never the cut.
func untilStored(stored <-chan struct{}) {
	if stored == nil {
		return
	}
	select {
	case <-stored:
	case <-time.After(2 * time.Second):
	}
}

func onlyCanary(s *rollout.State) (string, error) {
	var names []string
	for _, v := range s.Versions {
		if v.Phase.Waiting() {
			names = append(names, v.Name)
		}
	}
	switch len(names) {
	case 1:
		return names[0], nil
	case 0:
		return "", &rollout.Refusal{Message: fmt.Sprintf("service %s has no canary: name the version", s.Policy.Service)}
	default:
		return "", &rollout.Refusal{Message: fmt.Sprintf("service %s has several canaries: name one of %s", s.Policy.Service, strings.Join(names, ", "))}
	}
}

// Delete removes an orphaned service.
func (c *Controller) Delete(ctx context.Context, service string) error {
	var err error
	doErr := c.do(ctx, func() {
		u := c.units[service]
		switch {
		case u == nil:
			err = c.unknownService(service)
		case !u.state.Orphaned:
			err = &rollout.Refusal{Message: fmt.Sprintf("service %s still has a policy: remove the policy first", service)}
		default:
			err = c.remove(service)
		}
	})
	if doErr != nil {
		return doErr
	}
	return err
}

func (c *Controller) remove(service string) error {
	if err := c.Store.Save(deletion(service)); err != nil {
		return fmt.Errorf("service %s was not removed: %w", service, err)
	}
	c.dismiss(c.units[service])
	delete(c.units, service)
	for _, set := range []map[string]*unit{c.busy, c.unsaved, c.cutting} {
		delete(set, service)
	}
	c.moved = true
	c.prober.set(service, rollout.State{})
	c.reconcileAll()
	return c.Hub.Remove(service)
}

// Figures are for the metrics.
type Figures struct {
	Services   []Service
	Verdicts   map[string]map[string]int // service, outcome
	Decisions  []time.Duration           // since the last call
	ReloadOK   bool
	ReloadedAt time.Time
	StoreError error
	Hub        xds.Figures
}

// Figures returns the present ones.
func (c *Controller) Figures(ctx context.Context) (Figures, error) {
	f := Figures{Verdicts: map[string]map[string]int{}, Hub: c.Hub.Figures()}
	err := c.do(ctx, func() {
		for name, u := range c.units {
			f.Services = append(f.Services, c.snapshot(u))
			f.Verdicts[name] = maps.Clone(u.verdicts)
		}
		f.Decisions = c.decisions.take()
		f.ReloadOK, f.ReloadedAt, f.StoreError = c.reloadErr == nil, c.reloadedAt, c.storeErr
	})
	return f, err
}
