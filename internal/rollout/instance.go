package rollout

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/canaryd/canaryd/internal/analysis"
)

const (
	instanceMemory = 60.0 // seconds
	instancesMost  = 64
	envoysMost     = 8   // those with most errors; the rest is one slice without a name
	ownsThem       = 0.9 // share of the errors that makes one endpoint, or Envoy, their owner
)

// forgetInstances lets old counts fade, and those of endpoints and Envoys that are gone.
func (v *Version) forgetInstances(seconds float64) {
	v.Instances, v.Envoys = fade(v.Instances, seconds), fade(v.Envoys, seconds)
	if len(v.Instances) > instancesMost {
		v.Instances = v.Instances[:instancesMost]
	}
}

func fade(all []analysis.Slice, seconds float64) []analysis.Slice {
	keep := math.Exp(-seconds / instanceMemory)
	all = slices.DeleteFunc(all, func(s analysis.Slice) bool { return s.Requests < 0.01 && s.Errors < 0.01 })
	for i := range all {
		c := &all[i].Counts
		c.Requests, c.Errors = c.Requests*keep, c.Errors*keep
	}
	return all
}

// tallyEnvoys counts which Envoys a version's errors come from.
func (v *Version) tallyEnvoys(cells []Cell) {
	var now []analysis.Slice
	for _, c := range cells {
		if n := c.Counts[v.Name]; n.Requests > 0 {
			now = append(now, analysis.Slice{Name: c.Slice, Counts: n})
		}
	}
	all := analysis.Join(v.Envoys, now)
	slices.SortFunc(all, func(a, b analysis.Slice) int {
		return cmp.Or(cmp.Compare(b.Errors, a.Errors), cmp.Compare(a.Name, b.Name))
	})
	if len(all) > envoysMost {
		rest := analysis.Slice{}
		for _, s := range all[envoysMost:] {
			rest.Counts = rest.Add(s.Counts)
		}
		all = analysis.Join(all[:envoysMost:envoysMost], []analysis.Slice{rest})
	}
	v.Envoys = all
}

// whose says so when nearly all errors come from one of several endpoints, or by way of one of several Envoys,
// that get requests: a sick instance or a broken path looks like a bad release, and a person should know.
func (v *Version) whose() string {
	if name, share := owner(v.Instances); name != "" {
		return fmt.Sprintf("; %.0f%% of its errors come from %s, one of its %d endpoints: perhaps one bad instance, not the release", 100*share, name, len(v.Endpoints))
	}
	if name, share := owner(v.Envoys); name != "" {
		return fmt.Sprintf("; %.0f%% of its errors were counted by %s, one of several Envoys: perhaps its path to the version, not the release", 100*share, name)
	}
	return ""
}

// owner finds whom nearly all errors belong to, and their share of them; none: nobody.
func owner(all []analysis.Slice) (name string, share float64) {
	var sum analysis.Counts
	var worst analysis.Slice
	for _, s := range all {
		sum = sum.Add(s.Counts)
		if s.Errors > worst.Errors {
			worst = s
		}
	}
	rest := analysis.Counts{Requests: sum.Requests - worst.Requests, Errors: sum.Errors - worst.Errors}
	if len(all) < 2 || worst.Errors < 3 || worst.Errors < ownsThem*sum.Errors || rest.Requests < worst.Requests/10 || rest.Rate() > worst.Rate()/5 {
		return "", 0
	}
	return worst.Name, worst.Errors / sum.Errors
}
