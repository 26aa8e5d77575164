package controller

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/canaryd/canaryd/internal/metrics"
)

// Whatever comes, goes and changes, the list holds what was said last of each service, in order.
func TestMergedAims(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	all, list := map[string]*aim{}, []*aim(nil)
	for range 2000 {
		due := map[string]*aim{}
		for range r.IntN(6) {
			name := fmt.Sprint("s", r.IntN(20))
			due[name] = nil
			delete(all, name)
			if r.IntN(3) > 0 {
				due[name] = &aim{Target: metrics.Target{Service: name}}
				all[name] = due[name]
			}
		}
		list = merged(list, due)
		var want []*aim
		for _, name := range slices.Sorted(maps.Keys(all)) {
			want = append(want, all[name])
		}
		if !slices.Equal(list, want) {
			t.Fatalf("%d aims are listed, not %d, or others", len(list), len(want))
		}
	}
}
