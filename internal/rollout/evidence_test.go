package rollout

import (
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// tenPercent is a service whose canary has 10 %, in force since now.
func tenPercent(t *testing.T) (State, time.Time) {
	t.Helper()
	docs, fs := policy.Parse("test", []byte("service: shop\nroute: {probe: \"off\"}\nversions: [{version: v1, endpoints: [\"10.0.0.1:80\"], stable: true}]\nramp: {steps: [1%, 10%, 50%, 100%], hold: 5s}\njudge: {clump: 1, budget: 10000}\n"))
	if len(fs.Errors()) > 0 {
		t.Fatal(fs)
	}
	at := time.Unix(1_700_000_000, 0)
	var s State
	take := func(e Event) {
		t.Helper()
		next, _, err := Step(s, e)
		if err != nil {
			t.Fatal(err)
		}
		s = next
	}
	take(PolicyChanged{At: at, Policy: docs[0].Policy, Hash: "1"})
	take(Applied{At: at, Generation: s.Generation, InForce: true, Subscribers: 2})
	take(Announced{At: at, Version: "v2", Endpoints: []string{"10.0.0.2:80"}})
	for range 60 {
		if s.Weight("v2") == 1000 && s.InForce {
			return s, at
		}
		take(Applied{At: at, Generation: s.Generation, InForce: true, Subscribers: 2})
		at = at.Add(time.Second)
		take(cellOf(at, "edge-1", s.Accepted, 0))
	}
	t.Fatalf("v2 has %d", s.Weight("v2"))
	return s, at
}

// cellOf is what one Envoy counted in a second, with so many failed requests of v2's hundred.
func cellOf(at time.Time, node string, has []Run, failed float64) Observed {
	return Observed{At: at, Batch: time.Second, Cells: []Cell{{Slice: node, From: at.Add(-time.Second), To: at, Has: has, HasSince: at.Add(-time.Hour),
		Counts: map[string]analysis.Counts{"v1": {Requests: 900}, "v2": {Requests: 100, Errors: failed}}}}}
}

// An Envoy that lags still serves the canary: what fails there cuts it.
func TestALaggingEnvoySpeaksAgainstACanary(t *testing.T) {
	for name, known := range map[string]bool{"known to serve it": true, "not known to": false} {
		t.Run(name, func(t *testing.T) {
			s, at := tenPercent(t)
			s, _, _ = Step(s, Applied{At: at, Generation: s.Generation, InForce: true, Subscribers: 2, Lagging: []string{"edge-2"}})
			var has []Run
			if known {
				has = []Run{{"v1", 9900}, {"v2", 100}}
			}
			for range 5 {
				at = at.Add(time.Second)
				s, _, _ = Step(s, cellOf(at, "edge-2", has, 90))
			}
			if cut := s.Version("v2").Phase == Failed; cut != known {
				t.Errorf("cut: %v: %+v", cut, s.Version("v2").Verdict)
			}
		})
	}
}

// An Envoy that came back with an older table says nothing for a step up: what it counts was not counted
// under the present weight.
func TestAnOlderTableRaisesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		has    []Run
		raised bool
	}{"the present table": {nil, true}, "an older one": {[]Run{{"v1", 9900}, {"v2", 100}}, false}} {
		t.Run(name, func(t *testing.T) {
			s, at := tenPercent(t)
			has := c.has
			if has == nil {
				has = s.Accepted
			}
			for range 60 {
				at = at.Add(time.Second)
				s, _, _ = Step(s, cellOf(at, "edge-1", has, 0))
			}
			if raised := s.Weight("v2") > 1000; raised != c.raised {
				t.Errorf("v2 has %d: %+v", s.Weight("v2"), s.Version("v2").Verdict)
			}
		})
	}
}

// Of an Envoy nobody knows what it serves, though the source knows it of others. What it counts raises nothing; it speaks against a
// canary, as what it counts of that came from there.
func TestOfAnUnknownTableNothingRises(t *testing.T) {
	for failed, want := range map[float64]Phase{0: Canary, 90: Failed} {
		s, at := tenPercent(t)
		for range 60 {
			at = at.Add(time.Second)
			e := cellOf(at, "edge-1", nil, failed)
			e.Cells[0].Unknown = true
			s, _, _ = Step(s, e)
		}
		if v := s.Version("v2"); v.Phase != want || s.Weight("v2") > 1000 {
			t.Errorf("%.0f of 100 fail: v2 is %s at %d: %+v", failed, v.Phase, s.Weight("v2"), v.Verdict)
		}
	}
}

// After a restart nothing rises before the Envoys from before it are back, or half a minute has passed.
func TestAfterARestartTheEnvoysAreWaitedFor(t *testing.T) {
	for gone, earliest := range map[int]time.Duration{0: 0, 1: 30 * time.Second} {
		s, at := tenPercent(t)
		s, _, _ = Step(s, Applied{At: at, Generation: s.Generation, InForce: true, Subscribers: 2, Crowds: []Crowd{{"r", s.Accepted, true, []string{"edge-1", "edge-2"}}}})
		restart := at
		s = Resume(s, at)
		if s.Gone != 2 {
			t.Fatalf("%d Envoys are waited for", s.Gone)
		}
		s, _, _ = Step(s, Applied{At: at, Generation: s.Generation, InForce: true, Subscribers: 2 - gone, Gone: gone})
		for s.Weight("v2") == 1000 && at.Sub(restart) < time.Minute {
			at = at.Add(time.Second)
			s, _, _ = Step(s, cellOf(at, "edge-1", s.Accepted, 0))
		}
		if took := at.Sub(restart); took < earliest || took > earliest+10*time.Second {
			t.Errorf("with %d away v2 rose after %s, not before %s", gone, took, earliest)
		}
	}
}

// A canary that hangs is stepped back after a minute in which that was seen; time without evidence does not count, and
// users who keep their version are no share of requests.
func TestWhoIsStarved(t *testing.T) {
	const starving = "ramp: {steps: [5%, 20%, 100%], hold: 40s}\njudge: {budget: 100000, no_evidence: {for: 2h, then: rollback}}\n"
	begin := func(more string) *run {
		r := newRun(t, seedV1+more)
		r.announce("v2", "10.0.0.2:80")
		r.observe(45, counts("v1", 950, 0, "v2", 50, 0))
		if w := r.s.Weight("v2"); w != 2000 {
			t.Fatalf("v2 has %d", w)
		}
		return r
	}
	none := counts("v1", 800, 0)
	r := begin(starving)
	r.observe(100, none)
	if p := r.s.Version("v2").Phase; p != Failed || r.s.Version("v2").Verdict.Code != analysis.Starved {
		t.Errorf("it hangs, and is %s: %s", p, r.s.Version("v2").Verdict.Reason)
	}

	r = begin(starving)
	r.observe(62, none) // starved for half a minute, and the source of evidence goes away
	if c := r.s.Version("v2").Verdict.Code; c != analysis.Starved {
		t.Fatalf("%s", c)
	}
	for range 600 {
		r.at = r.at.Add(time.Second)
		r.step(Observed{At: r.at, Batch: time.Second, Missing: &Missing{analysis.SourceUnreachable, "away"}})
	}
	if v := r.s.Version("v2"); v.Phase != Canary || v.Verdict.Code != analysis.SourceUnreachable {
		t.Errorf("no data made it %s: %s", v.Phase, v.Verdict.Reason)
	}

	r = begin(strings.Replace(starving, "ramp: {", "route: {user_key: {header: x-user}}\nramp: {per: user, ", 1))
	r.observe(300, none)
	if v := r.s.Version("v2"); v.Phase != Canary || v.Verdict.Code == analysis.Starved {
		t.Errorf("no user of few hashes into it, and it is %s: %s", v.Phase, v.Verdict.Reason)
	}

	r = begin(starving)
	r.step(Commanded{At: r.at, Verb: "pause", Version: "v2", By: "ann"})
	r.observe(300, none)
	if v := r.s.Version("v2"); v.Phase != Paused || r.s.Weight("v2") != 2000 {
		t.Errorf("paused, and it is %s with %d: %s", v.Phase, r.s.Weight("v2"), v.Verdict.Reason)
	}
}

// With reports every 100 ms a hiccup of one instance looks like a release that fails everything: it is waited out. Two
// instances do not hiccup together.
func TestAHiccupOfOneInstanceCutsNobody(t *testing.T) {
	for name, test := range map[string]struct {
		endpoints []string
		batches   int
	}{"one instance": {[]string{"a"}, 5}, "two instances": {[]string{"a", "b"}, 2}, "not known": {nil, 5}} {
		t.Run(name, func(t *testing.T) {
			s, at := tenPercent(t)
			n := 0
			for s.Version("v2").Phase == Canary && n < 20 {
				n++
				at = at.Add(100 * time.Millisecond)
				c := Cell{Slice: "edge-1", From: at.Add(-100 * time.Millisecond), To: at, Counts: map[string]analysis.Counts{"v1": {Requests: 90}, "v2": {Requests: 10, Errors: 10}}}
				for _, e := range test.endpoints {
					each := 10 / float64(len(test.endpoints))
					c.Endpoints = map[string][]analysis.Slice{"v2": append(c.Endpoints["v2"], analysis.Slice{Name: e, Counts: analysis.Counts{Requests: each, Errors: each}})}
				}
				s, _, _ = Step(s, Observed{At: at, Batch: 100 * time.Millisecond, Cells: []Cell{c}})
			}
			if n != test.batches || s.Version("v2").Phase != Failed {
				t.Errorf("%s after %d batches of 100 ms, want failed after %d", s.Version("v2").Phase, n, test.batches)
			}
		})
	}
}

// What was counted last is no news for ever: when all Envoys are gone neither rate nor shares are shown as if they were still so.
func TestOldCountsAreNotShownAsThoseOfNow(t *testing.T) {
	at := time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC)
	s := State{Stable: "v1", Versions: []*Version{{Name: "v1", Phase: Stable}}, Serving: Serving{Subscribers: 1}}
	s.Learnt = Learnt{At: at, SeenAt: at, Rate: Rate{Requests: 80, Weight: 10, Seconds: 60}, Batch: time.Second}
	s.Version("v1").Lately = 80
	for _, c := range []struct {
		after, batch time.Duration
		rate         float64
	}{{0, time.Second, 8}, {time.Minute, time.Second, 8}, {61 * time.Second, time.Second, 0}, {61 * time.Second, time.Minute, 8}, {4 * time.Minute, time.Minute, 0}} {
		s.At, s.Batch = at.Add(c.after), c.batch
		if got, share := s.RequestsPerSecond(), s.RequestShare("v1"); got != c.rate || (share > 0) != (c.rate > 0) {
			t.Errorf("%s after the last report, in batches of %s: %g requests/s, share %g", c.after, c.batch, got, share)
		}
	}
}
