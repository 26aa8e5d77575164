package analysis

const (
	recentSeconds = 30.0
	clumpSeconds  = 60.0 // the longest time over which one cause is taken to produce errors
)

// Recent are the counts of the last minute, one bucket a second; the newest bucket always counts,
// so that a source with longer batches still has a recent past.
type Recent struct {
	Buckets [62]bucket `json:"buckets"`
	Len     int        `json:"len"`
}

type bucket struct {
	At float64 `json:"at"`
	B  Batch   `json:"b"`
}

// Add takes in the counts of a tick.
func (r *Recent) Add(now float64, b Batch) {
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
