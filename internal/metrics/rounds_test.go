package metrics

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// scrapedEvery is a counter that rises by 10 a scrape, up to the present.
func scrapedEvery(every time.Duration, service string, ahead time.Duration) func() []series {
	begin := time.Now().Add(-10 * time.Minute)
	return func() []series {
		s := scraped(completed, service+"/v1", "", begin)
		for at := begin; !at.After(time.Now()); at = at.Add(every) {
			if time.Since(at) < longestGap {
				s.values = append(s.values, [2]any{float64(at.Add(ahead).UnixMilli()) / 1000, fmt.Sprint(int64(10 * at.Sub(begin) / every))})
			}
		}
		return []series{s}
	}
}

func rounds(t *testing.T, p *Prometheus, n int, targets ...Target) (evs []Evidence) {
	t.Helper()
	for range n {
		time.Sleep(time.Second)
		evs = append(evs, p.Round(t.Context(), targets)...)
	}
	return evs
}

func rangeOf(query string) time.Duration {
	d, _ := time.ParseDuration(query[strings.LastIndex(query, "[")+1 : len(query)-1])
	return d
}

// A service that Prometheus does not know, and one whose query fails, are looked for over five minutes,
// and rarely; the others are asked about over seconds all the same.
func TestOneServiceDoesNotMakeAllQueriesLong(t *testing.T) {
	unknown := Target{Service: "pay", Stable: "v1", Versions: []string{"v1"}}
	failing := unknown
	failing.Queries = &policy.Queries{Requests: "boom", Errors: "boom"}
	resting := unknown
	resting.AtRest = true
	for name, more := range map[string][]Target{"alone": nil, "beside an unknown one": {unknown}, "beside one that fails": {failing}, "beside an unknown one at rest": {resting}} {
		synctest.Test(t, func(t *testing.T) {
			r := &recorded{live: scrapedEvery(5*time.Second, "shop", 0), refuses: "boom"}
			p := source(t, r)
			rounds(t, p, 100, append([]Target{shop}, more...)...)
			long, longest := 0, time.Duration(0)
			for i, q := range r.queries {
				if i > 2 && strings.Contains(q, "shop/v1") && !strings.HasPrefix(q, "up") {
					longest = max(longest, rangeOf(q))
				}
				if (strings.Contains(q, "pay/v1") || strings.Contains(q, "boom")) && rangeOf(q) == longestGap {
					long++
				}
			}
			if longest > 20*time.Second || long > 11 {
				t.Errorf("%s: the longest query of shop reaches back %s, %d long ones of pay in 100 s", name, longest, long)
			}
			if got := p.Figures(); time.Since(got.Newest) > 8*time.Second {
				t.Errorf("%s: the newest evidence is %s old", name, time.Since(got.Newest))
			}
		})
	}
}

// A service whose Envoys are gone does not make the queries of the others long either.
func TestAGoneServiceDoesNotMakeAllQueriesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shopLive, payLive, gone := scrapedEvery(5*time.Second, "shop", 0), scrapedEvery(5*time.Second, "pay", 0), time.Now().Add(time.Minute)
		r := &recorded{live: func() []series {
			if time.Now().After(gone) {
				return shopLive()
			}
			return append(shopLive(), payLive()...)
		}}
		rounds(t, source(t, r), 400, shop, Target{Service: "pay", Stable: "v1", Versions: []string{"v1"}})
		for i, q := range r.queries {
			if i > 2 && strings.Contains(q, "shop/v1") && rangeOf(q) > 20*time.Second {
				t.Fatalf("query %d: %s", i, q)
			}
		}
	})
}

// Silence is noticed after three scrapes, also after a gap of minutes.
func TestSilenceIsNoticedAfterThreeScrapes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		live, begin := scrapedEvery(5*time.Second, "shop", 0), time.Now()
		within := func(from, to time.Duration) bool { d := time.Since(begin); return d >= from && d < to }
		r := &recorded{live: func() []series {
			all := live()
			var kept [][2]any
			for _, v := range all[0].values { // four minutes without scrapes, then two more, then none
				at := time.UnixMilli(int64(1000 * v[0].(float64))).Sub(begin)
				if at < 60*time.Second || at >= 300*time.Second && at < 320*time.Second {
					kept = append(kept, v)
				}
			}
			all[0].values = kept
			return all
		}}
		p := source(t, r)
		total := 0.0
		for time.Since(begin) < 345*time.Second {
			for _, ev := range rounds(t, p, 1, shop) {
				for _, c := range ev.Cells {
					if c.To.After(begin) {
						total += c.Counts["v1"].Requests
					}
				}
				switch {
				case within(0, 70*time.Second) && ev.Missing != nil, within(306*time.Second, 330*time.Second) && ev.Missing != nil:
					t.Errorf("after %s: %+v", time.Since(begin), ev.Missing)
				case within(342*time.Second, time.Hour) && ev.Missing == nil:
					t.Errorf("after %s silence is not noticed", time.Since(begin))
				}
			}
		}
		if total < 600 || total > 640 { // the gap is one long cell
			t.Errorf("%.0f requests in 320 s", total)
		}
	})
}

func TestWhatTheQuerierSaysIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorded{warnings: []string{"store 10.0.0.7 is down: partial response"}}
		evs := rounds(t, source(t, r), 15, shop)
		if len(evs) == 0 {
			t.Fatal("nothing is said")
		}
		if m := evs[len(evs)-1].Missing; m == nil || m.Code != analysis.SourceUnreachable || !strings.Contains(m.Reason, "partial answer: store 10.0.0.7 is down") {
			t.Errorf("%+v", m)
		}
		r.live = scrapedEvery(5*time.Second, "shop", 0)
		evs = rounds(t, source(t, r), 15, shop)
		if ev := evs[len(evs)-1]; ev.Missing != nil || len(ev.Cells) == 0 || len(ev.Warnings) != 1 || ev.Warnings[0] != "Prometheus says: store 10.0.0.7 is down: partial response" {
			t.Errorf("%+v", ev)
		}
	})
}

func TestAPrometheusThatAsksForItIsLeftAlone(t *testing.T) {
	for after, want := range map[string]int{"": 6, "30": 2, "0": 6} {
		synctest.Test(t, func(t *testing.T) {
			r := &recorded{status: http.StatusTooManyRequests, header: http.Header{"Retry-After": {after}}}
			evs := rounds(t, source(t, r), 59, shop)
			if len(r.queries) != want {
				t.Errorf("Retry-After %q: %d queries in a minute, want %d", after, len(r.queries), want)
			}
			if len(evs) != 59 {
				t.Errorf("%d of 59 rounds say why", len(evs))
			}
		})
	}
}

func TestAPrometheusThatIsAwayIsAskedLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorded{status: 502}
		p := source(t, r)
		rounds(t, p, 100, shop)
		if n := len(r.queries); n > 20 {
			t.Errorf("%d queries in 100 s", n)
		}
		r.status, r.live = 0, scrapedEvery(5*time.Second, "shop", 0)
		evs := rounds(t, p, 20, shop)
		if ev := evs[len(evs)-1]; ev.Missing != nil || len(ev.Cells) == 0 {
			t.Errorf("it is back: %+v", ev)
		}
	})
}

// Cells are told by canaryd's clock, never later than they were.
func TestClocksThatDiffer(t *testing.T) {
	for _, ahead := range []time.Duration{0, 300 * time.Millisecond, 37 * time.Second, -37 * time.Second, -40*time.Minute - 250*time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			r := &recorded{live: scrapedEvery(5*time.Second, "shop", ahead), ahead: &ahead}
			p := source(t, r)
			begin := time.Now()
			for i := range 100 {
				time.Sleep(time.Second + time.Duration(i*37%100)*time.Millisecond)
				for _, ev := range p.Round(t.Context(), []Target{shop}) {
					for _, c := range ev.Cells {
						scrapeAt := begin.Add(c.To.Sub(begin).Round(5 * time.Second)) // the nearest one
						if early := scrapeAt.Sub(c.To); early < 0 || early > time.Second || i > 60 && early > 150*time.Millisecond {
							t.Errorf("%s ahead, round %d: a cell ends %s before its scrape", ahead, i, early)
						}
						if c.To.Sub(c.From) != 5*time.Second {
							t.Errorf("a cell of %s", c.To.Sub(c.From))
						}
					}
					if warned := len(ev.Warnings) > 0; warned != (ahead.Abs() > clockWarned) {
						t.Errorf("%s ahead: warnings %q", ahead, ev.Warnings)
					} else if warned && i == 99 {
						t.Log(ev.Warnings)
					}
				}
			}
			if got := p.Figures().ClockAhead; (got - ahead).Abs() > 100*time.Millisecond {
				t.Errorf("%s ahead is measured as %s", ahead, got)
			}
			ahead = 90 * time.Second // somebody sets it
			r.live = scrapedEvery(5*time.Second, "shop", ahead)
			rounds(t, p, 3, shop)
			if got := p.Figures().ClockAhead; (got - ahead).Abs() > time.Second {
				t.Errorf("set to %s ahead, it is measured as %s", ahead, got)
			}
		})
	}
}
