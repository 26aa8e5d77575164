package rollout

import (
	"cmp"
	"hash/fnv"
	"slices"

	"github.com/canaryd/canaryd/internal/policy"
)

// Segment is a range of slots [Start, Start+Count) in the order in which a version took them.
type Segment struct {
	Start int `json:"start"`
	Count int `json:"count"`
}

// Run is a stretch of slots of one version, as Envoy gets them.
type Run struct {
	Version string `json:"version"`
	Count   int    `json:"count"`
}

func size(segments []Segment) int {
	n := 0
	for _, s := range segments {
		n += s.Count
	}
	return n
}

// shrink gives back the slots taken last, until n are left: users leave in the reverse order of
// their coming.
func shrink(segments []Segment, n int) []Segment {
	for size(segments) > n {
		last := &segments[len(segments)-1]
		over := min(size(segments)-n, last.Count)
		last.Count -= over
		if last.Count == 0 {
			segments = segments[:len(segments)-1]
		}
	}
	return segments
}

// grow takes free slots, first those next to the version's last ones, until it has n. What it had
// it keeps, so that users never leave a growing version.
func (s *State) grow(segments []Segment, n int) []Segment {
	for size(segments) < n {
		free := s.free(segments)
		if len(free) == 0 {
			return segments
		}
		want := n - size(segments)
		if k := len(segments); k > 0 {
			end := segments[k-1].Start + segments[k-1].Count
			if i := slices.IndexFunc(free, func(f Segment) bool { return f.Start == end }); i >= 0 {
				segments[k-1].Count += min(want, free[i].Count)
				continue
			}
		}
		widest := slices.MaxFunc(free, func(a, b Segment) int { return cmp.Compare(a.Count, b.Count) })
		if len(segments) == 0 { // begin in the middle, so that there is room to grow without crossing others
			widest.Start, widest.Count = widest.Start+widest.Count/2, widest.Count-widest.Count/2
		}
		segments = append(segments, Segment{widest.Start, min(want, widest.Count)})
	}
	return segments
}

// free are the slots of the stable version, in order.
func (s *State) free(mine []Segment) []Segment {
	taken := slices.Clone(mine)
	for i := range s.Versions {
		taken = append(taken, s.Versions[i].Slots...)
	}
	slices.SortFunc(taken, func(a, b Segment) int { return cmp.Compare(a.Start, b.Start) })
	var free []Segment
	at := 0
	for _, t := range taken {
		if t.Start > at {
			free = append(free, Segment{at, t.Start - at})
		}
		at = max(at, t.Start+t.Count)
	}
	if at < policy.FullWeight {
		free = append(free, Segment{at, policy.FullWeight - at})
	}
	return free
}

// setWeight is the only way in which a weight changes.
func (s *State) setWeight(v *Version, n int) {
	had := size(v.Slots)
	if n == had {
		return
	}
	mine := slices.Clone(v.Slots)
	v.Slots = nil
	if n < had {
		v.Slots = shrink(mine, n)
	} else {
		v.Slots = s.grow(mine, n)
	}
	if v.ownJudge(nil); v.Judge != nil {
		v.Judge.Step()
	}
	v.WeightSince, v.FromZero = at0, had == 0
}

func (m *machine) setWeight(v *Version, n int) {
	m.moved = m.moved || size(v.Slots) != n
	m.State.setWeight(v, n)
}

// slotsOf is how many slots a version has.
func slotsOf(runs []Run, version string) int {
	n := 0
	for _, r := range runs {
		if r.Version == version {
			n += r.Count
		}
	}
	return n
}

// runs writes the slot map run-length encoded, rotated by a hash of the service, so that the same
// users are not in every service's canary.
func (s *State) runs() []Run {
	if s.Stable == "" {
		return nil
	}
	type owned struct {
		Segment
		version string
	}
	var all []owned
	for i := range s.Versions {
		for _, seg := range s.Versions[i].Slots {
			all = append(all, owned{seg, s.Versions[i].Name})
		}
	}
	for _, f := range s.free(nil) {
		all = append(all, owned{f, s.Stable})
	}
	slices.SortFunc(all, func(a, b owned) int { return cmp.Compare(a.Start, b.Start) })
	var rs []Run
	for _, o := range all {
		rs = append(rs, Run{o.version, o.Count})
	}
	return mergeRuns(rotate(rs, s.rotation()))
}

func (s *State) rotation() int {
	h := fnv.New32a()
	h.Write([]byte(s.Policy.Service))
	return int(h.Sum32() % policy.FullWeight)
}

func rotate(rs []Run, by int) []Run {
	var head []Run
	for len(rs) > 0 && by > 0 {
		n := min(by, rs[0].Count)
		head = append(head, Run{rs[0].Version, n})
		by -= n
		rs = slices.Clone(rs)
		if rs[0].Count -= n; rs[0].Count == 0 {
			rs = rs[1:]
		}
	}
	return append(slices.Clone(rs), head...)
}

func mergeRuns(rs []Run) []Run {
	var out []Run
	for _, r := range rs {
		if k := len(out); k > 0 && out[k-1].Version == r.Version {
			out[k-1].Count += r.Count
		} else if r.Count > 0 {
			out = append(out, r)
		}
	}
	return out
}
