package main

import (
	"fmt"
	"slices"

	"github.com/canaryd/canaryd/internal/policy"
)

const (
	longWait = 3600.0 // seconds for a class, beyond which a promotion is held for hours
	leastDay = 3.0    // successes of stable in a day, below which a class is not waited for
)

// rare warns of classes of a policy that come so rarely at a request rate that a promotion waits for hours until the canary has answered enough
// of them, or that it does not wait for.
func rare(d policy.Document, rate float64, flags []classFlag) (fs policy.Findings) {
	steps := d.Policy.Ramp.Weights()
	w := float64(steps[len(steps)-2]) / policy.FullWeight
	for i, c := range d.Policy.Route.Classes {
		at := slices.IndexFunc(flags, func(f classFlag) bool { return f.name == c.Name })
		if at < 0 || d.Policy.Judge.Exercise == 0 {
			continue
		}
		perSecond := rate * flags[at].share * (1 - flags[at].stable)
		var text string
		switch t := float64(d.Policy.Judge.Exercise) / (perSecond * w); {
		case perSecond*24*3600 < leastDay:
			text = fmt.Sprintf("at %g requests/s stable answers class %s less than %.0f times a day: a release is promoted without having answered it; give it to the rest, or test it with a pin", rate, c.Name, leastDay)
		case t > longWait:
			text = fmt.Sprintf("at %g requests/s and %s a release answers class %s %d times after about %s: until then it is not promoted (judge.exercise); lower judge.exercise, or give the class to the rest",
				rate, policy.Share(w), c.Name, d.Policy.Judge.Exercise, words(t))
		default:
			continue
		}
		f := d.Finding(fmt.Sprintf("route.classes[%d]", i), text)
		f.Warning = true
		fs = append(fs, f)
	}
	return fs
}
