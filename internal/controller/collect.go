package controller

import (
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

const (
	heapLooked = 500 * time.Millisecond // memory is looked at no more often
	heapAhead  = 3 * time.Second        // it is collected when it would be within that anyway
	heapFast   = 16 << 20               // and only where so much is used in a second: the rest is left to the runtime
	heapFull   = 0.4                    // of what may be used until the runtime collects: else that is done far too often
	heapLate   = 0.9                    // of the same: the runtime has begun by now
	collected  = 900 * time.Millisecond // from one collection to the next at least
	collecting = 5                      // and so many times as long as it took
	tickSoon   = 200 * time.Millisecond // before a tick none is begun
)

// collector has memory collected while the loop has nothing to do. With thousands of releases the runtime would begin in the middle
// of a tick, as most garbage is made there. Its workers then have all processors, and who asks the loop for a cut may wait 20 ms
// until it has one again.
type collector struct {
	before  [2]heap // at the last two looks, the earlier one first: together they have seen a whole tick
	samples []metrics.Sample
	ticked  time.Time // the loop took the last tick
	begun   time.Time // the last collection
	running atomic.Bool
	took    atomic.Int64 // the last collection, in nanoseconds
}

// heap is what there is in memory at a time, in bytes.
type heap struct {
	at        time.Time
	allocated uint64 // since the process began
	objects   uint64 // those that are garbage included
	live      uint64 // after the last collection
	goal      uint64 // of objects; the runtime collects before it is reached
	automatic uint64 // collections that the runtime has begun and ended
}

func newCollector(now time.Time) *collector {
	c := &collector{ticked: now}
	for _, name := range []string{"/gc/heap/allocs:bytes", "/memory/classes/heap/objects:bytes", "/gc/heap/live:bytes", "/gc/heap/goal:bytes", "/gc/cycles/automatic:gc-cycles"} {
		c.samples = append(c.samples, metrics.Sample{Name: name})
	}
	c.before[1] = c.look(now)
	c.before[0] = c.before[1]
	return c
}

func (c *collector) look(now time.Time) heap {
	metrics.Read(c.samples)
	of := func(i int) uint64 { return c.samples[i].Value.Uint64() }
	return heap{now, of(0), of(1), of(2), of(3), of(4)}
}

// rest is called when the loop has nothing to do.
func (c *collector) rest(now time.Time) {
	if now.Sub(c.before[1].at) < heapLooked || now.Sub(c.ticked) > tickEvery-tickSoon {
		return
	}
	earlier := c.before[0]
	c.before = [2]heap{c.before[1], c.look(now)}
	if now.Sub(c.begun) < max(collected, collecting*time.Duration(c.took.Load())) || !c.before[1].soonFull(earlier) || !c.running.CompareAndSwap(false, true) {
		return
	}
	c.begun = now
	go func() {
		defer c.running.Store(false)
		begun := time.Now()
		runtime.GC()
		c.took.Store(int64(time.Since(begun)))
	}()
}

// soonFull says whether the runtime would collect soon, if memory were used on as it was since an earlier time. Where it has done
// so since, what is garbage of that may not have been counted out yet.
func (h heap) soonFull(earlier heap) bool {
	perSecond := float64(h.allocated-earlier.allocated) / h.at.Sub(earlier.at).Seconds()
	used, most := float64(h.objects)-float64(h.live), float64(h.goal)-float64(h.live)
	return h.automatic == earlier.automatic && perSecond > heapFast &&
		used > heapFull*most && used < heapLate*most && used+perSecond*heapAhead.Seconds() > most
}
