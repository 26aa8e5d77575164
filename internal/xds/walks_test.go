package xds

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// However much there is, a tick looks at a thousand on average, at all names before one is looked at twice, and at no more than
// one that is larger at a time.
func TestAWalkTakesAThousandSteps(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		cost := map[string]int{}
		for i := range 1 + r.IntN(5000) {
			cost[fmt.Sprint(i)] = 1 + r.IntN(3)
		}
		for range r.IntN(4) {
			cost[fmt.Sprint("large ", r.IntN(10))] = r.IntN(10_000)
		}
		all, most := 0, slices.Max(slices.Collect(maps.Values(cost)))
		for _, n := range cost {
			all += n
		}
		w, looks, sum := walk{}, map[string]int{}, 0
		ticks := 3 * (1 + all/toldAtOnce)
		for tick := range ticks {
			before := sum
			w.steps(maps.Keys(cost), func(name string) int {
				looks[name]++
				sum += cost[name]
				return cost[name]
			})
			if sum-before > toldAtOnce+most || sum > (tick+1)*toldAtOnce+most {
				t.Fatalf("seed %d: tick %d looked at %d, all up to it at %d", seed, tick, sum-before, sum)
			}
		}
		for name := range cost {
			if least := slices.Min(slices.Collect(maps.Values(looks))); looks[name] == 0 || looks[name] > least+1 {
				t.Fatalf("seed %d: %s was looked at %d times in %d ticks, another one %d times", seed, name, looks[name], ticks, least)
			}
		}
	}
}

// After an hour thousands of services, nodes and addresses are forgotten, in several ticks: none of them looks at all.
func TestThousandsAreForgottenInSeveralTicks(t *testing.T) {
	h, at := NewHub(quietLog()), time.Unix(1e9, 0)
	h.now = func() time.Time { return at }
	const n = 3000
	for i := range n {
		id := fmt.Sprint("edge-", i)
		h.Remained(fmt.Sprint("shop-", i), []rollout.Crowd{{Version: "t1", Nodes: []string{id}}})
		h.debts[id] = &debt{nodes: map[string]int{}}
	}
	at = at.Add(h.ForgetAfter + time.Second)
	known := func() []int { return []int{len(h.parting), len(h.nodes), len(h.debts)} }
	h.tick(at)
	if got := known(); slices.Min(got) < n-toldAtOnce {
		t.Errorf("%v are known after the first tick", got)
	}
	for range n / 400 {
		at = at.Add(time.Second)
		h.tick(at)
	}
	if got := known(); slices.Max(got) > 0 {
		t.Errorf("%v are known at last", got)
	}
}
