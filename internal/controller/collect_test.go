package controller

import (
	"runtime"
	"testing"
	"time"
)

func TestMemoryIsCollectedWhenItWouldBeSoon(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		name                      string
		used, objects, live, goal uint64 // MB
		automatic                 uint64
		want                      bool
	}{
		{"ten thousand releases under judgement, after a tick", 150, 425, 283, 565, 0, true},
		{"just collected", 150, 300, 283, 565, 0, false},
		{"the runtime has collected in the tick", 150, 425, 283, 565, 1, false},
		{"the runtime has begun to", 150, 550, 283, 565, 0, false},
		{"a hundred releases", 2, 55, 30, 61, 0, false},
		{"a thousand, the goal far", 20, 190, 130, 260, 0, false},
		{"a thousand, the goal near", 20, 225, 130, 260, 0, true},
		{"no goal, as with GOGC=off", 150, 425, 283, 1 << 43, 0, false},
		{"little left of a limit, just collected", 50, 910, 900, 1000, 0, false},
		{"more in use than the limit", 50, 1010, 1005, 1000, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := heap{now.Add(time.Second), 900<<20 + tc.used<<20, tc.objects << 20, tc.live << 20, tc.goal << 20, 7 + tc.automatic}
			if got := h.soonFull(heap{at: now, allocated: 900 << 20, automatic: 7}); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestGarbageIsCollectedAtRest(t *testing.T) {
	now := time.Now()
	c := newCollector(now)
	forced := func() uint32 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumForcedGC
	}
	// As after a tick: half of what may be used is, and the runtime has not collected meanwhile.
	rest := func(after time.Duration) {
		var garbage []byte
		for {
			h := c.look(now)
			c.before[0].automatic, c.before[0].allocated = h.automatic, h.allocated-4<<30
			if used, most := float64(h.objects)-float64(h.live), float64(h.goal)-float64(h.live); used > 0.5*most && used < 0.65*most {
				break
			}
			garbage = make([]byte, 64<<10)
		}
		runtime.KeepAlive(garbage)
		c.rest(now.Add(after))
		for c.running.Load() {
			time.Sleep(time.Millisecond)
		}
	}
	before := forced()
	for _, step := range []struct {
		name   string
		after  time.Duration
		ticked time.Duration
		want   uint32
	}{
		{"too soon", heapLooked / 2, 0, 0},
		{"a tick is due", 900 * time.Millisecond, 0, 0},
		{"at rest", time.Second, time.Second, 1},
		{"again too soon", time.Second + collected - 1, time.Second + collected - 1, 1},
		{"again", time.Minute, time.Minute, 2},
	} {
		c.ticked = now.Add(step.ticked)
		if rest(step.after); forced()-before != step.want {
			t.Errorf("%s: memory was collected %d times, want %d", step.name, forced()-before, step.want)
		}
	}
}
