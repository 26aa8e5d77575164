package journal

import "slices"

// ofVersions writes what some of a point's versions have more of than the point says, in an entry of its own: a journal of services that have
// none of it is as it was.
func ofVersions[T any](o *out, kind byte, versions []Stand, of func(*Stand) []T, write func(T)) {
	n := 0
	for i := range versions {
		if len(of(&versions[i])) > 0 {
			n++
		}
	}
	if n == 0 {
		return
	}
	o.kind(kind)
	o.uint(uint64(n))
	for i := range versions {
		if all := of(&versions[i]); len(all) > 0 {
			o.text(versions[i].Version)
			list(o, all, write)
		}
	}
}

// intoVersions reads such an entry into the last of some points.
func intoVersions[T any](i *in, points []Point, read func() T, into func(*Stand, []T)) {
	var versions []Stand
	if n := len(points); n > 0 {
		versions = points[n-1].Versions
	}
	for range i.length() {
		version := i.text()
		all := listed(i, read)
		if i.err != nil {
			return
		}
		if k := slices.IndexFunc(versions, func(s Stand) bool { return s.Version == version }); k >= 0 {
			into(&versions[k], all)
		}
	}
}

// entry finds one of a bucket's entries, or begins it.
func entry[T any](all *[]T, is func(*T) bool, fresh T) *T {
	for i := range *all {
		if is(&(*all)[i]) {
			return &(*all)[i]
		}
	}
	*all = append(*all, fresh)
	return &(*all)[len(*all)-1]
}
