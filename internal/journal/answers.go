package journal

import (
	"slices"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// What a cell says of answers, from format 2 on. The same as with kinds.
const (
	hasAnswers = hasEndpoints << (iota + 1)
	hasTimes
	hasIssued
)

func ofAnswers(c *rollout.Cell) byte {
	return bit(hasAnswers, c.Answers != nil) | bit(hasTimes, c.Times != nil) | bit(hasIssued, c.Issued != nil)
}

func (o *eventsOut) answers(c *rollout.Cell) {
	if c.Answers != nil {
		byVersion(&o.out, c.Answers, func(as []analysis.Answer) {
			list(&o.out, as, func(a analysis.Answer) {
				o.text(a.Class)
				o.text(a.Code)
				o.text(a.Endpoint)
				o.counts(a.Counts)
			})
		})
	}
	if c.Times != nil {
		byVersion(&o.out, c.Times, func(ts []analysis.Times) { list(&o.out, ts, o.times) })
	}
	if c.Issued != nil {
		byVersion(&o.out, c.Issued, o.number)
	}
}

// times writes a histogram. Its bounds are mostly those of the one before.
func (o *eventsOut) times(t analysis.Times) {
	o.text(t.Name)
	if slices.Equal(t.UpTo, o.bounds) {
		o.uint(0)
	} else {
		o.bounds = t.UpTo
		o.uint(uint64(len(t.UpTo)) + 1)
		for _, b := range t.UpTo {
			o.number(b)
		}
	}
	list(&o.out, t.N, o.number)
}

func (i *eventsIn) answers(c *rollout.Cell, flags byte) {
	if flags&hasAnswers != 0 {
		c.Answers = versions(&i.in, func() []analysis.Answer {
			return listed(&i.in, func() analysis.Answer {
				return analysis.Answer{Class: i.text(), Code: i.text(), Endpoint: i.text(), Counts: i.counts()}
			})
		})
	}
	if flags&hasTimes != 0 {
		c.Times = versions(&i.in, func() []analysis.Times { return listed(&i.in, i.times) })
	}
	if flags&hasIssued != 0 {
		c.Issued = versions(&i.in, i.number)
	}
}

func (i *eventsIn) times() analysis.Times {
	t := analysis.Times{Name: i.text()}
	if n := i.length(); n > 0 {
		i.bounds = nil
		for range n - 1 {
			i.bounds = append(i.bounds, i.number())
		}
	}
	t.UpTo, t.N = i.bounds, listed(&i.in, i.number)
	return t
}
