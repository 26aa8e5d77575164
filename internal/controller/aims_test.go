package controller

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/xds"
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

// Once it took long to tell: what changes then is told soon all the same.
func TestASlowSourceIsToldAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		a := &aims{wake: make(chan struct{}, 1), due: map[string]*aim{}, ask: func([]xds.Asked) {}, watch: func(targets []metrics.Target) {
			if told = len(targets); told == 1 {
				time.Sleep(10 * time.Second)
			}
		}}
		go a.run(t.Context())
		a.put("a", &aim{Target: metrics.Target{Service: "a"}})
		synctest.Wait()
		a.put("b", &aim{Target: metrics.Target{Service: "b"}})
		time.Sleep(10*time.Second + 2*aimsMost)
		synctest.Wait()
		if told != 2 {
			t.Errorf("%d services are looked at, not 2", told)
		}
	})
}
