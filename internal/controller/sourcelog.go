package controller

import (
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/metrics"
)

// sourceLate is how long the source may be away until the log says so: Envoys connect again, Prometheus restarts.
const sourceLate = 30 * time.Second

// sourceLog is what the log was told of the source of evidence.
type sourceLog struct {
	since time.Time // it does not answer; zero: it does
	told  bool
}

// tellSource writes into the log when the source of evidence no longer answers, and when it does again. Every service
// under judgement says so in `status`; who reads the log asks why nothing moves.
func (c *Controller) tellSource(now time.Time, evs []metrics.Evidence) {
	why, answered, awaited := "", false, false
	for _, ev := range evs {
		if c.busy[ev.Service] == nil {
			continue
		}
		awaited = true
		if ev.Missing == nil || ev.Missing.Code != analysis.SourceUnreachable {
			answered = true
			break // nearly always the first one tells
		}
		why = ev.Missing.Reason
	}
	switch l := &c.source; {
	case !awaited:
	case answered:
		if l.told {
			c.Log.WithField("since", l.since.UTC().Format(time.RFC3339)).Info("the source of evidence answers again")
		}
		*l = sourceLog{}
	case l.since.IsZero():
		l.since = now
	case !l.told && now.Sub(l.since) >= sourceLate:
		l.told = true
		c.Log.WithField("why", why).Warn("the source of evidence does not answer: no weight rises meanwhile, and nothing is judged")
	}
}
