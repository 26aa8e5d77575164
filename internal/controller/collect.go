package controller

import (
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

const (
	heapLooked = 500 * time.Millisecond // memory is looked at no more often
	heapAhead  = 2 * time.Second        // it is collected when it would be within that anyway
	heapFast   = 16 << 20               // and only where so much is used in a second: the rest is left to the runtime
	heapFull   = 0.7                    // of what it may come to: else it would be collected far more often than the runtime does
)

// collector has memory collected while the loop has nothing to do. With thousands of releases the runtime would begin in the middle
// of a tick, as most garbage is made there. Its workers then have all processors, and who asks the loop for a cut may wait 20 ms
// until it has one again.
type collector struct {
	before  heap
	samples []metrics.Sample
	running atomic.Bool
}

// heap is what there is in memory at a time, in bytes.
type heap struct {
	at        time.Time
	allocated uint64 // since the process began
	objects   uint64 // those that are garbage included
	goal      uint64 // of objects; the runtime collects before it is reached
}

func newCollector(now time.Time) *collector {
	c := &collector{samples: []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/goal:bytes"}}}
	c.before = c.look(now)
	return c
}

func (c *collector) look(now time.Time) heap {
	metrics.Read(c.samples)
	return heap{now, c.samples[0].Value.Uint64(), c.samples[1].Value.Uint64(), c.samples[2].Value.Uint64()}
}

// rest is called when the loop has nothing to do.
func (c *collector) rest(now time.Time) {
	before := c.before
	if now.Sub(before.at) < heapLooked {
		return
	}
	c.before = c.look(now)
	if c.before.soonFull(before) && c.running.CompareAndSwap(false, true) {
		go func() {
			defer c.running.Store(false)
			runtime.GC()
		}()
	}
}

// soonFull says whether the goal is near, if memory is used on as it was since an earlier time.
func (h heap) soonFull(before heap) bool {
	perSecond := float64(h.allocated-before.allocated) / h.at.Sub(before.at).Seconds()
	objects, goal := float64(h.objects), float64(h.goal)
	return perSecond > heapFast && objects > heapFull*goal && objects+perSecond*heapAhead.Seconds() > goal
}
