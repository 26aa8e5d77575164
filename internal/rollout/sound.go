package rollout

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
)

// sound says which invariant of a state does not hold: Step relies on them, and a stored state may be
// damaged, or made by another build.
func (s *State) sound() error {
	if err := soundPolicy(&s.Policy); err != nil {
		return err
	}
	var err error
	s.eachMoment(func(m moment) { err = errors.Join(err, soundMoment(*m.at)) })
	if err != nil {
		return err
	}
	var taken []Segment
	for i, v := range s.Versions {
		if err := v.sound(); err != nil {
			return fmt.Errorf("version %q: %w", v.Name, err)
		}
		if i > 0 && v.Seq <= s.Versions[i-1].Seq || v.Seq > s.Seq {
			return fmt.Errorf("version %q: number %d is out of order", v.Name, v.Seq)
		}
		if s.Version(v.Name) != v {
			return fmt.Errorf("version %q is there twice", v.Name)
		}
		if (v.Phase == Stable) != (v.Name == s.Stable) {
			return fmt.Errorf("version %q is %s, and the stable version is %q", v.Name, v.Phase, s.Stable)
		}
		taken = append(taken, v.Slots...)
	}
	if s.Stable != "" && s.Version(s.Stable) == nil {
		return fmt.Errorf("the stable version %q is not there", s.Stable)
	}
	if s.Stable == "" && len(taken) > 0 {
		return fmt.Errorf("there is no stable version, and others hold slots")
	}
	return errors.Join(soundSlots(taken), soundRuns(s.Given), soundRuns(s.Accepted))
}

// soundRuns refuses a table that is neither empty nor whole.
func soundRuns(runs []Run) error {
	left := policy.FullWeight
	for _, r := range runs {
		if r.Count <= 0 || r.Count > left {
			return fmt.Errorf("%d slots of version %q are not there", r.Count, r.Version)
		}
		left -= r.Count
	}
	if len(runs) > 0 && left > 0 {
		return fmt.Errorf("%d slots belong to nobody", left)
	}
	return nil
}

func (v *Version) sound() error {
	switch {
	case v.Name == "":
		return fmt.Errorf("it has no name")
	case !slices.Contains(phases(), v.Phase):
		return fmt.Errorf("there is no phase %q", v.Phase)
	case v.Done < Leave || v.Done > Prune:
		return fmt.Errorf("there is no goal %d for its containers", v.Done)
	case len(v.Told) > policy.ClassesMost:
		return fmt.Errorf("it is told apart by %d classes", len(v.Told))
	case len(v.Slots) > 0 && !v.is(weighted):
		return fmt.Errorf("it is %s and holds slots", v.Phase)
	}
	return v.soundClasses()
}

// soundSlots refuses segments outside of the 10 000 slots, and those that overlap.
func soundSlots(taken []Segment) error {
	slices.SortFunc(taken, func(a, b Segment) int { return a.Start - b.Start })
	end := 0
	for _, t := range taken {
		if t.Count <= 0 || t.Start < end || t.Count > policy.FullWeight-t.Start {
			return fmt.Errorf("%d slots from %d on are taken twice, or are not there", t.Count, t.Start)
		}
		end = t.Start + t.Count
	}
	return nil
}

// soundPolicy refuses what no policy file can say and Step cannot bear.
func soundPolicy(p *policy.Policy) error {
	if p.Service == "" {
		return fmt.Errorf("its policy names no service")
	}
	if p.Ramp.Canaries < 1 {
		return fmt.Errorf("its policy judges %d canaries at once", p.Ramp.Canaries)
	}
	if n := len(p.Route.Classes); n > policy.ClassesMost {
		return fmt.Errorf("its policy has %d classes", n)
	}
	last := 0
	for _, w := range p.Ramp.Weights() {
		if w <= last || w > policy.FullWeight {
			return fmt.Errorf("the steps of its policy do not rise from 0%% to 100%%")
		}
		last = w
	}
	settings := JudgeConfig(p)
	return settings.Sound()
}

// soundMoment refuses times so far away that sums of times overflow.
func soundMoment(t time.Time) error {
	if !t.IsZero() && (t.Year() < 1970 || t.Year() > 2200) {
		return fmt.Errorf("%s is not a time at which canaryd ran", t.Format(time.RFC3339))
	}
	return nil
}

// SoundEvent refuses what no edge reports and Step cannot bear.
func SoundEvent(e Event) error {
	err := soundMoment(e.when())
	switch e := e.(type) {
	case Observed:
		for _, c := range e.Cells {
			err = errors.Join(err, c.sound())
		}
	case Sampled:
		for _, all := range e.Failures {
			for _, x := range all {
				err = errors.Join(err, x.Sound())
			}
		}
	case Launched:
		if e.Done < Leave || e.Done > Prune {
			err = errors.Join(err, fmt.Errorf("there is no goal %d for containers", e.Done))
		}
	case PolicyChanged:
		err = errors.Join(err, soundPolicy(&e.Policy))
	}
	return err
}

func (c *Cell) sound() error {
	err := errors.Join(soundMoment(c.From), soundMoment(c.To))
	if c.Proxy < 0 || c.Proxy >= proxies {
		err = errors.Join(err, fmt.Errorf("there is no kind %d of proxies", c.Proxy))
	}
	for _, n := range c.Counts {
		err = errors.Join(err, n.Sound())
	}
	for _, es := range c.Endpoints {
		for _, s := range es {
			err = errors.Join(err, s.Sound())
		}
	}
	return errors.Join(err, c.soundAnswers())
}
