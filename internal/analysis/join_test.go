package analysis

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
)

// Many slices are joined by an index, few by looking: the result is the same.
func TestManySlicesJoinAsFew(t *testing.T) {
	dumb := func(into, more []Slice) []Slice {
		for _, s := range more {
			found := false
			for i := range into {
				if !found && into[i].Name == s.Name {
					into[i].Counts, found = into[i].Counts.Add(s.Counts), true
				}
			}
			if !found {
				into = append(into, s)
			}
		}
		return into
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		some := func() (out []Slice) {
			for range r.IntN(60) {
				out = append(out, Slice{fmt.Sprint(r.IntN(40)), Counts{float64(r.IntN(9)), 1}})
			}
			return out
		}
		into, more := some(), some()
		want := dumb(append([]Slice{}, into...), more)
		if got := Join(append([]Slice{}, into...), more); !reflect.DeepEqual(got, want) && len(want) > 0 {
			t.Fatalf("%v joined with %v is %v, want %v", into, more, got, want)
		}
	}
}

func BenchmarkJoin(b *testing.B) {
	for _, n := range []int{10, 1000, 3000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var s []Slice
			for i := range n {
				s = append(s, Slice{Name: fmt.Sprint("edge-", i)})
			}
			into := append([]Slice{}, s...)
			for b.Loop() {
				Join(into, s)
			}
		})
	}
}
