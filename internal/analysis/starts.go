package analysis

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Starts are when the instances of a version gave their first answers: what one does then says little of how fast it will be.
// Invariant: Each are in order of their names.
type Starts struct {
	Each  []start `json:"each,omitempty"`
	Whole start   `json:"whole,omitzero"` // of the version, and of the last of its instances that began, where which one answers is not told
}

type start struct {
	Name  string  `json:"name,omitempty"`
	First float64 `json:"first"` // seconds
	Last  float64 `json:"last"`
}

const (
	mostStarts = 512   // instances that are told apart; of others the version's own start counts
	longAway   = 600.0 // seconds without an answer after which an instance may be another process
)

// Unknown reports whether no instance is known: nobody has looked at the version lately.
func (s *Starts) Unknown() bool { return len(s.Each) == 0 && s.Whole.Last == 0 }

// Warm are the answers, between two moments, of instances that began at least so many seconds before the first of these; old: those that are
// not known have answered for longer, and nobody looked. Of a first answer it is known only that it came until the end.
func (s *Starts) Warm(from, to, warmUp float64, times []Times, old bool) []Times {
	if warmUp <= 0 {
		return times
	}
	s.Forget(to)
	warm := times
	for i := range times {
		at := s.of(times[i].Name)
		if at.Last == 0 {
			if at.First = to; old {
				at.First = from - warmUp
			}
		}
		at.Last = max(at.Last, to)
		is := from-at.First >= warmUp-slack
		if !is && len(warm) == len(times) {
			warm = slices.Clone(times[:i])
		} else if is && len(warm) < len(times) {
			warm = append(warm, times[i])
		}
	}
	return warm
}

// Began says that another instance was started, which nobody tells apart.
func (s *Starts) Began(now float64) {
	if s.Whole.Last != 0 {
		s.Whole.First = now
	}
}

func (s *Starts) of(name string) *start {
	i, known := slices.BinarySearchFunc(s.Each, name, func(e start, n string) int { return cmp.Compare(e.Name, n) })
	switch {
	case name == "" || !known && len(s.Each) >= mostStarts:
		return &s.Whole
	case !known:
		s.Each = slices.Insert(s.Each, i, start{Name: name})
	}
	return &s.Each[i]
}

// Forget drops instances that have been away for so long that they may be others.
func (s *Starts) Forget(now float64) {
	gone := func(e start) bool { return now-e.Last > longAway || e.First > now+longAway } // the clock was set back
	s.Each = slices.DeleteFunc(s.Each, gone)
	if s.Whole.Last != 0 && gone(s.Whole) {
		s.Whole = start{}
	}
}

// Clone returns a copy that shares nothing.
func (s Starts) Clone() Starts {
	s.Each = slices.Clone(s.Each)
	return s
}

// Shift moves its clock, where the clock that it was read from was set.
func (s *Starts) Shift(by float64) {
	for i := range s.Each {
		s.Each[i].First, s.Each[i].Last = s.Each[i].First+by, s.Each[i].Last+by
	}
	if s.Whole.Last != 0 {
		s.Whole.First, s.Whole.Last = s.Whole.First+by, s.Whole.Last+by
	}
}

// Sound says what makes stored starts unusable, nil when nothing does.
func (s *Starts) Sound() error {
	if len(s.Each) > mostStarts {
		return fmt.Errorf("%d instances that began: at most %d", len(s.Each), mostStarts)
	}
	err := seconds(s.Whole.First, s.Whole.Last)
	for i, e := range s.Each {
		err = errors.Join(err, seconds(e.First, e.Last))
		if i > 0 && e.Name <= s.Each[i-1].Name {
			err = errors.Join(err, fmt.Errorf("instance %q is out of order", e.Name))
		}
	}
	return err
}
