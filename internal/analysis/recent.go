package analysis

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
)

const (
	recentSeconds = 30.0
	clumpSeconds  = 60.0 // the longest time over which one cause is taken to produce errors
)

// Recent are the counts of the last minute, one bucket a second; the newest bucket always counts,
// so that a source with longer batches still has a recent past.
// Copies share all but the newest few: what is full is never written to.
// Invariant: 0 <= Len <= recentMost, the buckets are in order of time, and the newest one is in open.
type Recent struct {
	full []*page // oldest first
	gone int     // buckets of the first page that are too old
	open page
	Len  int
}

const recentMost = 62

type page [8]bucket

type bucket struct {
	At float64
	B  Batch
}

// Add takes in the counts of a tick.
func (r *Recent) Add(now float64, b Batch) {
	for r.Len > 0 && r.at(r.Len-1).At > now {
		r.takeBack() // the clock was set back: this has not been yet
	}
	if r.Len > 0 && now-r.at(r.Len-1).At < 1 {
		last := &r.at(r.Len - 1).B
		last.Canary, last.Stable = last.Canary.Add(b.Canary), last.Stable.Add(b.Stable)
		return
	}
	r.add(bucket{At: now, B: b})
}

// at is a bucket, counted from the oldest.
func (r *Recent) at(i int) *bucket {
	i += r.gone
	if p := i / len(r.open); p < len(r.full) {
		return &r.full[p][i%len(r.open)]
	}
	return &r.open[i-len(r.full)*len(r.open)]
}

func (r *Recent) add(b bucket) {
	if r.Len == recentMost {
		r.Len, r.gone = r.Len-1, r.gone+1
		if r.gone == len(r.open) {
			r.full, r.gone = r.full[1:], 0
		}
	}
	if r.opened() == len(r.open) {
		full := r.open
		r.full = append(slices.Clip(r.full), &full)
	}
	r.Len++
	*r.at(r.Len - 1) = b
}

// opened is how many buckets of the open page are filled.
func (r *Recent) opened() int { return r.gone + r.Len - len(r.full)*len(r.open) }

// takeBack forgets the newest bucket.
func (r *Recent) takeBack() {
	if r.Len--; r.Len == 0 {
		*r = Recent{}
	} else if r.opened() == 0 {
		last := len(r.full) - 1
		r.open, r.full = *r.full[last], r.full[:last]
	}
}

// Sum is what came in the last 30 seconds before now.
func (r *Recent) Sum(now float64) Batch { return r.since(now - recentSeconds) }

func (r *Recent) since(from float64) Batch {
	first := max(0, r.Len-1)
	for first > 0 && r.at(first-1).At > from {
		first--
	}
	var s Batch
	for i := first; i < r.Len; i++ {
		b := r.at(i)
		s.Canary, s.Stable = s.Canary.Add(b.B.Canary), s.Stable.Add(b.B.Stable)
	}
	return s
}

// canaryHas reports whether the canary surely had so many requests since a moment. The newest are looked at first: mostly they suffice.
func (r *Recent) canaryHas(from, requests float64) bool {
	sum := 0.0
	for i := r.Len - 1; i >= 0; i-- {
		b := r.at(i)
		if i < r.Len-1 && b.At <= from {
			return false
		}
		if sum += b.B.Canary.Requests; sum >= requests {
			return true
		}
	}
	return false
}

// Span is how many seconds of the last 30 the buckets cover.
func (r *Recent) Span(now float64) float64 {
	for i := range r.Len {
		if at := r.at(i).At; at > now-recentSeconds {
			return now - at
		}
	}
	return 0
}

// MarshalJSON writes the buckets that are filled, as lists of numbers: they are most of a judge, and are written at every checkpoint.
func (r Recent) MarshalJSON() ([]byte, error) {
	out := []byte(`{"buckets":[`)
	for i := range r.Len {
		b := r.at(i)
		out = append(out, '[')
		for _, x := range [...]float64{b.At, b.B.Canary.Requests, b.B.Canary.Errors, b.B.Stable.Requests, b.B.Stable.Errors} {
			if math.IsNaN(x) || math.IsInf(x, 0) {
				return nil, fmt.Errorf("recent: %v is no count", x)
			}
			out = append(strconv.AppendFloat(out, x, 'g', -1, 64), ',')
		}
		out = append(out[:len(out)-1], ']', ',')
	}
	return append(bytes.TrimSuffix(out, []byte(",")), "]}"...), nil
}

// UnmarshalJSON also reads a bucket as it was written before: by the names of its fields.
func (b *bucket) UnmarshalJSON(raw []byte) error {
	if !bytes.HasPrefix(raw, []byte("[")) {
		var named struct {
			At float64 `json:"at"`
			B  Batch   `json:"b"`
		}
		err := json.Unmarshal(raw, &named)
		*b = bucket{named.At, named.B}
		return err
	}
	var n []float64
	if err := json.Unmarshal(raw, &n); err != nil {
		return err
	}
	if len(n) != 5 {
		return fmt.Errorf("recent: a bucket has %d numbers, not 5", len(n))
	}
	*b = bucket{n[0], Batch{Counts{n[1], n[2]}, Counts{n[3], n[4]}}}
	return nil
}

// UnmarshalJSON also reads what was written before: all buckets, and how many of them are filled.
func (r *Recent) UnmarshalJSON(raw []byte) error {
	var w struct {
		Buckets []bucket `json:"buckets"`
		Len     *int     `json:"len"`
	}
	if err := json.Unmarshal(raw, &w); err != nil {
		return err
	}
	n := len(w.Buckets)
	if w.Len != nil {
		n = *w.Len
	}
	if n < 0 || n > len(w.Buckets) || n > recentMost {
		return fmt.Errorf("recent: %d of %d buckets are filled, there are %d", n, len(w.Buckets), recentMost)
	}
	*r = Recent{}
	for _, b := range w.Buckets[:n] {
		r.add(b)
	}
	return nil
}
