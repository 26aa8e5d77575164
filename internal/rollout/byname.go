package rollout

import (
	"iter"
	"slices"
	"strings"
)

// ByName is what a map has, in the order of its names. Nothing is made for a map of few: what a second of evidence says is of two
// or three versions, and there are thousands of such maps in each.
func ByName[T any](all map[string]T) iter.Seq2[string, T] {
	type named struct {
		name string
		x    T
	}
	return func(yield func(string, T) bool) {
		var few [4]named
		each := few[:0]
		for name, x := range all {
			each = append(each, named{name, x})
		}
		slices.SortFunc(each, func(a, b named) int { return strings.Compare(a.name, b.name) })
		for _, n := range each {
			if !yield(n.name, n.x) {
				return
			}
		}
	}
}
