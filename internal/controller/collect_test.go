package controller

import (
	"runtime"
	"testing"
	"time"
)

func TestMemoryIsCollectedWhenItWouldBeSoon(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		name                string
		used, objects, goal uint64 // MB
		want                bool
	}{
		{"ten thousand releases under judgement, after a tick", 150, 425, 565, true},
		{"after a tick that the runtime collected in", 150, 300, 565, false},
		{"a hundred releases", 2, 60, 61, false},
		{"a thousand, the goal far", 20, 200, 260, false},
		{"a thousand, the goal near", 20, 225, 260, true},
		{"no goal, as with GOGC=off", 150, 425, 1 << 43, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := heap{now.Add(time.Second), 900<<20 + tc.used<<20, tc.objects << 20, tc.goal << 20}
			if got := h.soonFull(heap{at: now, allocated: 900 << 20}); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestGarbageIsCollectedAtRest(t *testing.T) {
	now := time.Now()
	c := newCollector(now)
	collected := func() uint32 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumForcedGC
	}
	before := collected()
	full := func() bool { h := c.look(now); return float64(h.objects) > 0.8*float64(h.goal) }
	var garbage []byte
	for i := 0; i < 64 || !full(); i++ {
		garbage = make([]byte, 1<<20)
	}
	runtime.KeepAlive(garbage)
	if c.rest(now.Add(heapLooked / 2)); c.running.Load() {
		t.Error("memory is looked at again too soon")
	}
	c.rest(now.Add(time.Second))
	for c.running.Load() {
		time.Sleep(time.Millisecond)
	}
	if n := collected() - before; n != 1 {
		t.Errorf("memory was collected %d times, want once", n)
	}
	if c.rest(now.Add(2 * time.Second)); c.running.Load() {
		t.Error("there is nothing to collect")
	}
}
