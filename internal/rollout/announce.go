package rollout

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

func (m *machine) announced(e Announced) error {
	if err := policy.VersionName(e.Version); err != nil {
		return refuse("%v", err)
	}
	v := m.Version(e.Version)
	switch {
	case v == nil && e.Origin != "" && slices.Contains(m.Forgotten, e.Version):
		return nil // it has ended, so long ago that nothing else is known of it
	case v == nil:
		return m.attempt(nil, e)
	case e.begins(v):
		return m.attempt(v, e)
	case v.Phase.Live():
		return m.announcedAgain(v, e)
	}
	return nil // an ended version keeps its outcome
}

// begins reports whether an announcement starts a new attempt of a version that is known: a person or CI wants one
// that has served or was superseded, and says so twice of one that was cut. A registry does, of either, where another
// image was pushed under its name: that is new code. What merely still names a version does not.
func (e *Announced) begins(v *Version) bool {
	if e.Once {
		return v.is(reborn|cut) && e.isAnother(v)
	}
	return e.Origin == "" && (v.is(reborn) || v.is(cut) && e.Again)
}

// isAnother reports whether what was pushed is certainly not what the version runs.
func (e *Announced) isAnother(v *Version) bool {
	return e.Digest != "" && len(v.Digests) > 0 && !slices.Contains(v.Digests, e.Digest)
}

// attempt begins with a version that is new, or anew with one that is known: it counts as announced now. Of the old
// attempt nothing goes on but the watch of whoever took its place: its sessions end, a control share goes to stable, it
// is no way back, and its containers go when the new ones are ready.
func (m *machine) attempt(old *Version, e Announced) error {
	if o := m.sameInStatistics(e.Version); o != nil {
		return refuse("version %s and version %s have the same name in Envoy's statistics (dots become underscores): announce it under another name", e.Version, o.Name)
	}
	number, pulled, first := m.Earlier+1, false, 0
	if old != nil {
		if old.Image != "" && old.Done < Stop && len(e.Endpoints) > 0 && e.Image == "" {
			return refuse("version %s: its containers of %s are not stopped yet: announce that image, or try again when they are", e.Version, old.Image)
		}
		if len(e.Endpoints) == 0 && e.Image == "" {
			if e.Image = old.Image; e.Image == "" {
				e.Endpoints = old.Endpoints
			}
		}
		number, pulled, first = old.Attempt+1, old.Pulled && old.Image == e.Image, old.age()
	}
	if e.Image != "" && m.Policy.Docker == nil {
		return refuse("version %s: service %s has no `docker:` in its policy, so nobody knows how to run %s", e.Version, m.Policy.Service, e.Image)
	}
	if err := policy.EndpointList(e.Endpoints); err != nil && e.Image == "" {
		return refuse("version %s: %v", e.Version, err)
	}
	if old != nil && old.is(routable) {
		m.anew = old.Name
	}
	named := func(name string) bool { return name == e.Version }
	m.drop(func(o *Version) bool { return named(o.Name) })
	m.Forgotten = slices.DeleteFunc(slices.Clone(m.Forgotten), named)
	v := m.add(e, number)
	v.Pulled, v.Renew, v.First = pulled, old != nil && e.Image != "", first
	return nil
}

// sameInStatistics finds a live version that Envoy's counters could not tell from this one.
func (s *State) sameInStatistics(name string) *Version {
	for _, o := range s.Versions {
		if o.Name != name && o.Phase.Live() && policy.WireName(o.Name) == policy.WireName(name) {
			return o
		}
	}
	return nil
}

// announcedAgain may give a live version other endpoints. What a person says always counts; what finds
// versions may not contradict another origin.
func (m *machine) announcedAgain(v *Version, e Announced) error {
	if e.Image != "" && e.Image != v.Image {
		return &Refusal{Conflict: true, Message: fmt.Sprintf("version %s runs %s already: announce %s under another name", v.Name, cmp.Or(v.Image, strings.Join(v.Endpoints, ", ")), e.Image)}
	}
	if e.Once && e.isAnother(v) {
		return m.pushedAgain(v, e)
	}
	if e.Origin != "" && e.Origin != v.Origin && !slices.Equal(v.Endpoints, e.Endpoints) {
		return &Refusal{Conflict: true, Message: fmt.Sprintf("version %s is at %s, says %s; %s says %s: name it in one place only", v.Name, strings.Join(v.Endpoints, ", "),
			cmp.Or(v.Origin, "who announced it"), e.Origin, strings.Join(e.Endpoints, ", "))}
	}
	if e.Tested && !v.onTrial() && len(e.Endpoints) > 0 && !slices.Equal(v.Endpoints, e.Endpoints) {
		return &Refusal{Tested: true, Message: fmt.Sprintf("version %s is %s: other endpoints would get its users without any test, which takes the role operate; deploy them under another name", v.Name, v.standing())}
	}
	if e.Content != "" && v.Content != "" && e.Content != v.Content {
		return &Refusal{Conflict: true, Message: fmt.Sprintf("version %s runs image %.19s, and containers with another one (%.19s) carry its labels: they get no requests; label them with another version", v.Name, v.Content, e.Content)}
	}
	v.Content = cmp.Or(v.Content, e.Content)
	if e.Origin == "" && len(e.Endpoints) > 0 {
		v.Origin = ""
	}
	m.endpoints(v, e.Endpoints, e.By)
	return nil
}

// pushedAgain takes another image of a live version's name in: it is what will be pulled, or too late.
func (m *machine) pushedAgain(v *Version, e Announced) error {
	if v.ImageAt.IsZero() {
		v.Digests = []string{e.Digest}
		return nil
	}
	return &Refusal{Conflict: true, Message: fmt.Sprintf("version %s is %s and runs another image than the one that was pushed (%s): push that under another name", v.Name, v.Phase, e.Digest)}
}

// left ends a version under test that is gone. One that serves keeps its endpoints: to take them away
// would help nobody.
func (m *machine) left(e Left) {
	v := m.Version(e.Version)
	if v == nil || v.Origin != e.Origin || !v.Phase.Waiting() {
		return
	}
	m.aborts(v, e.Origin, "its containers are gone")
}

// pinOf is the value of a version's session cookie: nobody who does not know the secret can make it,
// and it says nothing about the version.
func pinOf(secret, service, version string, attempt int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%s/%d", secret, service, version, attempt))
	return hex.EncodeToString(sum[:12])
}

func (m *machine) add(e Announced, attempt int) *Version {
	m.Seq++
	j := analysis.NewJudge()
	v := m.newest(&Version{
		Name: e.Version, Endpoints: slices.Clone(e.Endpoints), Origin: e.Origin, Seq: m.Seq, Attempt: attempt, AnnouncedAt: m.at, Phase: Queued,
		Reachable: m.Policy.Route.Probe == policy.ProbeOff,
		Launch:    Launch{Image: e.Image, Digests: e.digests(), Sealed: e.Image != "", Content: e.Content}, Trial: Trial{Config: JudgeConfig(&m.Policy), Judge: &j, Told: slices.Clone(m.Policy.Route.Classes), Pacing: Pacing{ToldSlow: m.Policy.Judge.Slow}},
		Sessions: Sessions{Pin: pinOf(e.Secret, m.Policy.Service, e.Version, attempt)},
	})
	if m.Stable == "" {
		m.record(v, KindAnnounced, e.By, "the first version of the service: it takes 100%% at once")
		m.becomeStable(v)
		v.Trusted = true
		return v
	}
	again := ""
	if attempt > m.Earlier+1 {
		again = fmt.Sprintf(" again, attempt %d,", attempt)
	}
	m.record(v, KindAnnounced, e.By, "announced%s with %s", again, cmp.Or(v.Image, strings.Join(v.Endpoints, ", ")))
	if e.Paused {
		v.PausedAt = m.at
	}
	return v
}

func (e *Announced) digests() []string {
	if e.Digest == "" {
		return nil
	}
	return []string{e.Digest}
}

// becomeStable gives a version everything that no other version holds.
func (m *machine) becomeStable(v *Version) {
	v.Slots, v.Phase, v.Judge, v.Reachable, v.Alarmed, v.Left = nil, Stable, nil, true, false, false
	v.WeightSince, v.TookOver, v.PausedAt, v.Until, v.EndedAt, v.PinsUntil = at0, at0, at0, at0, at0, at0
	m.Stable = v.Name
}

func (m *machine) endpoints(v *Version, endpoints []string, by string) {
	if len(endpoints) == 0 || slices.Equal(v.Endpoints, endpoints) || policy.EndpointList(endpoints) != nil {
		return
	}
	v.Endpoints, v.Refused = slices.Clone(endpoints), ""
	v.Starts.Began(seconds(m.at))
	m.record(v, KindEndpoints, by, "endpoints are now %s", strings.Join(endpoints, ", "))
}

// policyChanged takes a policy in. One that says what is in force already changes nothing: it may come
// with every reload, and its file may hold other services' policies that were edited.
func (m *machine) policyChanged(e PolicyChanged) {
	first := m.Policy.Service == ""
	says := says(&e.Policy)
	if !first && !m.Orphaned && says == m.says && says != "" {
		m.PolicyHash = e.Hash
		return
	}
	seeds := m.Policy.Versions
	m.Pinning = m.Pinning || m.Policy.Sessions != nil
	if !first && m.Policy.Judge.ClassLabel() != e.Policy.Judge.ClassLabel() {
		m.Book = Book{} // classes of another label would be waited for, and never come
	}
	m.Policy, m.PolicyHash, m.Orphaned, m.says = e.Policy, e.Hash, false, says
	budget, warmUp := e.Policy.Judge.Budget, e.Policy.Judge.WarmUp.Std().Seconds()
	for v := range m.each(func(v *Version) bool { return v.Config.Budget != budget || v.Config.WarmUp != warmUp }) {
		v.Config.Budget, v.Config.WarmUp = budget, warmUp
	}
	if !first {
		m.record(nil, KindPolicy, e.By, "policy %s is in force", e.Hash)
	}
	for _, seed := range e.Policy.Versions {
		v := m.Version(seed.Version)
		switch {
		case v != nil && v.Phase.Live():
			if !slices.ContainsFunc(seeds, func(old policy.Seed) bool {
				return old.Version == seed.Version && slices.Equal(old.Endpoints, seed.Endpoints)
			}) {
				m.endpoints(v, seed.Endpoints, e.By) // a seed that is as it was does not undo what was announced since
			}
		case first:
			m.seed(seed, e)
		}
	}
	m.tryAgain()
	m.tooMany()
}

// says is a hash of what a policy says. The one that comes with it is that of a whole file.
func says(p *policy.Policy) string {
	raw, err := json.Marshal(p)
	if err != nil {
		return "" // a number that JSON does not know: never the same
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:12])
}

// seed adds a version known from the start; the stable one goes first whatever its place in the list.
func (m *machine) seed(seed policy.Seed, e PolicyChanged) {
	add := func(s policy.Seed) {
		m.add(Announced{Version: s.Version, Endpoints: s.Endpoints, Secret: e.Secret, By: e.By}, m.Earlier+1)
	}
	if m.Stable == "" && !seed.Stable {
		for _, s := range m.Policy.Versions {
			if s.Stable {
				add(s)
			}
		}
	}
	if m.Version(seed.Version) == nil {
		add(seed)
	}
}

// tooMany sends the youngest canaries back into the line when the policy now allows fewer.
func (m *machine) tooMany() {
	for {
		places := m.placed()
		if len(places) <= m.Policy.Ramp.Canaries {
			return
		}
		m.requeue(places[len(places)-1], "ramp.canaries is now %d", m.Policy.Ramp.Canaries)
	}
}

// requeue takes a version's weight and its place. Sessions on it live on where it answers; until they
// have ended it is asked, counted and judged. Without any it is asked anew when its turn comes.
func (m *machine) requeue(v *Version, format string, args ...any) {
	if v.PinsUntil.IsZero() && v.is(pinned) && v.Reachable && !v.FirstWeight.IsZero() {
		v.PinsUntil = m.at.Add(m.sessionLife())
	}
	v.Leaving = size(v.Slots) > 0
	m.lower(v, 0)
	v.Phase = Queued
	if !v.PinsUntil.After(m.at) {
		m.endSessions(v)
	}
	m.record(v, KindQueued, System, "queued again: "+format, args...)
}

// endSessions sends those who are pinned to a version in line elsewhere. What was known of one that
// nobody asks from now on is forgotten.
func (m *machine) endSessions(v *Version) {
	v.PinsUntil = at0
	m.unasked(v)
}

// unasked forgets what was known of a version that nobody asks any more.
func (m *machine) unasked(v *Version) {
	if !v.is(probed) {
		v.Reachable = m.Policy.Route.Probe == policy.ProbeOff
	}
}

// expire ends the sessions on versions in line whose time is over.
func (m *machine) expire() {
	for _, v := range m.with(inLine) {
		if !v.PinsUntil.IsZero() && (!m.at.Before(v.PinsUntil) || m.Policy.Sessions == nil) {
			m.endSessions(v)
		}
	}
}

// elapsed is the time since the first weight in force, without pauses.
func (v *Version) elapsed(at time.Time) time.Duration {
	if v.FirstWeight.IsZero() {
		return 0
	}
	if !v.PausedAt.IsZero() {
		at = latest(v.PausedAt, v.FirstWeight)
	}
	return at.Sub(v.FirstWeight) - v.PausedFor
}

// latest of some moments.
func latest(moments ...time.Time) time.Time { return slices.MaxFunc(moments, time.Time.Compare) }
