package analysis

// copied is a copy of a list in the memory of another one, which nobody needs any more, where that fits. As with slices.Clone a copy of
// nil is nil.
func copied[T any](list, room []T) []T { return append(roomFor(list, room), list...) }

// roomFor is an empty list with room for another one.
func roomFor[T any](list, room []T) []T {
	switch {
	case list == nil:
		return nil
	case fits(list, room):
		return room[:0]
	}
	return make([]T, 0, len(list))
}

// fits reports memory that is neither too small for a list nor far too large.
func fits[T any](list, room []T) bool {
	n := cap(room)
	return room != nil && n >= len(list) && n <= 2*len(list)+8
}
