package controller

import (
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/rollout"
)

// shadow is a service as it was before a promotion that is not stored. The Envoys still give the version its share, and
// may for as long as the disk hangs: so it goes on being judged, whoever promoted it, and when it is cut the promotion is
// withdrawn. One after the other may be promoted so: the first shadow is the service as the Envoys have it.
type shadow struct {
	state    rollout.State
	decision uint64           // the promotion
	version  string           // that was promoted
	records  []rollout.Record // what state has decided since
}

// cast keeps the state from before a promotion of a version that is judged, and that the Envoys serve.
func (u *unit) cast(before rollout.State, records []rollout.Record) {
	version := records[slices.IndexFunc(records, promoting)].Version
	v := before.Version(version)
	u.lent = true // they may share judges
	if u.lift(); len(u.shadows) > 0 || v != nil && v.Phase.Waiting() && u.outbox.serves(time.Now(), version) {
		u.shadows = append(u.shadows, &shadow{state: before, decision: u.outbox.decided, version: version})
	}
}

// follow lets the states from before promotions live on beside what is decided, and reports that what the Envoys serve of a
// version that was promoted is cut.
func (u *unit) follow(e rollout.Event) (cut bool) {
	if u.lift(); len(u.shadows) > 0 && u.state.Stable != u.shadows[len(u.shadows)-1].version {
		u.shadows = nil
	}
	if o, ok := e.(rollout.Observed); ok {
		o.Stuck = true // nothing is promoted again
		e = o
	}
	for i, s := range u.shadows {
		next, records, err := rollout.Step(s.state, e)
		if err != nil {
			continue // what fits the state after the promotion need not fit the one before it
		}
		s.state, s.records = next, append(s.records, records...)
		cut = cut || i == 0 && slices.ContainsFunc(records, func(r rollout.Record) bool { return r.Kind.Cut() && u.promoted(r.Version) })
	}
	return cut
}

// lift ends shadows: of promotions that are stored, and all of them where what was promoted has been cut since, so that it
// is to be judged no more, or what was stable before, so that there is nothing to go back to.
func (u *unit) lift() {
	u.shadows = slices.DeleteFunc(u.shadows, func(s *shadow) bool { return s.decision <= u.outbox.stored })
	for _, v := range u.state.Versions {
		if v.Cut() && len(u.shadows) > 0 && (u.promoted(v.Name) || v.Name == u.shadows[0].state.Stable) {
			u.shadows = nil
		}
	}
}

// promoted reports whether a version was promoted by a decision that is not stored.
func (u *unit) promoted(version string) bool {
	return slices.ContainsFunc(u.shadows, func(s *shadow) bool { return s.version == version })
}

// withdraw goes back to before the promotions that no Envoy has seen.
func (c *Controller) withdraw(u *unit) {
	s, decided, log := u.shadows[0], u.state, c.Log.WithField("service", u.state.Policy.Service)
	var promoted []string
	for _, o := range u.shadows {
		promoted = append(promoted, o.version)
	}
	u.shadows = nil
	u.scribe.restart(journal.Withdrawn)
	u.state, u.kept, u.lent = rollout.Withdraw(s.state, decided, promoted), false, true
	c.outdated(u)
	c.rewrite(u, s)
	log.WithField("versions", promoted).Warn("what was promoted and is not stored is withdrawn")
}

// rewrite makes the history since the promotion that of the shadow; only what ended by what was decided instead stays
// so. What is not in the store was never so, and nobody hears of it. What is in the store, because a write held it that is
// under way or that failed after it was durable, has happened for whoever reads it: it stays, and the cut follows it.
// Which is which is known when the next write begins.
func (c *Controller) rewrite(u *unit, s *shadow) {
	var withdrawn []*pending
	for _, p := range u.records {
		was, is := s.state.Version(p.entry.Version), u.state.Version(p.entry.Version)
		stays := p.entry.Kind.Ends() && was != nil && was.Phase.Live() && !is.Phase.Live()
		if p.decision >= s.decision && !stays {
			p.withdrawn = true
			withdrawn = append(withdrawn, p)
		}
	}
	same := make([]*pending, len(s.records))
	var news []rollout.Record
	for i := range s.records { // of the same events
		r := &s.records[i]
		if j := slices.IndexFunc(withdrawn, func(p *pending) bool { return p.entry.of(*r) }); j >= 0 {
			same[i] = withdrawn[j]
			continue
		}
		if r.Version == s.version && r.Kind.Cut() {
			r.Reason += "; " + rollout.Withdrawn
		}
		news = append(news, *r)
	}
	n := c.number(u, u.falls(news), u.state.Stable)
	for i, r := range s.records {
		u.keep(n, entryOf(u, r), same[i])
		if same[i] == nil {
			c.say(r)
		}
	}
}

// busy reports whether time or evidence can change anything of a service.
func (u *unit) busy() bool { return len(u.shadows) > 0 || u.state.Busy() }

// looked is the state whose versions are asked whether they answer: the one that the Envoys have.
func (u *unit) looked() *rollout.State {
	if len(u.shadows) > 0 {
		return &u.shadows[0].state
	}
	return &u.state
}

// reported are the versions whose requests and errors are to be counted.
func (u *unit) reported() (names []string) {
	for _, s := range []*rollout.State{&u.state, u.looked()} {
		for _, v := range s.Versions {
			if v.Reported() && !slices.Contains(names, v.Name) {
				names = append(names, v.Name)
			}
		}
	}
	return names
}
