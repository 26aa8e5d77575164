package rollout

import (
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

// teller is who counts requests, and how often it says so.
type teller struct {
	name         string
	proxy        Proxy
	every, phase time.Duration
	lags         bool // it serves an older table that names the canary
}

// failsFor lets the only instance of a canary fail everything for a while, and tells how long after that began it was cut; 0: it was
// not. Rounds are at whole multiples of a time.
func failsFor(t *testing.T, lasts, after, round time.Duration, tellers []teller) time.Duration {
	t.Helper()
	s, begin := tenPercent(t)
	var lagging []string
	for _, l := range tellers {
		if l.lags {
			lagging = append(lagging, l.name)
		}
	}
	s, _, _ = Step(s, Applied{At: begin, Generation: s.Generation, InForce: true, Subscribers: len(tellers), Lagging: lagging})
	from, to := begin.Add(after), begin.Add(after+lasts)
	var cells []Cell
	for past := 10 * time.Millisecond; past <= after+15*time.Second && s.Version("v2").Phase != Failed; past += 10 * time.Millisecond {
		at := begin.Add(past)
		for _, l := range tellers {
			if past > l.phase && (past-l.phase)%l.every == 0 {
				cells = append(cells, l.cell(begin, at, from, to))
			}
		}
		if len(cells) > 0 && past%round == 0 {
			s, _, _ = Step(s, Observed{At: at, Batch: round, Cells: cells})
			cells = nil
		}
		if s.Version("v2").Phase == Failed {
			return at.Sub(from)
		}
	}
	return 0
}

// cell is what was counted up to a moment, the canary failing from one moment to another.
func (l teller) cell(begin, at, from, to time.Time) Cell {
	since := at.Add(-l.every)
	end := at
	if to.Before(at) {
		end = to
	}
	failing := max(0, end.Sub(latest(since, from)).Seconds())
	c := Cell{Slice: l.name, Proxy: l.proxy, From: since, To: at, Counts: map[string]analysis.Counts{
		"v1": {Requests: 900 * l.every.Seconds()}, "v2": {Requests: 100 * l.every.Seconds(), Errors: 100 * failing}}}
	if l.lags {
		c.Has, c.HasSince = []Run{{"v1", 9500}, {"v2", 500}}, begin.Add(-time.Hour)
	}
	return c
}

// One hiccup of a canary's only instance is one cause, however many tell of it, and when: Envoys that report at different moments,
// some of them less often, or late, and gRPC clients beside them. A release that goes on failing is cut.
func TestAHiccupThatManyTellOfCutsNobody(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	for name, test := range map[string]struct {
		round time.Duration
		most  time.Duration // until one that fails for good is cut
		by    []teller
	}{
		"rounds are late":             {400 * ms, 1300 * ms, []teller{{name: "a", every: 100 * ms}}},
		"two at different moments":    {100 * ms, 700 * ms, []teller{{name: "a", every: 100 * ms}, {name: "b", every: 100 * ms, phase: 50 * ms}}},
		"one more seldom":             {100 * ms, 600 * ms, []teller{{name: "a", every: 100 * ms}, {name: "b", every: s, phase: 50 * ms}}},
		"one half as often":           {100 * ms, 600 * ms, []teller{{name: "a", every: 100 * ms}, {name: "b", every: 500 * ms, phase: 50 * ms}}},
		"one lags":                    {100 * ms, 600 * ms, []teller{{name: "a", every: 100 * ms}, {name: "b", every: 100 * ms, lags: true}}},
		"a client":                    {100 * ms, 600 * ms, []teller{{name: "a", every: 100 * ms}, {name: "c", proxy: Client, every: s}}},
		"many clients":                {100 * ms, 600 * ms, []teller{{name: "a", every: 100 * ms}, {name: "c", proxy: Client, every: s}, {name: "d", proxy: Client, every: s, phase: 300 * ms}, {name: "e", proxy: Client, every: s, phase: 600 * ms}}},
		"clients only":                {100 * ms, 3500 * ms, []teller{{name: "c", proxy: Client, every: s}, {name: "d", proxy: Client, every: s, phase: 300 * ms}, {name: "e", proxy: Client, every: s, phase: 600 * ms}}},
		"a second":                    {s, 3 * s, []teller{{name: "a", every: s}}},
		"scraped every 5 s":           {s, 15 * s, []teller{{name: "a", every: 5 * s}}},
		"a second, one lags":          {s, 2 * s, []teller{{name: "a", every: s}, {name: "b", every: s, lags: true}}},
		"a second, a client":          {s, 2 * s, []teller{{name: "a", every: s}, {name: "c", proxy: Client, every: s}}},
		"a second, different moments": {s, 3 * s, []teller{{name: "a", every: s}, {name: "b", every: s, phase: 500 * ms}}},
		"scraped every 5 s, in turns": {s, 9 * s, []teller{{name: "a", every: 5 * s}, {name: "b", every: 5 * s, phase: s}, {name: "c", every: 5 * s, phase: 2 * s}}},
	} {
		t.Run(name, func(t *testing.T) {
			slowest := time.Duration(0)
			for after := 6000 * ms; after < 7000*ms; after += 50 * ms {
				if d := failsFor(t, 300*ms, after, test.round, test.by); d > 0 {
					t.Errorf("a hiccup of 0.3 s, %s after the beginning, cuts it after %s", after, d)
				}
				d := failsFor(t, time.Hour, after, test.round, test.by)
				if slowest = max(slowest, d); d == 0 || d > test.most {
					t.Errorf("failing for good since %s it is cut after %s, want %s at most (0: never)", after, d, test.most)
				}
			}
		})
	}
}
