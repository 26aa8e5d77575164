package rollout

import (
	"fmt"
	"slices"
	"strings"
)

// wayBack is the newest trusted version that the Envoys have and that answers; else the one that canaryd itself has
// just promoted another one over, if it raised no alars. Nil: there is none.
func (s *State) wayBack() *Version {
	var last *Version
	for _, v := range slices.Backward(s.Versions) {
		switch {
		case v.Name == s.Stable || !v.is(reserve) || !v.Reachable || len(v.Endpoints) == 0:
		case v.Trusted:
			return v
		case v.is(kept) && !v.Alarmed && !v.Left && last == nil:
			last = v
		}
	}
	return last
}

// options are what a person could say instead of a command that cannot be carried out, and what each would do.
type options []string

func (o *options) add(format string, args ...any) { *o = append(*o, fmt.Sprintf(format, args...)) }

// Only is the version that a command without one means: the only one under test. With none or several it is refused, with
// what each could mean.
func (s *State) Only(verb string) (string, error) {
	tested := s.with(open)
	if len(tested) == 1 {
		return tested[0].Name, nil
	}
	var o options
	for _, v := range tested {
		s.tested(&o, verb, v)
	}
	if verb == "abort" {
		s.back(&o)
	}
	if (verb == "abort" || verb == "promote") && len(tested) == 0 {
		s.promotable(&o, s.Version(s.Stable), 3)
	}
	if len(o) == 0 {
		return "", refuse("service %s has no canary to %s: `canaryd status %s` lists its versions", s.Policy.Service, verb, s.Policy.Service)
	}
	what := "has no canary"
	if len(tested) > 1 {
		what = "has several canaries"
	}
	return "", refuse("service %s %s: name the version: %s", s.Policy.Service, what, strings.Join(o, "; "))
}

// tested is what a command would do to a version under test.
func (s *State) tested(o *options, verb string, v *Version) {
	say := fmt.Sprintf("`canaryd %s %s %s`", verb, s.Policy.Service, v.Name)
	at := share(s.Weight(v.Name))
	switch {
	case verb == "promote":
		o.add("%s sends everything to it (%s, %s now)", say, v.Phase, at)
	case verb == "abort" && s.Weight(v.Name) > 0:
		o.add("%s sends its %s to %s", say, at, s.Stable)
	case verb == "abort":
		o.add("%s ends it (%s)", say, v.Phase)
	case verb == "pause" && v.is(counted) && !v.paused():
		o.add("%s keeps it at %s", say, at)
	case verb == "resume" && v.paused():
		o.add("%s lets it go on from %s", say, at)
	}
}

// back is what an abort of the stable version would do.
func (s *State) back(o *options) {
	say := fmt.Sprintf("`canaryd abort %s %s`", s.Policy.Service, s.Stable)
	if v := s.wayBack(); v != nil {
		o.add("%s sends everything to %s", say, v.Name)
	} else if v := s.revivable(); v != nil {
		o.add("%s starts %s and sends everything to it when it answers", say, v.Name)
	}
}

// promotable are the newest versions that a person could promote instead of one.
func (s *State) promotable(o *options, instead *Version, most int) {
	for _, v := range slices.Backward(s.Versions) {
		if most > 0 && v != instead && !v.is(cut) && !v.is(open) && len(v.Endpoints) > 0 {
			o.add("`canaryd promote %s %s` sends everything to %s (%s, at %s)", s.Policy.Service, v.Name, v.Name, v.Phase, strings.Join(v.Endpoints, ", "))
			most--
		}
	}
}

// revivable is the newest trusted version that can be started, when its turn is to serve everything again.
func (s *State) revivable() *Version {
	for _, v := range slices.Backward(s.Versions) {
		if v.Name != s.Stable && v.Trusted && v.Image != "" && s.Policy.Docker != nil && !v.Phase.Waiting() {
			return v
		}
	}
	return nil
}

// couldBe says which versions a person could promote instead of one.
func (s *State) couldBe(v *Version) string {
	var names []string
	for _, o := range slices.Backward(s.Versions) {
		if o != v && !o.is(cut) && len(o.Endpoints) > 0 && len(names) < 3 {
			names = append(names, fmt.Sprintf("`canaryd promote %s %s` (%s, %s)", s.Policy.Service, o.Name, o.Phase, strings.Join(o.Endpoints, ", ")))
		}
	}
	if len(names) == 0 {
		return ": deploy one"
	}
	return ": start one and " + strings.Join(names, ", or ")
}
