package rollout

import "slices"

// Phase is where a version stands in its life.
type Phase string

// The phases of a version.
const (
	Queued     Phase = "queued"     // waits in line
	Warming    Phase = "warming"    // known to Envoy, gets nothing yet
	Canary     Phase = "canary"     // judged, with a weight
	Paused     Phase = "paused"     // weight frozen by a person; still cut when worse
	Stable     Phase = "stable"     // the trusted one
	Warm       Phase = "warm"       // was stable, kept for the way back
	Draining   Phase = "draining"   // pinned sessions only
	Retired    Phase = "retired"    // gone after a good life
	Failed     Phase = "failed"     // judged worse
	Aborted    Phase = "aborted"    // cut by a person
	Superseded Phase = "superseded" // a newer one was promoted first
)

// trait is what a phase means to one who asks. Only the transitions, from one phase to the next, name
// phases; everything else asks for a trait, so that a new phase is a new row below.
type trait uint

const (
	live     trait = 1 << iota // has not ended. Commands, announcements and what finds versions ask
	open                       // its fate is open: it may be aborted, superseded, and ended by those who found it
	inLine                     // waits for its turn, or for a weight: sessions from before may live on meanwhile
	awaited                    // its turn has come, and its first weight waits until it answers
	counted                    // takes one of the places of ramp.canaries
	ramped                     // goes up the steps: the ramp and its clocks ask. It takes a weight, or had one
	weighted                   // may hold slots of its own
	timed                      // time or evidence may change it: a service with none costs nothing

	routable // Envoy is told where it is
	pinned   // sessions on it are honoured, if it answers
	probed   // asked every second whether it answers
	reported // Envoys, or Prometheus, are asked for its counts
	judged   // evidence against it cuts it, whatever else is the matter
	cut      // must get nothing, whatever happens: the table names it

	kept     // was stable a moment ago, and has what it needs to be it again
	relieved // was stable, and another one is now
	reserve  // the Envoys have it, and it is the way back where it is trusted and answers
	reborn   // a new attempt begins when somebody announces it

	launched // its containers are started
	spare    // containers that it has go on until they are idle
	swept    // its containers are removed: nobody will want to look at them
)

// traits of a phase; 0 for one that there is not.
func (p Phase) traits() trait {
	const (
		tested = live | open | timed | counted | routable | probed | reported | launched
		served = live | routable | pinned | reported | launched
	)
	switch p {
	case Queued:
		return live | open | timed | inLine | spare
	case Warming:
		return tested | inLine | awaited
	case Canary, Paused:
		return tested | ramped | weighted | pinned | judged
	case Stable:
		return served
	case Warm:
		return served | timed | weighted | probed | kept | relieved | reserve | reborn
	case Draining:
		return served | timed | probed | relieved | reserve | reborn
	case Retired:
		return swept | relieved | reborn
	case Failed:
		return cut
	case Aborted:
		return cut | spare
	case Superseded:
		return spare | reborn
	}
	return 0
}

func phases() []Phase {
	return []Phase{Queued, Warming, Canary, Paused, Stable, Warm, Draining, Retired, Failed, Aborted, Superseded}
}

// is reports whether the phase has one of the traits.
func (p Phase) is(t trait) bool { return p.traits()&t != 0 }

// Live reports whether the version has not ended.
func (p Phase) Live() bool { return p.is(live) }

// Waiting reports whether the version's fate is still open.
func (p Phase) Waiting() bool { return p.is(open) }

// Cut reports whether the version must get nothing: it has failed, or a person aborted it.
func (p Phase) Cut() bool { return p.is(cut) }

// Replaced reports whether the version was stable, and another one is now.
func (p Phase) Replaced() bool { return p.is(relieved) }

// Reserve reports whether the version was stable, and the Envoys still have it.
func (p Phase) Reserve() bool { return p.is(reserve) }

// is reports whether the version has one of the traits: its phase's and, while sessions on it live on in
// line, all that goes with getting requests.
func (v *Version) is(t trait) bool {
	ts := v.Phase.traits()
	if ts&inLine != 0 && !v.PinsUntil.IsZero() {
		ts |= routable | pinned | probed | reported | judged
	}
	if ts&inLine != 0 && v.Leaving {
		ts |= probed | reported | judged
	}
	return ts&t != 0
}

// Probed reports whether the version's endpoints are to be asked whether they answer.
func (v *Version) Probed() bool { return v.is(probed) }

// Cut reports whether the version must get nothing: it has failed, or a person aborted it.
func (v *Version) Cut() bool { return v.is(cut) }

// Reported reports whether the version's requests and errors are to be counted.
func (v *Version) Reported() bool { return v.is(reported) }

// Judging reports whether evidence can cut a version now: the sooner it comes, the better.
func (s *State) Judging() bool {
	return slices.ContainsFunc(s.with(judged), func(v *Version) bool { return s.Weight(v.Name) > 0 || v.Leaving || !v.PinsUntil.IsZero() })
}

// Canaries are the versions that have or had a weight and are being judged, oldest first.
func (s *State) Canaries() []*Version { return s.with(ramped) }

// with are the versions that have not ended and have one of the traits, oldest first.
func (s *State) with(t trait) []*Version { return s.appendWith(nil, t) }

func (s *State) appendWith(vs []*Version, t trait) []*Version {
	for _, v := range s.Versions {
		if v.Phase.Live() && v.is(t) {
			vs = append(vs, v)
		}
	}
	return vs
}

// with is the same while a step lasts.
func (m *machine) with(t trait) []*Version {
	begin := len(m.lists)
	m.lists = m.appendWith(m.lists, t)
	return m.lists[begin:len(m.lists):len(m.lists)]
}

// Canaries are the same while a step lasts.
func (m *machine) Canaries() []*Version { return m.with(ramped) }

// any reports whether a version that has not ended has one of the traits.
func (s *State) any(t trait) bool {
	return slices.ContainsFunc(s.Versions, func(v *Version) bool { return v.Phase.Live() && v.is(t) })
}

// in are the versions in a phase that is not the end, oldest first: those that may leave it.
func (s *State) in(p Phase) []*Version {
	var vs []*Version
	for _, v := range s.Versions {
		if v.Phase == p && p.Live() {
			vs = append(vs, v)
		}
	}
	return vs
}

// Known reports whether there is such a phase.
func (p Phase) Known() bool { return slices.Contains(phases(), p) }
