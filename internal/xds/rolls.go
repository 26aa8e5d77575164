package xds

import (
	"slices"

	"github.com/canaryd/canaryd/internal/rollout"
)

// rolls are the last lists of nodes that were told of. A thousand services that the same Envoys serve have the same list, which
// weighs more than all else that is known of them at rest: they have it once.
type rolls struct {
	last [16][]string
	next int
}

// share replaces lists by equal ones that are there. Nobody may change one.
func (r *rolls) share(cs []rollout.Crowd) {
	for i, c := range cs {
		at := slices.IndexFunc(r.last[:], func(known []string) bool { return slices.Equal(known, c.Nodes) })
		if at < 0 {
			at, r.next = r.next, (r.next+1)%len(r.last)
			r.last[at] = slices.Clone(c.Nodes) // and not what it grew by
		}
		cs[i].Nodes = r.last[at]
	}
}
