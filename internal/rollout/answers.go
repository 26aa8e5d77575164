package rollout

import (
	"errors"
	"fmt"

	"github.com/canaryd/canaryd/internal/analysis"
)

// joinAnswers adds what a later cell says of answers.
func (c *Cell) joinAnswers(later Cell) {
	for version, as := range later.Answers {
		if c.Answers == nil {
			c.Answers = map[string][]analysis.Answer{}
		}
		c.Answers[version] = analysis.JoinAnswers(c.Answers[version], as)
	}
	for version, ts := range later.Times {
		if c.Times == nil {
			c.Times = map[string][]analysis.Times{}
		}
		c.Times[version] = analysis.JoinTimes(c.Times[version], ts)
	}
	for version, n := range later.Issued {
		if c.Issued == nil {
			c.Issued = map[string]float64{}
		}
		c.Issued[version] += n
	}
}

// soundAnswers refuses numbers of answers that no edge reports.
func (c *Cell) soundAnswers() (err error) {
	for version, as := range c.Answers {
		for _, a := range as {
			if bad := a.Sound(); bad != nil || a.Errors > a.Requests {
				err = errors.Join(err, bad, fmt.Errorf("answers of version %q: %g errors of %g", version, a.Errors, a.Requests))
			}
		}
	}
	for version, ts := range c.Times {
		for i := range ts {
			if bad := ts[i].Sound(); bad != nil {
				err = errors.Join(err, fmt.Errorf("times of version %q: %w", version, bad))
			}
		}
	}
	for version, n := range c.Issued {
		if bad := (analysis.Counts{Requests: n}).Sound(); bad != nil {
			err = errors.Join(err, fmt.Errorf("requests begun at version %q: %w", version, bad))
		}
	}
	return err
}
