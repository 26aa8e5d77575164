package analysis

import (
	"errors"
	"fmt"
	"math"
)

// What a stored number may be at most: beyond these a sum could overflow, and no service gets there.
const (
	mostCount   = 1e15
	mostSeconds = 1e10 // three centuries
	mostBet     = 1e101
)

// Sound says what makes settings unusable, nil when nothing does.
func (c *Config) Sound() error {
	for name, p := range map[string]float64{"false_rollback": c.Alpha, "false_promotion": c.Beta} {
		if !(p > 1e-15 && p < 1) {
			return fmt.Errorf("%s is %g: it lies between 0 and 1", name, p)
		}
	}
	if c.Clump != 0 && !(c.Clump >= 1 && c.Clump <= clumpMax) {
		return fmt.Errorf("clump is %g: it lies between 1 and %g", c.Clump, clumpMax)
	}
	if !(c.Burst >= 0 && c.Burst <= MostBurst) {
		return fmt.Errorf("burst is %g s: it lies between 0 and %g", c.Burst, MostBurst)
	}
	if !(c.R0 > 0 && c.R1 > 0) {
		return fmt.Errorf("the ratios %g and %g are above 0", c.R0, c.R1)
	}
	if err := c.Slow.sound(); err != nil {
		return err
	}
	if !(c.Hang == 0 || c.Hang >= 0.1 && c.Hang <= 3600) {
		return fmt.Errorf("hang is %g s: it lies between 0.1 and 3600", c.Hang)
	}
	r := c.Restarts
	if r != (Restarts{}) && !(r.After > 0) {
		return fmt.Errorf("restarts after %g s: it is above 0", r.After)
	}
	return each("setting", 1e6, c.R0, c.D0, c.R1, c.D1, c.Ceiling, c.WarmUp/mostSeconds, c.Budget/mostCount, c.Exercise/mostCount, r.Start, r.Step, r.After/mostSeconds, r.Power)
}

// Sound says what makes a stored judge unusable, nil when nothing does.
func (j *Judge) Sound() error {
	for name, c := range map[string]*Capital{"relative": &j.Relative, "ceiling": &j.Ceiling, "placebo": &j.Placebo.Capital, "before a hiccup": &j.Hiccup.Relative, "ceiling before a hiccup": &j.Hiccup.Ceiling} {
		if err := c.sound(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := each("promotion", mostBet, append(j.Promotion.N[:], j.Promotion.E)...); err != nil {
		return err
	}
	for _, l := range j.Interval.L {
		if !(math.Abs(l) <= mostCount) {
			return fmt.Errorf("interval: %g is out of bounds", l)
		}
	}
	if err := j.Recent.sound(); err != nil {
		return err
	}
	if err := j.Ends.sound(); err != nil {
		return err
	}
	if err := seconds(j.Failing.At, j.Failing.Spread); err != nil {
		return err
	}
	for _, f := range j.Failing.Endpoints {
		if err := errors.Join(seconds(f.Last, f.Before), each("errors", mostCount, f.Errors)); err != nil {
			return err
		}
	}
	if err := j.Classes.sound(); err != nil {
		return err
	}
	for i := range j.Hiccup.Classes {
		h := &j.Hiccup.Classes[i]
		if err := errors.Join(h.Capital.sound(), h.Batch.Canary.Sound(), h.Batch.Stable.Sound()); err != nil {
			return fmt.Errorf("class %d before a hiccup: %w", i, err)
		}
	}
	if err := j.Slow.sound(); err != nil {
		return err
	}
	x, h := j.Exposure, j.Hiccup
	for _, c := range []Counts{x.Canary, x.Stable, h.Batch.Canary, h.Batch.Stable, h.Well, {Errors: j.Moments.Errors}, j.Open[0].Canary, j.Open[0].Stable, j.Open[1].Canary, j.Open[1].Stable} {
		if err := c.Sound(); err != nil {
			return err
		}
	}
	for _, m := range []float64{j.M, h.M} {
		if !(m >= 0 && m <= clumpMax) {
			return fmt.Errorf("clump bound %g: it lies between 0 and %g", m, clumpMax)
		}
	}
	return seconds(x.At, h.Begin, h.Last, j.Open[0].Since, j.Open[1].Since, j.LastFlush, j.IncidentUntil, j.Starving, j.ObservedAt, j.Placebo.Since)
}

func (c *Classes) sound() error {
	if c == nil {
		return nil
	}
	if len(c.Each) < 2 || len(c.Each) > MostClasses {
		return fmt.Errorf("%d classes: there are 2 to %d", len(c.Each), MostClasses)
	}
	err := errors.Join(each("evidence", mostBet, c.E, c.MaxE), c.Twin.sound())
	for kind := range c.Thin {
		err = errors.Join(err, c.Thin[kind].sound(), c.Lost[kind].sound())
	}
	for i := range c.Each {
		k := &c.Each[i]
		err = errors.Join(err, k.Capital.sound(), each("share", 1, k.Share), each("count", mostCount, k.Now, k.Before), seconds(k.Minute))
		for kind := range k.Open {
			err = errors.Join(err, k.Open[kind].sound())
		}
	}
	return err
}

func (r *ripening) sound() error {
	return errors.Join(r.Canary.Sound(), r.Stable.Sound(), seconds(r.Since, r.First))
}

func (c *Capital) sound() error {
	if err := each("capital", mostBet, append(c.S[:], c.Q, c.E, c.MaxE)...); err != nil {
		return err
	}
	return seconds(c.Prev)
}

func (r *Recent) sound() error {
	for i := range r.Len {
		b := r.at(i)
		if err := b.B.Canary.Sound(); err != nil {
			return err
		}
		if err := b.B.Stable.Sound(); err != nil {
			return err
		}
		if err := seconds(b.At); err != nil {
			return err
		}
		if i > 0 && b.At < r.at(i-1).At {
			return fmt.Errorf("recent: bucket %d is older than the one before it", i)
		}
	}
	return nil
}

func (x *Ends) sound() error {
	for i, e := range x.At[:x.Len] {
		if err := each("capital", mostBet, e.E, e.Promotion); err != nil {
			return err
		}
		if err := seconds(e.At); err != nil {
			return err
		}
		if i > 0 && e.At < x.At[i-1].At {
			return fmt.Errorf("ends: batch %d ended before the one before it", i)
		}
	}
	return nil
}

// Sound says what makes counts unusable, nil when nothing does.
func (c Counts) Sound() error { return each("count", mostCount, c.Requests, c.Errors) }

// Sound says what makes a stored dispersion unusable, nil when nothing does.
func (d *Dispersion) Sound() error {
	for w := range windowWidths {
		l, j := d.Lately[w], d.Just[w]
		if err := each("dispersion", mostCount*mostCount, d.Num[w], d.Den[w], d.Dof[w], l.Num, l.Den, l.Dof, j.Num, j.Den, j.Dof); err != nil {
			return err
		}
		for _, s := range d.Open[w].Slices {
			if err := s.Sound(); err != nil {
				return err
			}
		}
		for _, c := range d.Single[w].Past {
			if err := c.Sound(); err != nil {
				return err
			}
		}
		if err := seconds(d.Open[w].Start); err != nil {
			return err
		}
	}
	if err := each("errors", mostCount, d.Errs); err != nil {
		return err
	}
	if err := d.Outage.Good.Sound(); err != nil {
		return err
	}
	return seconds(d.At, d.Seen, d.Outage.Since, d.Outage.Last)
}

// Sound says what makes stable's usual rate unusable, nil when nothing does.
func (u *Usual) Sound() error {
	if err := u.Counts.Sound(); err != nil {
		return err
	}
	if err := each("seconds of usual traffic", mostSeconds, u.Seconds); err != nil {
		return err
	}
	return seconds(u.At)
}

// each refuses what is not a number from 0 to most.
func each(what string, most float64, xs ...float64) error {
	for _, x := range xs {
		if !(x >= 0 && x <= most) {
			return fmt.Errorf("%s: %g is not between 0 and %g", what, x, most)
		}
	}
	return nil
}

func seconds(xs ...float64) error {
	for _, x := range xs {
		if !(math.Abs(x) <= mostSeconds) {
			return fmt.Errorf("%g s is not a moment", x)
		}
	}
	return nil
}
