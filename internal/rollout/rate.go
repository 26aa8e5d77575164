package rollout

import (
	"errors"
	"math"

	"github.com/canaryd/canaryd/internal/analysis"
)

// Rate is the service's traffic, forgotten with a time constant of ten seconds.
type Rate struct {
	Requests float64 `json:"requests"`
	Weight   float64 `json:"weight"`
	Seconds  float64 `json:"seconds"` // how long it has been measured
}

const rateMemory = 10.0

// add takes in the requests of an interval in seconds.
func (r *Rate) add(requests, seconds float64) {
	if seconds <= 0 {
		return
	}
	keep := math.Exp(-seconds / rateMemory)
	r.Requests = r.Requests*keep + requests
	r.Weight = r.Weight*keep + seconds
	r.Seconds += seconds
}

// PerSecond is 0 while nothing is known.
func (r Rate) PerSecond() float64 {
	if r.Weight <= 0 {
		return 0
	}
	return r.Requests / r.Weight
}

// sound says what makes a stored rate unusable.
func (r *Rate) sound() error {
	return errors.Join(analysis.Counts{Requests: r.PerSecond()}.Sound(), analysis.Counts{Requests: r.Requests, Errors: r.Weight}.Sound(), analysis.Counts{Requests: r.Seconds}.Sound())
}
