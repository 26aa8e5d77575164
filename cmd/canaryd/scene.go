package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/world"
)

// happens has a scene happen, and says what should have gone otherwise.
func (s *scene) happens(w *world.Script) string {
	for version, rate := range s.Errors {
		w.Errors[version] = float64(rate)
	}
	if s.Rate != nil {
		w.Rate = *s.Rate
	}
	if s.Evidence != nil {
		w.Silent = !*s.Evidence
	}
	err := s.envoy(w)
	for version, up := range map[string]bool{s.Down: false, s.Up: true} {
		if version != "" {
			err = errors.Join(err, w.Answer(version, up))
		}
	}
	for _, o := range s.commands() {
		if o.verb == "announce" {
			err = errors.Join(err, w.Announce(o.version, s.Again))
		} else {
			err = errors.Join(err, w.Command(o.verb, o.version, s.Knowing))
		}
	}
	switch {
	case err != nil && (s.Refused == "" || !strings.Contains(err.Error(), s.Refused)):
		return fmt.Sprintf("refused: %v", err)
	case err == nil && s.Refused != "":
		return fmt.Sprintf("it was to be refused (%s), and was done", s.Refused)
	}
	return ""
}

// envoy has the Envoy refuse, or accept again.
func (s *scene) envoy(w *world.Script) error {
	switch s.Envoy {
	case "":
		return nil
	case "accepts":
		return w.Accepts()
	}
	w.Refuses = s.Envoy
	return nil
}

// missed is what is not as it is expected: now, or within the time that it has.
func (s *scene) missed(w *world.Script) string {
	until := w.At() + s.Within.Std()
	for {
		why := s.differs(&w.State)
		if why == "" || w.At() >= until || w.Ended() != nil {
			return why
		}
		w.Until(min(until, w.At()+time.Second))
	}
}

// differs says what is not as it is expected at present.
func (s *scene) differs(state *rollout.State) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(s.Expect)) {
		e := s.Expect[name]
		v := state.Version(name)
		if v == nil {
			all = append(all, fmt.Sprintf("there is no version %s", name))
			continue
		}
		if why := e.differs(v, state.Weight(name)); why != "" {
			all = append(all, fmt.Sprintf("%s is %s at %s, %s %s (%s); expected %s", name, v.Phase, percent(float64(state.Weight(name))/policy.FullWeight),
				v.Verdict.Outcome, v.Verdict.Code, v.Verdict.Reason, why))
		}
	}
	return strings.Join(all, "; ")
}

// differs is what is expected and is not so.
func (e expected) differs(v *rollout.Version, weight int) string {
	var all []string
	want := func(ok bool, what, text string) {
		if !ok && text != "" {
			all = append(all, what+text)
		}
	}
	limits, _ := e.weight() // it was read before
	want(e.Phase == v.Phase, "phase ", string(e.Phase))
	want(weight >= limits[0] && weight <= limits[1], "weight ", e.Weight)
	want(e.Outcome == string(v.Verdict.Outcome), "outcome ", e.Outcome)
	want(e.Code == string(v.Verdict.Code), "code ", e.Code)
	want(strings.Contains(v.Verdict.Reason, e.Reason), "a reason with ", e.Reason)
	return strings.Join(all, ", ")
}

func fractions(shares map[string]policy.Share) map[string]float64 {
	m := map[string]float64{}
	for k, v := range shares {
		m[k] = float64(v)
	}
	return m
}
