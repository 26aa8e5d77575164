package controller

import (
	"maps"
	"slices"
	"time"
)

// stop stores the last checkpoint, and with it every decision that is not stored yet. One that fails is tried again for a
// while. A disk that does not answer is waited for: a cut that is not stored may be forgotten, and where the write under
// way cannot be interrupted the process could not end anyway. A second signal ends it at once.
func (c *Controller) stop() {
	for c.backlog.reading != nil {
		c.adoptSome()
	}
	for _, u := range c.units {
		u.scribe.cut(&u.state)
	}
	c.allDurable()
	maps.Copy(c.aged, c.stale)
	c.writer.retryAt, c.writer.tidyAt = time.Time{}, time.Now().Add(time.Hour)
	c.writer.paced, c.writer.agedAt = false, time.Time{}
	var failing time.Time // since when
	late := time.After(stopPatience)
	for {
		c.write(time.Now())
		if c.writer.since.IsZero() && c.writer.retryAt.IsZero() {
			return
		}
		c.awaitWrite(late)
		switch {
		case c.writer.err == nil:
			failing = time.Time{}
			continue
		case failing.IsZero():
			failing = time.Now()
		}
		if time.Since(failing) >= c.patience || len(c.unstored()) == 0 {
			c.Log.WithError(c.writer.err).Error("the last checkpoint was not stored")
			return
		}
	}
}

// awaitWrite waits until the write under way ends, or the next one may begin, or it is late.
func (c *Controller) awaitWrite(late <-chan time.Time) {
	var again <-chan time.Time
	if c.writer.since.IsZero() {
		again = time.After(time.Until(c.writer.retryAt))
	}
	select {
	case r := <-c.writer.done:
		c.written(r)
		c.allDurable()
	case <-late:
		c.Log.WithField("services", c.unstored()).Error("the disk does not answer: waiting for it, so that what was decided is not forgotten; a second signal ends canaryd at once")
	case <-again:
	}
}

// unstored are the services with decisions that are not durable.
func (c *Controller) unstored() []string {
	var names []string
	for name, u := range c.units {
		if u.outbox.Unstored() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
