package web

import (
	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Class is what is known of one class of a release, since its classes were settled.
type Class struct {
	Class     string          `json:"class"`
	Requests  float64         `json:"requests"` // that were answered
	Errors    float64         `json:"errors"`
	Stable    analysis.Counts `json:"stable"`
	Evidence  *float64        `json:"evidence"`            // of this class alone; null: it is not judged any more
	Threshold *float64        `json:"threshold,omitempty"` // evidence with which this class is enough for a rollback
	Wanted    *float64        `json:"wanted"`              // successful answers that a promotion waits for; null: it does not wait for this class
	ToSee     *float64        `json:"seconds_to_see"`      // until they are expected; null: not known, or none are wanted
}

// viewClasses are those of a version, the worst first.
func viewClasses(s *rollout.State, version string) (all []Class) {
	for _, k := range s.KnownClasses(version) {
		c := Class{Class: k.Name, Requests: k.Canary.Requests, Errors: k.Canary.Errors, Stable: k.Stable, ToSee: k.Seconds}
		if k.CutAt > 0 {
			c.Evidence, c.Threshold = &k.Evidence, &k.CutAt
		}
		if k.Due {
			c.Wanted = &k.Lacks
		}
		all = append(all, c)
	}
	return all
}
