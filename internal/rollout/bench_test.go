package rollout

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// One analysis tick of live rollouts with evidence at hand, through the whole state machine.
func BenchmarkTickOf1000Rollouts(b *testing.B)  { tickOf(b, 1000, 0) }
func BenchmarkTickOf10000Rollouts(b *testing.B) { tickOf(b, 10000, 0) }

// The same where the source counts by endpoint, and one of the canary's fails now and then.
func BenchmarkTickOf1000RolloutsByEndpoint(b *testing.B) { tickOf(b, 1000, 4) }

// Time alone passes and decides nothing, for services without a past and for such as remember twenty versions that have ended:
// nothing is copied.
func BenchmarkTimeOf1000Rollouts(b *testing.B)         { timeOf(b, 0) }
func BenchmarkTimeOf1000RolloutsWithPast(b *testing.B) { timeOf(b, keepEnded) }

func timeOf(b *testing.B, ended int) {
	states, at := climbing(1000)
	for i := range states {
		states[i].Versions = append(pastVersions(ended, at), states[i].Versions...)
	}
	b.ReportAllocs()
	for b.Loop() {
		at = at.Add(time.Millisecond) // there is evidence all the time
		for i := range states {
			states[i], _, _ = Step(states[i], Tick{At: at})
		}
	}
}

// What a decision and a checkpoint write of a release that was judged for two minutes, beside twenty that have ended.
func BenchmarkEncodeDecision(b *testing.B)   { encodeOf(b, true) }
func BenchmarkEncodeCheckpoint(b *testing.B) { encodeOf(b, false) }

func encodeOf(b *testing.B, decides bool) {
	states, at := climbing(1)
	s := states[0]
	for range 120 {
		from := at
		at = at.Add(time.Second)
		s, _, _ = Step(s, Observed{At: at, Batch: time.Second, Cells: []Cell{{Slice: "edge", From: from, To: at,
			Counts: map[string]analysis.Counts{"v1": {Requests: 950, Errors: 1}, "v2": {Requests: 50}}}}})
	}
	var past []*Version
	for k := range keepEnded {
		past = append(past, &Version{Name: fmt.Sprint("v0.", k), Phase: Retired, EndedAt: at, Endpoints: []string{"10.0.0.1:80"},
			Trial: Trial{Config: s.Versions[1].Config}, Verdict: s.Versions[1].Verdict})
	}
	s.Versions = append(past, s.Versions...)
	b.ReportAllocs()
	size := 0
	for b.Loop() {
		decided, evidence, err := EncodeParts(s, decides)
		if err != nil {
			b.Fatal(err)
		}
		size = len(decided) + len(evidence)
	}
	b.ReportMetric(float64(size), "bytes")
}

// climbing are rollouts at their first step.
func climbing(rollouts int) ([]State, time.Time) {
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
	return states, at
}

func tickOf(b *testing.B, rollouts, endpoints int) {
	states, at := climbing(rollouts)
	second := 0
	b.ReportAllocs()
	for b.Loop() {
		from := at
		second++
		at = at.Add(time.Second)
		for i := range states {
			cell := Cell{Slice: "edge", From: from, To: at, Counts: map[string]analysis.Counts{"v1": {Requests: 950, Errors: 1}, "v2": {Requests: 50, Errors: 0}}}
			if endpoints > 0 {
				cell.byEndpoint(endpoints, (second+i)%60 == 0)
			}
			states[i], _, _ = Step(states[i], Observed{At: at, Batch: time.Second, Cells: []Cell{cell}})
		}
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/tick")
}

// byEndpoint lays what a cell has counted on so many endpoints of each version; of one of the canary's three requests fail.
func (c *Cell) byEndpoint(endpoints int, fails bool) {
	c.Endpoints = map[string][]analysis.Slice{}
	for name, n := range c.Counts {
		if name == "v2" && fails {
			n.Errors = 3
			c.Counts[name] = n
		}
		for k := range endpoints {
			s := analysis.Slice{Name: fmt.Sprint(name, k), Counts: analysis.Counts{Requests: n.Requests / float64(endpoints)}}
			if k == 0 {
				s.Errors = n.Errors
			}
			c.Endpoints[name] = append(c.Endpoints[name], s)
		}
	}
}

// BenchmarkTickOf1000Envoys is one of a single rollout of which many Envoys know a few of many endpoints each.
func BenchmarkTickOf1000Envoys(b *testing.B) {
	s, at := wide()
	b.ReportAllocs()
	for b.Loop() {
		at = at.Add(time.Second)
		s, _, _ = Step(s, reportOfMany(at, 1000))
	}
}

const wideEndpoints = 1000

// wide is a service with a rollout between versions of a thousand endpoints.
func wide() (State, time.Time) {
	at := time.Unix(1_700_000_000, 0)
	docs, _ := policy.Parse("b", []byte("service: wide\nroute: {probe: \"off\"}\nversions: [{version: v1, endpoints: [\"h:1\"], stable: true}]\nramp: {steps: [5%, 100%], hold: 100h}\n"))
	var s State
	for _, e := range []Event{PolicyChanged{At: at, Policy: docs[0].Policy}, Announced{At: at, Version: "v2", Endpoints: []string{"h:2", "h:3"}}} {
		s, _, _ = Step(s, e)
	}
	s, _, _ = Step(s, Applied{At: at, Generation: s.Generation, InForce: true, Subscribers: 1})
	return s, at
}

// reportOfMany is what so many Envoys say, of ten endpoints of each version each.
func reportOfMany(at time.Time, envoys int) Observed {
	o := Observed{At: at, Batch: time.Second}
	for i := range envoys {
		c := Cell{Slice: fmt.Sprint("edge-", i), From: at.Add(-time.Second), To: at, Counts: map[string]analysis.Counts{"v1": {Requests: 950}, "v2": {Requests: 50}}, Endpoints: map[string][]analysis.Slice{}}
		for k := range 10 {
			name := fmt.Sprint("10.0.0.", (10*i+k)%wideEndpoints)
			c.Endpoints["v1"] = append(c.Endpoints["v1"], analysis.Slice{Name: name, Counts: analysis.Counts{Requests: 95}})
			c.Endpoints["v2"] = append(c.Endpoints["v2"], analysis.Slice{Name: name, Counts: analysis.Counts{Requests: 5}})
		}
		o.Cells = append(o.Cells, c)
	}
	return o
}

// What a tick costs grows with the Envoys, not with the Envoys times the endpoints.
func TestManyEnvoysOfManyEndpointsCostWhatTheySay(t *testing.T) {
	cost := func(envoys int) uint64 {
		s, at := wide()
		s, _, _ = Step(s, reportOfMany(at.Add(time.Second), 1000)) // all endpoints are known
		o := reportOfMany(at.Add(2*time.Second), envoys)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := Step(s, o)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatal(err)
		}
		return after.TotalAlloc - before.TotalAlloc
	}
	if few, many := cost(100), cost(1000); many > 20*few {
		t.Errorf("a tick of 100 Envoys allocates %d bytes, of ten times as many %d", few, many)
	}
}
