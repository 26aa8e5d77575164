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

func (a serviceVersion) compare(b serviceVersion) int {
	return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.version, b.version))
}

func idOf(v registry.Version) serviceVersion { return serviceVersion{v.Service, v.Version} }

// findings are what origins name at present. An origin may name a version before its service has a
// policy, and two may contradict each other: what cannot be used is outstanding until it can, or until
// it is no longer named.
type findings struct {
	handed      chan registry.Set
	byOrigin    map[string][]*finding        // by service and version; none: that origin has not been looked at yet
	byService   map[string][]*finding        // the same, of all origins
	outstanding map[string]map[*finding]bool // by service
	stirred     map[string]struct{}          // services with outstanding ones whose generation has changed since these were looked at
	goneSince   map[serviceVersion]time.Time // versions under test whose labelled containers are gone
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
	queued     bool     // it waits in the backlog: once is enough
	unnamed    bool     // its origin does not name it any more
}

// naming is a set that takes the place of the last one of its origin, a piece at a time.
type naming struct {
	registry.Set            // what is left of it
	begun        bool       // old is known
	old          []*finding // of the last set, that this one has not come to yet
	now          []*finding // that it names
}

func newFindings() findings {
	return findings{handed: make(chan registry.Set), byOrigin: map[string][]*finding{}, byService: map[string][]*finding{}, outstanding: map[string]map[*finding]bool{}, stirred: map[string]struct{}{}}
}

// Found takes in all that an origin names, each time that it changes.
func (c *Controller) Found(ctx context.Context) func(registry.Set) {
	return func(set registry.Set) {
		set.Versions = inOrder(set.Versions) // here, and not in the loop
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

// inOrder are versions by service and version, each once: what is said last counts.
func inOrder(said []registry.Version) (vs []registry.Version) {
	said = slices.Clone(said)
	slices.SortStableFunc(said, func(a, b registry.Version) int { return idOf(a).compare(idOf(b)) })
	for i, v := range said {
		if i+1 == len(said) || idOf(said[i+1]) != idOf(v) {
			vs = append(vs, v)
		}
	}
	return vs
}

// found begins to put a set in the place of the last one of its origin. A version that is no longer named keeps
// its endpoints: that nobody answers there is seen by asking, and a wrong file must not take a service
// down.
func (c *Controller) found(set registry.Set) {
	c.backlog.namings = append(c.backlog.namings, &naming{Set: set})
	c.nameSome()
	c.useSome()
}

// nameSome goes through a piece of a set. What says the same as before, and is in use, costs no more than that look.
func (c *Controller) nameSome() {
	if len(c.backlog.namings) == 0 {
		return
	}
	n := c.backlog.namings[0]
	if !n.begun {
		n.begun, n.old, n.now = true, c.findings.byOrigin[n.Origin], make([]*finding, 0, len(n.Versions))
	}
	for i, begun := 0, time.Now(); len(n.Versions)+len(n.old) > 0; i++ {
		if i >= compareMost || i > 0 && time.Since(begun) >= pieceFor {
			return
		}
		c.name(n)
	}
	c.findings.byOrigin[n.Origin] = n.now
	if c.backlog.namings = c.backlog.namings[1:]; len(c.backlog.namings) == 0 {
		c.backlog.namings = nil
	}
}

// name takes in what comes next of a set and the one before it, which are in the same order.
func (c *Controller) name(n *naming) {
	first := 1 // the set names one that it did not name before; 0: that it did; -1: it no longer does
	if len(n.Versions) == 0 {
		first = -1
	} else if len(n.old) > 0 {
		first = n.old[0].compare(idOf(n.Versions[0]))
	}
	var f *finding
	if first <= 0 {
		f, n.old = n.old[0], n.old[1:]
	}
	if first < 0 {
		c.unnamed(f)
		return
	}
	v := n.Versions[0]
	n.Versions = n.Versions[1:]
	if f == nil {
		f = &finding{serviceVersion: idOf(v), origin: n.Origin}
		c.findings.byService[f.service] = append(c.findings.byService[f.service], f)
	}
	n.now = append(n.now, f)
	changed := first > 0 || f.content != v.Content || !slices.Equal(f.endpoints, v.Endpoints)
	if changed {
		f.endpoints, f.content, f.why = v.Endpoints, v.Content, ""
	}
	if changed || c.due(f) {
		c.queueUp(f)
	}
}

// due reports whether a finding that has been looked at already may come to something now. What was refused is asked again
// whatever changed: not all that may lift a refusal changes the generation. Findings of one service never hang on another one.
func (c *Controller) due(f *finding) bool {
	u := c.units[f.service]
	return u != nil && !u.removing && (f.why != "" || !u.knows(f))
}

// queueUp has findings looked at, in this order, those that do not wait for it already.
func (c *Controller) queueUp(fs ...*finding) {
	for _, f := range fs {
		if !f.queued {
			f.queued = true
			c.backlog.findings = append(c.backlog.findings, f)
		}
	}
}

func (c *Controller) unnamed(f *finding) {
	f.unnamed = true
	c.findings.settled(f)
	c.findings.forget(f)
	u := c.units[f.service]
	if u == nil || f.origin == byLabels { // what runs with labels has a rule of its own
		return
	}
	if v := u.state.Version(f.version); v != nil && v.Phase.Live() {
		c.about(f).Info("a version is no longer found; it keeps its endpoints until it ends")
	}
}

// lookAgainAt looks at those findings of a service that may come to something since its policy was read.
func (c *Controller) lookAgainAt(service string) {
	for _, f := range inTurn(c.findings.byService[service]) {
		if c.due(f) {
			c.queueUp(f)
		}
	}
}

// lookAgain looks at what could not be used so far, where anything has changed since, and at what is gone.
func (c *Controller) lookAgain(now time.Time) {
	var due []*finding
	for service := range c.findings.stirred {
		u := c.units[service]
		for f := range c.findings.outstanding[service] {
			if u != nil && f.generation != u.state.Generation {
				due = append(due, f)
			}
		}
	}
	clear(c.findings.stirred)
	c.queueUp(inTurn(due)...)
	c.useSome()
	c.leave(now)
}

// inTurn puts findings in one order whatever came first: the first version of a service becomes stable.
func inTurn(fs []*finding) []*finding {
	slices.SortFunc(fs, func(a, b *finding) int {
		return cmp.Or(a.compare(b.serviceVersion), cmp.Compare(a.origin, b.origin))
	})
	return fs
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
	if u.knows(f) {
		return nil
	}
	v := u.state.Version(f.version)
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

// knows reports whether a finding says nothing new.
func (u *unit) knows(f *finding) bool {
	v := u.state.Version(f.version)
	if v == nil {
		return f.known == u
	}
	return !v.Phase.Live() || sameEndpoints(v.Endpoints, f.endpoints) && (v.Content == f.content || v.Origin != f.origin)
}

// sameEndpoints leaves aside in which order a person named them; found ones are sorted.
func sameEndpoints(named, found []string) bool {
	return len(named) == len(found) && (slices.Equal(named, found) || slices.Equal(slices.Sorted(slices.Values(named)), found))
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

// stir takes in that the generation of a service has changed: what could not be used of it may be now.
func (fs *findings) stir(service string) {
	if len(fs.outstanding[service]) > 0 {
		fs.stirred[service] = struct{}{}
	}
}

func (fs *findings) settled(f *finding) {
	f.why, f.conflict = "", false
	delete(fs.outstanding[f.service], f)
	if len(fs.outstanding[f.service]) == 0 {
		delete(fs.outstanding, f.service)
	}
}

// forget takes a finding out of those of its service.
func (fs *findings) forget(f *finding) {
	if left := slices.DeleteFunc(fs.byService[f.service], func(o *finding) bool { return o == f }); len(left) > 0 {
		fs.byService[f.service] = left
	} else {
		delete(fs.byService, f.service)
	}
}

// names reports whether an origin names a version.
func (fs *findings) names(origin string, id serviceVersion) bool {
	return slices.ContainsFunc(fs.byService[id.service], func(f *finding) bool { return f.origin == origin && f.version == id.version })
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
	if _, looked := c.findings.byOrigin[byLabels]; !looked {
		return
	}
	gone := map[serviceVersion]time.Time{}
	for service, u := range c.busy {
		for _, v := range u.state.Versions {
			id := serviceVersion{service, v.Name}
			if v.Origin != byLabels || !v.Phase.Waiting() || c.findings.names(byLabels, id) {
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
