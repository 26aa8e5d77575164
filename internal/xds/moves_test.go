package xds

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/canaryd/canaryd/internal/policy"
)

// BenchmarkMove has so many services leave one listener for another, and come back, at once and one by one: their list is
// made once, and once for each.
func BenchmarkMove(b *testing.B) {
	for _, at := range []string{"once", "each"} {
		for _, services := range []int{1000, 4000} {
			b.Run(fmt.Sprint(at, "/", services), func(b *testing.B) {
				l := newListeners()
				to := func(address string) {
					m := moves{}
					for i := range services {
						l.move(fmt.Sprintf("shop-%05d", i), policy.Route{Listener: address}, m)
						if at == "each" {
							m.done()
							clear(m)
						}
					}
					m.done()
				}
				to("0.0.0.0:1")
				for b.Loop() {
					to("0.0.0.0:2")
					to("0.0.0.0:1")
				}
			})
		}
	}
}

// What is published keeps its list while services move.
func TestMovesLeavePublishedListsAlone(t *testing.T) {
	l, all := newListeners(), []string{"a", "b", "c", "d"}
	for _, s := range all {
		m := moves{}
		l.move(s, policy.Route{Listener: "1"}, m)
		m.done()
	}
	published := l.on["1"].services
	m := moves{}
	for _, s := range []string{"b", "a", "d"} {
		l.move(s, policy.Route{Listener: "2"}, m)
	}
	l.move("b", policy.Route{Listener: "1"}, m)
	m.done()
	if got := fmt.Sprint(published, l.on["1"].services, l.on["2"].services); got != "[a b c d] [b c] [a d]" {
		t.Error(got)
	}
}

// However many move at once, each listener has who is on it, in order.
func TestMovesAgainstASet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	l, at := newListeners(), map[string]string{}
	for range 300 {
		m := moves{}
		for range 1 + r.IntN(20) {
			service, address := fmt.Sprint("s", r.IntN(30)), []string{"", "1", "2", "3"}[r.IntN(4)]
			l.move(service, policy.Route{Listener: address}, m)
			at[service] = address
		}
		m.done()
		for _, address := range []string{"1", "2", "3"} {
			var want []string
			for _, service := range slices.Sorted(maps.Keys(at)) {
				if at[service] == address {
					want = append(want, service)
				}
			}
			if on := l.on[address]; on != nil && !slices.Equal(on.services, want) {
				t.Fatalf("%s has %v, not %v", address, on.services, want)
			}
		}
	}
}
