package controller

import (
	"encoding/json"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/rollout"
)

// What was sent to a version before it was aborted is reported after that, late: who has an earlier state has it as it was.
func TestALateReportChangesNoStateThatIsLent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bad sync.Map
		b := canary(t, tenPercent, &bad)
		if _, err := b.hand("abort", "v2"); err != nil {
			t.Fatal(err)
		}
		b.announce("v3")
		time.Sleep(7 * time.Second)
		b.inLoop(func() {
			c, now := b.daemon, time.Now()
			lent := c.snapshot(c.units["shop"]).State
			was, _ := json.Marshal(lent)
			for i, versions := range [][]string{{"v1", "v3"}, {"v1", "v2", "v3"}} {
				cell := rollout.Cell{Slice: "late", From: now.Add(-time.Second), To: now, Unknown: true, Counts: map[string]analysis.Counts{}}
				for _, v := range versions {
					cell.Counts[v] = analysis.Counts{Requests: 10}
				}
				c.observed(metrics.Evidence{Service: "shop", Batch: time.Second, Cells: []rollout.Cell{cell}}, now.Add(time.Duration(i)*time.Millisecond))
			}
			if is, _ := json.Marshal(lent); string(is) != string(was) {
				t.Errorf("a state was\n%s\nand is\n%s", was, is)
			}
		})
	})
}

// A state that somebody has stays as it is, while reports, promotions, a disk that hangs and what is withdrawn after that make
// others of it.
func TestAStateThatIsLentStaysAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bad sync.Map
		b := canary(t, tenPercent, &bad)
		type lent struct {
			rollout.State
			was string
		}
		var all []lent
		var looks, shadows int
		encoded := func(s rollout.State) string {
			raw, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			return string(raw)
		}
		watch := func(d, every time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(every) {
				b.inLoop(func() {
					u := b.daemon.units["shop"]
					for _, s := range u.shadows {
						if v := s.state.Version("v2"); v == nil || v.Judge == nil || v.Judge.Relative.S == [len(v.Judge.Relative.S)]float64{} {
							t.Fatalf("the state before a promotion is used for something else: %s", encoded(s.state))
						}
						shadows++
					}
					if looks++; looks%3 == 0 { // else nobody has it
						s := b.daemon.snapshot(u).State
						all = append(all, lent{s, encoded(s)})
					}
				})
			}
		}
		watch(5*time.Second, 700*time.Millisecond)
		thaw := b.freeze()
		time.Sleep(3500 * time.Millisecond) // nobody has the state any more
		_, err := b.hand("promote", "v2")
		b.unstored(err)
		watch(3*time.Second, 1300*time.Millisecond)
		bad.Store("v2", true)
		watch(20*time.Second, 300*time.Millisecond)
		thaw()
		b.announce("v3")
		watch(20*time.Second, 3100*time.Millisecond)
		for _, l := range all {
			if now := encoded(l.State); now != l.was {
				t.Fatalf("a state was\n%s\nand is\n%s", l.was, now)
			}
		}
		if len(all) < 20 || shadows < 5 { // the cut takes one to three seconds, by the order of timers of one instant
			t.Errorf("%d states were kept, and %d from before a promotion", len(all), shadows)
		}
	})
}
