package rollout

import (
	"fmt"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// One analysis tick of live rollouts with evidence at hand, through the whole state machine.
func BenchmarkTickOf1000Rollouts(b *testing.B)  { tickOf(b, 1000) }
func BenchmarkTickOf10000Rollouts(b *testing.B) { tickOf(b, 10000) }

func tickOf(b *testing.B, rollouts int) {
	states := make([]State, rollouts)
	at := time.Unix(1_700_000_000, 0)
	for i := range states {
		docs, _ := policy.Parse("b", []byte(fmt.Sprintf("service: s%d\nroute: {probe: \"off\"}\nversions: [{version: v1, endpoints: [\"h:1\"], stable: true}]\nramp: {steps: [5%%, 100%%], hold: 100h}\n", i)))
		var s State
		for _, e := range []Event{PolicyChanged{At: at, Policy: docs[0].Policy}, Announced{At: at, Version: "v2", Endpoints: []string{"h:2"}}} {
			s, _, _ = Step(s, e)
		}
		states[i], _, _ = Step(s, Applied{At: at, Generation: s.Generation, InForce: true, Subscribers: 1})
	}
	b.ReportAllocs()
	for b.Loop() {
		from := at
		at = at.Add(time.Second)
		for i := range states {
			cell := Cell{Slice: "edge", From: from, To: at, Counts: map[string]analysis.Counts{"v1": {Requests: 950, Errors: 1}, "v2": {Requests: 50, Errors: 0}}}
			states[i], _, _ = Step(states[i], Observed{At: at, Batch: time.Second, Cells: []Cell{cell}})
		}
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/tick")
}
