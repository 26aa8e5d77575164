package rollout

import (
	"fmt"
	"math"
	"slices"

	"github.com/canaryd/canaryd/internal/analysis"
)

const (
	instanceMemory = 60.0 // seconds
	instancesMost  = 64
	ownsThem       = 0.9 // share of the errors that makes one endpoint their owner
)

// forgetInstances lets old counts fade, and those of endpoints that are gone.
func (v *Version) forgetInstances(seconds float64) {
	keep := math.Exp(-seconds / instanceMemory)
	v.Instances = slices.DeleteFunc(v.Instances, func(s analysis.Slice) bool { return s.Requests < 0.01 && s.Errors < 0.01 })
	for i := range v.Instances {
		c := &v.Instances[i].Counts
		c.Requests, c.Errors = c.Requests*keep, c.Errors*keep
	}
	if len(v.Instances) > instancesMost {
		v.Instances = v.Instances[:instancesMost]
	}
}

// oneInstance says so when nearly all errors come from one of several endpoints that get requests: a
// sick instance looks like a bad release, and a person should know. Empty otherwise.
func (v *Version) oneInstance() string {
	if len(v.Instances) < 2 {
		return ""
	}
	var sum analysis.Counts
	worst := v.Instances[0]
	for _, s := range v.Instances {
		sum = sum.Add(s.Counts)
		if s.Errors > worst.Errors {
			worst = s
		}
	}
	rest := analysis.Counts{Requests: sum.Requests - worst.Requests, Errors: sum.Errors - worst.Errors}
	if worst.Errors < 3 || worst.Errors < ownsThem*sum.Errors || rest.Requests < worst.Requests/10 || rest.Rate() > worst.Rate()/5 {
		return ""
	}
	return fmt.Sprintf("; %.0f%% of its errors come from %s, one of its %d endpoints: perhaps one bad instance, not the release", 100*worst.Errors/sum.Errors, worst.Name, len(v.Endpoints))
}
