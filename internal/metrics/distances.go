package metrics

import (
	"slices"
	"time"
)

// distances are the last ones between two readings. Their median is the scrape interval: one gap of
// minutes does not move it.
type distances []time.Duration

const distancesKept = 9

func (d *distances) add(x time.Duration) {
	*d = append(*d, x)
	if len(*d) > distancesKept {
		*d = slices.Delete(*d, 0, 1)
	}
}

// median is 0 while none is known.
func (d distances) median() time.Duration {
	if len(d) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(d))
	return sorted[len(sorted)/2]
}
