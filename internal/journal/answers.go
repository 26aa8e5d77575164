package journal

import (
	"maps"
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
		o.uint(uint64(len(c.Answers)))
		for _, version := range slices.Sorted(maps.Keys(c.Answers)) {
			o.text(version)
			o.uint(uint64(len(c.Answers[version])))
			for _, a := range c.Answers[version] {
				o.text(a.Class)
				o.text(a.Code)
				o.text(a.Endpoint)
				o.counts(a.Counts)
			}
		}
	}
	if c.Times != nil {
		o.uint(uint64(len(c.Times)))
		for _, version := range slices.Sorted(maps.Keys(c.Times)) {
			o.text(version)
			o.uint(uint64(len(c.Times[version])))
			for _, t := range c.Times[version] {
				o.times(t)
			}
		}
	}
	if c.Issued != nil {
		o.uint(uint64(len(c.Issued)))
		for _, version := range slices.Sorted(maps.Keys(c.Issued)) {
			o.text(version)
			o.number(c.Issued[version])
		}
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
	o.uint(uint64(len(t.N)))
	for _, n := range t.N {
		o.number(n)
	}
}

func (i *eventsIn) answers(c *rollout.Cell, flags byte) {
	if flags&hasAnswers != 0 {
		c.Answers = map[string][]analysis.Answer{}
		for range i.length() {
			version, n := i.text(), i.length()
			as := make([]analysis.Answer, 0, n)
			for range n {
				as = append(as, analysis.Answer{Class: i.text(), Code: i.text(), Endpoint: i.text(), Counts: i.counts()})
			}
			c.Answers[version] = as
		}
	}
	if flags&hasTimes != 0 {
		c.Times = map[string][]analysis.Times{}
		for range i.length() {
			version, n := i.text(), i.length()
			ts := make([]analysis.Times, 0, n)
			for range n {
				ts = append(ts, i.times())
			}
			c.Times[version] = ts
		}
	}
	if flags&hasIssued != 0 {
		c.Issued = map[string]float64{}
		for range i.length() {
			version := i.text()
			c.Issued[version] = i.number()
		}
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
	t.UpTo = i.bounds
	n := i.length()
	t.N = make([]float64, 0, n)
	for range n {
		t.N = append(t.N, i.number())
	}
	return t
}
