package notify

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Resume takes in up to which event each target was told in an earlier life, and returns after which one the
// events are to be sent again. A target without a mark is told what comes after newest.
func (n *Notifier) Resume(marks map[string]uint64, newest uint64) (after uint64) {
	after = newest
	for _, t := range n.targets {
		t.since = newest
		if m, known := marks[t.mark()]; known {
			t.since = min(m, newest) // above it: an older copy of the events was restored
		}
		t.seen = t.since
		after = min(after, t.since)
	}
	return after
}

// Marks say up to which event each target was told. Those of targets that are no longer configured are dropped.
func (n *Notifier) Marks() map[string]uint64 {
	marks := map[string]uint64{}
	for _, t := range n.targets {
		marks[t.mark()] = t.position()
	}
	return marks
}

// mark names a target without telling its URL.
func (t *target) mark() string {
	sum := sha256.Sum256(fmt.Append(nil, t.Format, " ", t.URL, " ", t.Events)) // two entries may share a receiver
	return hex.EncodeToString(sum[:8])
}

func (t *target) position() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.pending) == 0 {
		return t.seen
	}
	return t.pending[0] - 1
}

// takes reports whether an event is to be queued.
func (t *target) takes(cursor uint64, k rollout.Kind) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cursor <= t.since {
		return false
	}
	t.seen = cursor
	wanted := slices.Contains(t.Events, k)
	if wanted {
		t.pending = append(t.pending, cursor)
	}
	return wanted
}

func (t *target) handles(cursor uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i, found := slices.BinarySearch(t.pending, cursor); found {
		t.pending = slices.Delete(t.pending, i, i+1)
	}
}
