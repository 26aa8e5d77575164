package rollout

import (
	"iter"
	"slices"
	"time"
)

// Versions are copied when a step may change them. Those that have not ended are, by every step; there are few. Those that
// have, up to two hundred, are shared by all states until a step changes one: a service's past costs a step nothing. So a
// step gets at versions by what is in this file, by traits (with, in), which only those have that have not ended, and by
// what it adds: whatever it is handed is its own.

// clone shares nothing with its original that anything changes in place.
func (s State) clone() State {
	s = s.fork()
	for i, v := range s.Versions {
		if !v.Phase.Live() {
			s.Versions[i] = v.copied(nil)
		}
	}
	s.own(nil)
	if s.Watch != nil {
		w := *s.Watch
		s.Watch = &w
	}
	s.Refused = slices.Clone(s.Refused)
	return s
}

// fork is what a step begins with. It shares with the state before what most steps leave as it is: versions that have
// ended; evidence, of which a step that adds to it gets its own (own); and judges, slots and the watch, which are replaced
// where they change.
func (s State) fork() State {
	s.Versions = forked(s.Versions, nil)
	return s
}

func forked(versions []*Version, spare *Spare) []*Version {
	versions = slices.Clone(versions)
	for i, v := range versions {
		if v.Phase.Live() {
			versions[i] = v.copied(spare) // each by itself: what is left of one keeps nothing else in memory
		}
	}
	return versions
}

func (v *Version) copied(spare *Spare) *Version {
	c := spare.version()
	*c = *v
	return c
}

// own copies what evidence is added to. That of versions that have ended stays as it is.
func (s *State) own(spare *Spare) {
	for _, v := range s.Versions {
		if !v.Phase.Live() {
			continue
		}
		v.Instances, v.Envoys, v.Classes = slices.Clone(v.Instances), slices.Clone(v.Envoys), slices.Clone(v.Classes)
		v.Failures.Own(spare.seen())
		v.Starts = v.Starts.Clone()
		v.ownJudge(spare)
		v.lookUp()
	}
	s.Dispersion.Own(spare.open())
	s.Book, s.Pace, s.Hang = s.Book.clone(), s.Pace.Clone(), s.Hang.clone()
}

// ownJudge makes a copy of its judge, which is to change.
func (v *Version) ownJudge(spare *Spare) {
	if v.Judge != nil {
		j := spare.judge()
		v.Judge.CloneTo(j)
		v.Judge = j
	}
}

// its is a version that the step may change.
func (m *machine) its(i int) *Version {
	if v := m.Versions[i]; !v.Phase.Live() && slices.Contains(m.earlier, v) {
		m.Versions[i] = v.copied(m.spare)
	}
	return m.Versions[i]
}

// Version finds a version by name, for the step to change; nil when unknown.
func (m *machine) Version(name string) *Version {
	i := slices.IndexFunc(m.Versions, func(v *Version) bool { return v.Name == name })
	if i < 0 {
		return nil
	}
	return m.its(i)
}

// each are the versions that have something, those that have ended too, oldest first, for the step to change. What it asks
// it must not change.
func (m *machine) each(has func(*Version) bool) iter.Seq[*Version] {
	return func(yield func(*Version) bool) {
		for i := range m.Versions {
			if has(m.Versions[i]) && !yield(m.its(i)) {
				return
			}
		}
	}
}

// ended are the versions that have, oldest first. What is read here is not changed.
func (s *State) ended() (vs []*Version) {
	for _, v := range s.Versions {
		if !v.Phase.Live() {
			vs = append(vs, v)
		}
	}
	return vs
}

// drop takes the versions out that have something.
func (m *machine) drop(has func(*Version) bool) { m.Versions = slices.DeleteFunc(m.Versions, has) }

// newest adds a version.
func (m *machine) newest(v *Version) *Version {
	m.Versions = append(m.Versions, v)
	return v
}

// forget drops ended versions, those first that ended first. The last ones are kept, all of the last hour, because
// somebody may still wait for the outcome, and those whose containers are still to go.
func (m *machine) forget() {
	if !m.mayForget(m.at) {
		return
	}
	ended := m.ended()
	slices.SortStableFunc(ended, func(a, b *Version) int { return b.EndedAt.Compare(a.EndedAt) })
	gone := map[*Version]bool{}
	for n, v := range ended {
		kept := m.Policy.Docker != nil && v.Image != "" && v.Done < Prune
		if n >= keepEnded && m.at.Sub(v.EndedAt) >= keepFor && (!kept || n >= 5*keepEnded) || n >= mostEnded {
			gone[v] = true
		}
	}
	for _, v := range m.ended() {
		if gone[v] {
			m.Forgotten = append(slices.Clip(m.Forgotten), v.Name)
		}
	}
	m.Forgotten = m.Forgotten[max(0, len(m.Forgotten)-mostForgotten):]
	m.drop(func(v *Version) bool { return gone[v] })
}

// mayForget reports whether there may be something to forget: there seldom is.
func (s *State) mayForget(at time.Time) bool {
	n, old := 0, false
	for _, v := range s.Versions {
		if !v.Phase.Live() {
			n, old = n+1, old || at.Sub(v.EndedAt) >= keepFor
		}
	}
	return n > mostEnded || n > keepEnded && old
}
