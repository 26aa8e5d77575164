package metrics

import (
	"fmt"
	"time"
)

const (
	clockMemory = 2 * time.Minute
	clockWarned = 5 * time.Second
)

// clock measures how far Prometheus' clock is ahead of canaryd's, so that what was counted before a
// weight is never taken for counted after it. An answer's Date is in whole seconds: each answer bounds
// the difference to a second, and answers at different parts of a second bound it more closely.
type clock struct {
	now, before bounds // of this time and of the one before it
	since       time.Time
}

// bounds are what a difference is at least and at most.
type bounds struct {
	least, most time.Duration
	known       bool
}

// and are bounds that keep both; where they contradict each other, a clock was set, and the later ones
// hold.
func (b bounds) and(later bounds) bounds {
	switch {
	case !b.known:
		return later
	case !later.known:
		return b
	case later.least > b.most || later.most < b.least:
		return later
	}
	return bounds{max(b.least, later.least), min(b.most, later.most), true}
}

// heard takes an answer in.
func (c *clock) heard(x *exchange) {
	if x.received.Sub(c.since) > clockMemory {
		c.before, c.now, c.since = c.now, bounds{}, x.received
	}
	if date, ok := x.date(); ok {
		c.now = c.now.and(bounds{date.Sub(x.received), date.Add(time.Second).Sub(x.sent), true})
	}
}

// sampled takes in that an answer has a sample of a moment: no clock is behind that.
func (c *clock) sampled(at, received time.Time) {
	if b := c.bounds(); at.Sub(received) > b.least && (b.known || at.After(received)) {
		least := at.Sub(received)
		c.now = bounds{least, max(b.most, least), true}
	}
}

func (c *clock) bounds() bounds { return c.before.and(c.now) }

// ahead is the most that the clock may be ahead.
func (c *clock) ahead() time.Duration { return c.bounds().most }

// about is the likeliest difference.
func (c *clock) about() time.Duration {
	b := c.bounds()
	return (b.least + b.most) / 2
}

// warning says that the clocks are far apart; empty if they are not.
func (c *clock) warning() string {
	switch b := c.bounds(); {
	case b.least > clockWarned:
		return fmt.Sprintf("Prometheus' clock is %s ahead of canaryd's: canaryd allows for it, but the machines should share a time", c.about().Round(time.Second/10))
	case b.most < -clockWarned:
		return fmt.Sprintf("Prometheus' clock is %s behind canaryd's: canaryd allows for it, but the machines should share a time", -c.about().Round(time.Second/10))
	}
	return ""
}
