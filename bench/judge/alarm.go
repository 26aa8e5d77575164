package main

import "github.com/canaryd/canaryd/internal/analysis"

// alarm is what Amazon ECS does with a CloudWatch alarm: canaryPercent 5 for ten minutes (its defaults), then everything,
// watched for ten more; back as soon as the alarm rings. The alarm is on the error rate of the new version's target group,
// above 5 % in 2 of the last 3 periods of a minute. A minute without requests has no data and rings no alarm.
type alarm struct {
	c      analysis.Counts
	bad    [3]bool // the last three minutes
	w      float64
	common bool
}

const (
	alarmRate  = 0.05
	alarmOf    = 2
	alarmBake  = 600  // seconds at 5 %
	alarmWatch = 1200 // seconds until the old version goes
)

func (a *alarm) weight() float64 { return max(a.w, 0.05) }

func (a *alarm) see(t int, k tick) decision {
	if !k.drop {
		a.c = a.c.Add(k.batch.Canary)
	}
	s := t + 1
	if s%60 != 0 {
		return goOn
	}
	a.bad[s/60%3] = a.c.Requests > 0 && a.c.Rate() > alarmRate
	a.c = analysis.Counts{}
	n := 0
	for _, bad := range a.bad {
		if bad {
			n++
		}
	}
	switch {
	case n >= alarmOf:
		return cut
	case a.common:
	case s >= alarmWatch:
		return promote
	case s >= alarmBake:
		a.w = 1
	}
	return goOn
}
