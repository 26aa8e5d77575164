package analysis

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
)

const (
	recentSeconds = 30.0
	clumpSeconds  = 60.0 // the longest time over which one cause is taken to produce errors
)

// Recent are the counts of the last minute, one bucket a second; the newest bucket always counts,
// so that a source with longer batches still has a recent past.
// Invariant: 0 <= Len <= len(Buckets), and the buckets before Len are in order of time.
type Recent struct {
	Buckets [62]bucket
	Len     int
}

type bucket struct {
	At float64
	B  Batch
}

// Add takes in the counts of a tick.
func (r *Recent) Add(now float64, b Batch) {
	for r.Len > 0 && r.Buckets[r.Len-1].At > now {
		r.Len-- // the clock was set back: this has not been yet
	}
	if r.Len > 0 && now-r.Buckets[r.Len-1].At < 1 {
		last := &r.Buckets[r.Len-1].B
		last.Canary, last.Stable = last.Canary.Add(b.Canary), last.Stable.Add(b.Stable)
		return
	}
	if r.Len == len(r.Buckets) {
		copy(r.Buckets[:], r.Buckets[1:])
		r.Len--
	}
	r.Buckets[r.Len] = bucket{At: now, B: b}
	r.Len++
}

// Sum is what came in the last 30 seconds before now.
func (r *Recent) Sum(now float64) Batch { return r.since(now - recentSeconds) }

func (r *Recent) since(from float64) Batch {
	var s Batch
	for i := range r.Len {
		if b := r.Buckets[i]; b.At > from || i == r.Len-1 {
			s.Canary, s.Stable = s.Canary.Add(b.B.Canary), s.Stable.Add(b.B.Stable)
		}
	}
	return s
}

// Span is how many seconds of the last 30 the buckets cover.
func (r *Recent) Span(now float64) float64 {
	for i := range r.Len {
		if r.Buckets[i].At > now-recentSeconds {
			return now - r.Buckets[i].At
		}
	}
	return 0
}

// MarshalJSON writes the buckets that are filled, as lists of numbers: they are most of a judge, and are written at every checkpoint.
func (r Recent) MarshalJSON() ([]byte, error) {
	out := []byte(`{"buckets":[`)
	for i := range r.Len {
		b := &r.Buckets[i]
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
	if n < 0 || n > len(w.Buckets) || n > len(r.Buckets) {
		return fmt.Errorf("recent: %d of %d buckets are filled, there are %d", n, len(w.Buckets), len(r.Buckets))
	}
	*r = Recent{Len: n}
	copy(r.Buckets[:], w.Buckets[:n])
	return nil
}
