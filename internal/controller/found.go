package controller

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/registry"
	"github.com/canaryd/canaryd/internal/rollout"
)

const (
	byLabels  = "docker labels" // the origin of versions whose containers others started
	goneAfter = 30 * time.Second
)

// serviceVersion tells a version from those of all services.
type serviceVersion struct{ service, version string }

// findings are what origins name at present. An origin may name a version before its service has a
// policy, and two may contradict each other: what cannot be used is outstanding until it can, or until
// it is no longer named.
type findings struct {
	handed      chan registry.Set
	byOrigin    map[string]map[serviceVersion]*finding // none: that origin has not been looked at yet
	outstanding map[string]map[*finding]bool           // by service
	goneSince   map[serviceVersion]time.Time           // versions under test whose labelled containers are gone
}

// finding is what one origin says of one version.
type finding struct {
	serviceVersion
	origin     string
	endpoints  []string // sorted
	content    string   // the image's id, where containers name it
	known      *unit    // the service that knew the version already
	generation uint64   // of the state that it could not be used in
	why        string   // it could not be used; told already
	conflict   bool     // because others say something else
}

func newFindings() findings {
	return findings{handed: make(chan registry.Set), byOrigin: map[string]map[serviceVersion]*finding{}, outstanding: map[string]map[*finding]bool{}}
}

// Found takes in all that an origin names, each time that it changes.
func (c *Controller) Found(ctx context.Context) func(registry.Set) {
	return func(set registry.Set) {
		select {
		case c.findings.handed <- set:
		case <-ctx.Done():
		}
	}
}

// Labelled takes in what Docker containers that others started say of themselves.
func (c *Controller) Labelled(ctx context.Context) func([]docker.Labelled) {
	hand := c.Found(ctx)
	return func(ls []docker.Labelled) {
		set := registry.Set{Origin: byLabels}
		for _, l := range ls {
			set.Versions = append(set.Versions, registry.Version{Service: l.Service, Version: l.Version, Endpoints: l.Endpoints, Content: l.Image})
		}
		hand(set)
	}
}

// found puts a set in the place of the last one of its origin. A version that is no longer named keeps
// its endpoints: that nobody answers there is seen by asking, and a wrong file must not take a service
// down.
func (c *Controller) found(set registry.Set) {
	old := c.findings.byOrigin[set.Origin]
	now := make(map[serviceVersion]*finding, len(set.Versions))
	var fs []*finding
	for _, v := range set.Versions {
		id := serviceVersion{v.Service, v.Version}
		f := old[id]
		if f == nil {
			f = &finding{serviceVersion: id, origin: set.Origin}
		}
		if !slices.Equal(f.endpoints, v.Endpoints) || f.content != v.Content {
			f.endpoints, f.content, f.why = v.Endpoints, v.Content, ""
		}
		now[id] = f
		fs = append(fs, f)
	}
	c.findings.byOrigin[set.Origin] = now
	for id, f := range old {
		if now[id] == nil {
			c.unnamed(f)
		}
	}
	c.reconcile(fs)
}

func (c *Controller) unnamed(f *finding) {
	c.findings.settled(f)
	u := c.units[f.service]
	if u == nil || f.origin == byLabels { // what runs with labels has a rule of its own
		return
	}
	if v := u.state.Version(f.version); v != nil && v.Phase.Live() {
		c.about(f).Info("a version is no longer found; it keeps its endpoints until it ends")
	}
}

// reconcileAll looks at all that is named, after services came or went or their policies changed.
func (c *Controller) reconcileAll() {
	var fs []*finding
	for _, named := range c.findings.byOrigin {
		for _, f := range named {
			fs = append(fs, f)
		}
	}
	c.reconcile(fs)
}

// lookAgain looks at what could not be used so far, where anything has changed since, and at what is gone.
func (c *Controller) lookAgain(now time.Time) {
	var due []*finding
	for service, fs := range c.findings.outstanding {
		u := c.units[service]
		if u == nil {
			continue
		}
		for f := range fs {
			if f.generation != u.state.Generation {
				due = append(due, f)
			}
		}
	}
	c.reconcile(due)
	c.leave(now)
}

// reconcile has findings and state brought together, in one order whatever came first: the first version of a
// service becomes stable.
func (c *Controller) reconcile(fs []*finding) {
	slices.SortFunc(fs, func(a, b *finding) int {
		return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.version, b.version), cmp.Compare(a.origin, b.origin))
	})
	c.backlog.findings = append(c.backlog.findings, fs...)
	c.useSome()
}

func (c *Controller) reconcileOne(f *finding) {
	u := c.units[f.service]
	if u == nil || u.removing {
		f.known, f.generation, f.conflict = nil, 0, false
		c.unusable(f, "found a version of a service that has no policy", nil)
		return
	}
	if err := c.use(u, f); err != nil {
		var r *rollout.Refusal
		f.generation, f.conflict = u.state.Generation, errors.As(err, &r) && r.Conflict
		c.unusable(f, "a version that was found could not be announced", err)
		return
	}
	f.known = u
	c.findings.settled(f)
}

// use announces a finding when it says anything new. A version that has ended is never started anew by
// what finds it, also when it ended so long ago that the state has forgotten it.
func (c *Controller) use(u *unit, f *finding) error {
	v := u.state.Version(f.version)
	if v == nil && f.known == u || v != nil && (!v.Phase.Live() || sameEndpoints(v.Endpoints, f.endpoints) && (v.Content == f.content || v.Origin != f.origin)) {
		return nil
	}
	if f.origin == byLabels && !u.state.Policy.Docker.Labelled() {
		return &rollout.Refusal{Message: fmt.Sprintf("containers are labelled as version %s of %s, whose policy does not ask for such: write `docker: {discover: labels}` there to have them taken for versions", f.version, f.service)}
	}
	if err := policy.EndpointList(f.endpoints); err != nil {
		return &rollout.Refusal{Message: fmt.Sprintf("version %s: %v", f.version, err)}
	}
	if v != nil && slices.ContainsFunc(u.state.Policy.Versions, func(s policy.Seed) bool { return s.Version == f.version }) {
		// An edit of the policy would bring its endpoints back, and this origin its own.
		return &rollout.Refusal{Conflict: true, Message: fmt.Sprintf("version %s is at %s, says the policy; %s says %s: name it in one place only", f.version, strings.Join(v.Endpoints, ", "), f.origin, strings.Join(f.endpoints, ", "))}
	}
	_, err := c.step(u, rollout.Announced{At: time.Now(), Version: f.version, Endpoints: f.endpoints, Content: f.content, Origin: f.origin, Secret: rand.Text(), By: f.origin})
	return err
}

// sameEndpoints leaves aside in which order a person named them; found ones are sorted.
func sameEndpoints(named, found []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(named)), found)
}

// unusable keeps a finding for later, and tells why: once, until that changes.
func (c *Controller) unusable(f *finding, message string, err error) {
	why, log := message, c.about(f)
	if err != nil {
		why, log = err.Error(), log.WithError(err)
	}
	if why != f.why {
		log.Warn(message)
	}
	f.why = why
	if c.findings.outstanding[f.service] == nil {
		c.findings.outstanding[f.service] = map[*finding]bool{}
	}
	c.findings.outstanding[f.service][f] = true
}

func (c *Controller) about(f *finding) *logrus.Entry {
	return c.Log.WithFields(logrus.Fields{"service": f.service, "version": f.version, "origin": f.origin})
}

func (fs *findings) settled(f *finding) {
	f.why, f.conflict = "", false
	delete(fs.outstanding[f.service], f)
	if len(fs.outstanding[f.service]) == 0 {
		delete(fs.outstanding, f.service)
	}
}

// contradiction is one between origins about a live version, for `status`; empty: there is none.
func (c *Controller) contradiction(u *unit) string {
	var first *finding
	for f := range c.findings.outstanding[u.state.Policy.Service] {
		if v := u.state.Version(f.version); !f.conflict || v == nil || !v.Phase.Live() {
			continue
		}
		if first == nil || cmp.Or(cmp.Compare(f.version, first.version), cmp.Compare(f.origin, first.origin)) < 0 {
			first = f
		}
	}
	if first == nil {
		return ""
	}
	return first.why
}

// leave ends versions under test whose labelled containers have been gone for a while.
func (c *Controller) leave(now time.Time) {
	running, looked := c.findings.byOrigin[byLabels]
	if !looked {
		return
	}
	gone := map[serviceVersion]time.Time{}
	for service, u := range c.busy {
		for _, v := range u.state.Versions {
			id := serviceVersion{service, v.Name}
			if v.Origin != byLabels || !v.Phase.Waiting() || running[id] != nil {
				continue
			}
			since, before := c.findings.goneSince[id]
			if !before {
				since = now
			}
			if now.Sub(since) >= goneAfter {
				c.must(u, rollout.Left{At: now, Version: v.Name, Origin: byLabels})
				continue
			}
			gone[id] = since
		}
	}
	c.findings.goneSince = gone
}
