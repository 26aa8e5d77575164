package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// Goal is what is to become of a version's containers.
type Goal int

// The goals; a later one includes those between Stop and itself.
const (
	Leave  Goal = iota // as they are
	Start              // all of them run
	Stop               // they are stopped, and stay for a look
	Remove             // they are gone, their image stays
	Prune              // the image is gone too, where canaryd pulled it
)

func (g Goal) String() string { return [...]string{"leave", "start", "stop", "remove", "prune"}[g] }

// Container is one attempt of a version that canaryd runs itself.
type Container struct {
	Version  string `json:"version"`
	Attempt  int    `json:"attempt"`
	Image    string `json:"image"`
	Goal     Goal   `json:"goal"`
	Renew    bool   `json:"-"`                // the image is to be pulled even if it is there
	Launched bool   `json:"-"`                // all of its containers have run already
	Alone    bool   `json:"-"`                // containers of earlier attempts may go: what was cut is cut everywhere
	Pulled   bool   `json:"-"`                // canaryd pulled the image and nobody else needs it: it may be removed
	Sealed   bool   `json:"sealed,omitempty"` // its containers carry a seal
	Digest   string `json:"-"`                // of the image that was judged: the tag may mean another one by now. Empty: not known, or any will do
}

// Containers are what is to run, and what is to go. An ended version is stopped only when its cut is
// in force, so that no request is lost to it.
func (s *State) Containers() []Container {
	var cs []Container
	ended := 0
	for i := len(s.Versions) - 1; i >= 0; i-- {
		v := s.Versions[i]
		if v.Image == "" {
			continue
		}
		if !v.Phase.Live() {
			ended++
		}
		g := s.goal(v, ended > s.keep())
		if g == Leave && v.LaunchedAt.IsZero() || g >= Stop && v.Done >= g {
			continue
		}
		cs = append(cs, Container{v.Name, v.Attempt, v.Image, g, v.Renew, !v.LaunchedAt.IsZero(), s.settled() && !s.strayed(v.Name), v.Pulled && !s.shared(v), v.Sealed, v.judged()})
	}
	slices.Reverse(cs)
	return cs
}

// judged is the digest that the version's image has to have: a new attempt takes what its tag means now.
func (v *Version) judged() string {
	if v.Renew || len(v.Digests) == 0 {
		return ""
	}
	return v.Digests[0]
}

// keep is of how many ended versions containers and images stay.
func (s *State) keep() int {
	if s.Policy.Docker == nil {
		return keepEnded
	}
	return s.Policy.Docker.Keep
}

// settled reports whether nobody is served by an older table.
func (s *State) settled() bool { return s.InForce || s.Subscribers == 0 }

func (s *State) goal(v *Version, old bool) Goal {
	switch live := v.Phase.Live(); {
	case s.Policy.Docker == nil: // the policy says no longer how to run it
		return Leave
	case live && !v.Idle && (v.is(launched) || !v.LaunchedAt.IsZero()):
		return Start
	case !s.settled() || s.strayed(v.Name) || live && !v.Idle:
		return Leave
	case live:
		return Stop
	case old:
		return Prune
	case v.is(spare) && !v.Idle && !v.LaunchedAt.IsZero():
		return Start // somebody may want it back: it goes when it has been idle
	case v.is(swept):
		return Remove
	}
	return Stop
}

// Released reports whether no Envoy may still send users to containers of a version that ran before the service began anew.
func (s *State) Released(version string) bool { return s.settled() && !s.strayed(version) }

// shared reports whether another version runs the same image.
func (s *State) shared(v *Version) bool {
	return slices.ContainsFunc(s.Versions, func(o *Version) bool { return o.Name != v.Name && o.Image == v.Image && o.Done < Prune })
}

// launched takes in what became of a version's containers.
func (m *machine) launched(e Launched) {
	v := m.Version(e.Version)
	if v == nil || v.Image == "" || v.Attempt != e.Attempt {
		return
	}
	v.Pulled = v.Pulled || e.Pulled
	if e.Image && v.ImageAt.IsZero() {
		v.ImageAt, v.Renew = m.at, false
	}
	if len(e.Digests) > 0 {
		v.Digests = e.Digests
	}
	switch {
	case e.Done >= Stop:
		m.stopped(v, e)
	case e.Failed && v.Name == m.Stable && v.LaunchedAt.IsZero():
		m.firstFailed(v, e.Note)
	case e.Failed && v.Phase.Waiting():
		m.fail(v, analysis.Unreachable, "%s", e.Note)
	case len(e.Endpoints) > 0 && v.Phase.Live() && !v.Idle:
		m.running(v, e.Endpoints)
	default:
		v.Launching = e.Note
		if v.is(awaited) && e.Note != "" {
			m.verdict(v, analysis.Wait, analysis.Unreachable, "%s", e.Note)
		}
	}
}

func (m *machine) running(v *Version, endpoints []string) {
	first := v.LaunchedAt.IsZero()
	v.Launching = ""
	if first {
		v.LaunchedAt = m.at
	}
	if slices.Equal(v.Endpoints, endpoints) || policy.EndpointList(endpoints) != nil {
		return
	}
	v.Endpoints = slices.Clone(endpoints)
	v.Starts.Began(seconds(m.at))
	if first {
		m.record(v, KindLaunched, System, "runs at %s", strings.Join(v.Endpoints, ", "))
	} else {
		m.record(v, KindEndpoints, System, "its containers are now at %s", strings.Join(v.Endpoints, ", "))
	}
}

// stopped notes that a version's containers do not run any more; nothing, where it was wanted again
// meanwhile.
func (m *machine) stopped(v *Version, e Launched) {
	if v.Phase.Live() && !v.Idle || v.Done >= e.Done {
		return
	}
	was := v.Done
	v.Done, v.Launching, v.Endpoints, v.LaunchedAt, v.ImageAt = e.Done, "", nil, at0, at0
	switch {
	case e.Done == Prune:
		m.record(v, KindPruned, System, "its containers are removed, and its image where canaryd pulled it (docker.keep: %d)", m.keep())
	case was >= Stop || e.Containers == 0:
	case e.Done == Stop:
		m.record(v, KindStopped, System, "its containers are stopped%s", lastLines(e.Logs))
	default:
		m.record(v, KindStopped, System, "its containers are stopped and removed%s", lastLines(e.Logs))
	}
}

// firstFailed: the first version of a service cannot run. The next one in line takes its place.
func (m *machine) firstFailed(v *Version, why string) {
	m.Stable = ""
	m.fail(v, analysis.Unreachable, "%s", why)
	for _, o := range m.with(open) {
		if o.Idle {
			m.wake(o)
		}
		o.Wanted, o.Verdict = "", analysis.Verdict{}
		m.lower(o, 0)
		m.becomeStable(o)
		o.Trusted = true
		m.record(o, KindStarted, System, "%s cannot run: this is now the first version of the service", v.Name)
		return
	}
}

// startedTooSlowly fails a version whose containers run, but do not answer.
func (m *machine) startedTooSlowly(v *Version) {
	d := m.Policy.Docker
	if v.Image == "" || d == nil || v.LaunchedAt.IsZero() || v.Reachable || !v.FirstWeight.IsZero() || m.at.Sub(v.LaunchedAt) < d.StartWithin.Std() {
		return
	}
	m.fail(v, analysis.Unreachable, "its containers run, but nothing has answered at %s for %s (docker.start_within): does it listen on port %d of all addresses?",
		strings.Join(v.Endpoints, ", "), d.StartWithin, d.Port)
}

// mayIdle reports whether the version's containers run though it is out of service: no session on it lives.
func (v *Version) mayIdle() bool {
	return v.Image != "" && !v.Idle && !v.LaunchedAt.IsZero() && v.is(spare) && !v.is(routable)
}

// stopIdle has the containers stopped of versions that have been out of service for so long.
func (m *machine) stopIdle() {
	if m.Policy.Docker == nil {
		return
	}
	after := m.Policy.Docker.StopIdleAfter
	for v := range m.each(func(v *Version) bool {
		return v.mayIdle() && m.at.Sub(latest(v.LaunchedAt, v.RequestAt, v.EndedAt)) >= after.Std()
	}) {
		v.Idle, v.Endpoints, v.Reachable = true, nil, m.Policy.Route.Probe == policy.ProbeOff
		m.record(v, KindIdle, System, "no request for %s (docker.stop_idle_after): its containers are stopped until it is wanted", after)
	}
}

// wake has a version's containers started anew.
func (m *machine) wake(v *Version) {
	v.Idle, v.Done, v.LaunchedAt, v.ImageAt = false, Leave, at0, at0
	v.Endpoints, v.Reachable = nil, m.Policy.Route.Probe == policy.ProbeOff
}

// revive starts the containers of a version that a person wants at 100 %; it is promoted when it answers.
func (m *machine) revive(v *Version, by string) {
	if !v.Phase.Waiting() {
		v.Attempt++ // what is left of the old containers is on its way out
	}
	if !v.Phase.Waiting() || v.Idle {
		m.wake(v)
	}
	m.lower(v, 0)
	j := analysis.NewJudge()
	v.Phase, v.WarmingFrom, v.Judge, v.Wanted = Warming, m.at, &j, by
	v.FirstWeight, v.EndedAt, v.PausedAt, v.PinsUntil = at0, at0, at0, at0
	m.verdict(v, analysis.Wait, analysis.Unreachable, "promoted by hand: its containers are being started, and get everything when they answer")
	m.record(v, KindReviving, by, "%s", v.Verdict.Reason)
}

// took says how long a version that canaryd started was on its way, and where the time went.
func (v *Version) took(at time.Time) string {
	if v.Image == "" || v.TurnAt.IsZero() || v.ImageAt.IsZero() || v.LaunchedAt.IsZero() {
		return ""
	}
	part := func(from, to time.Time) string { return fmt.Sprintf("%.1f s", max(0, to.Sub(from).Seconds())) }
	return fmt.Sprintf("; %s after it was announced: queued %s, image %s, containers %s, first weight %s, ramp %s", part(v.AnnouncedAt, at),
		part(v.AnnouncedAt, v.TurnAt), part(v.TurnAt, v.ImageAt), part(v.ImageAt, v.LaunchedAt), part(v.LaunchedAt, v.FirstWeight), part(v.FirstWeight, at))
}

func lastLines(logs string) string {
	if logs == "" {
		return ""
	}
	return "; their last lines:\n" + logs
}
