package rollout

import (
	"cmp"
	"math"
	"slices"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

const (
	instanceMemory = 600.0 // seconds: as long as a judge's numbers last
	instancesMost  = 64
	envoysMost     = 8 // those with most errors; the rest is one slice without a name
)

// byName reports a version whose instances only the Envoys know, because they look up its endpoints.
func (v *Version) byName() bool {
	if v.lookedUp.is(v.Endpoints) {
		return v.lookedUp.named
	}
	return slices.ContainsFunc(v.Endpoints, policy.ByName)
}

// lookedUp says whether one of a list of endpoints is looked up. It is asked for many times in a step with evidence, of
// lists that may be long, are replaced as a whole and are not written to. It is never stored.
type lookedUp struct {
	first *string // the list it speaks of begins there
	count int
	named bool
}

func (l *lookedUp) is(endpoints []string) bool {
	return len(endpoints) > 0 && l.first == &endpoints[0] && l.count == len(endpoints)
}

// lookUp has what is asked of the endpoints of a version at hand, which is the step's own.
func (v *Version) lookUp() {
	if len(v.Endpoints) > 0 && !v.lookedUp.is(v.Endpoints) {
		v.lookedUp = lookedUp{&v.Endpoints[0], len(v.Endpoints), v.byName()}
	}
}

// endpoints is how many a person would count: those that answered lately, where they are looked up.
func (v *Version) endpoints() int {
	if v.byName() && len(v.Instances) > 0 {
		return len(v.Instances)
	}
	return len(v.Endpoints)
}

// instances is how many instances share a version's requests, 1 at least. Behind names they are as many as would share them evenly, were they
// spread as they were lately: one that has just been replaced still counts, but not for long.
func (v *Version) instances() float64 {
	known := float64(max(len(v.Endpoints), 1))
	if !v.byName() {
		return known
	}
	var sum, squares float64
	for _, s := range v.Instances {
		sum, squares = sum+s.Requests, squares+s.Requests*s.Requests
	}
	if squares <= 0 {
		return known
	}
	return max(sum*sum/squares, 1)
}

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
