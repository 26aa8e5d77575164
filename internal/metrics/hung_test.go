package metrics

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// own is a service with counters of its own, which have the word in their name.
func own(service, word string) Target {
	return Target{Service: service, Stable: "v1", Versions: []string{"v1"}, Queries: &policy.Queries{Requests: word + "_requests_total", Errors: word + "_errors_total"}}
}

// A query that hangs, of one service, delays the evidence of the others rarely, whether it did so from the beginning or does so
// from some time on; of its own service it is told all the time why there is none, and soon after it answers there is some again.
func TestAQueryThatHangsDelaysTheOthersRarely(t *testing.T) {
	for _, from := range []time.Duration{0, 2 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			shopLive := scrapedEvery(5*time.Second, "shop", 0)
			ownLive := func(word string) []series {
				var all []series
				for _, name := range []string{word + "_requests_total", word + "_errors_total"} {
					s := series{labels: map[string]string{"__name__": name, "version": "v1", "job": "app", "instance": word}}
					for at := begin.Add(-time.Minute); !at.After(time.Now()); at = at.Add(5 * time.Second) {
						s.values = append(s.values, [2]any{float64(at.UnixMilli()) / 1000, fmt.Sprint(int64(at.Sub(begin)/time.Second) + 3600)})
					}
					all = append(all, s)
				}
				return all
			}
			r := &recorded{live: func() []series { return append(append(shopLive(), ownLive("fine")...), ownLive("slow")...) }}
			p := source(t, r)
			targets := []Target{own("slow", "slow"), shop, own("fine", "fine")}
			until := from + 20*time.Minute
			newest := map[string]time.Time{}
			came, waited := map[string]time.Time{}, map[string]time.Duration{} // evidence that was due every 5 s
			failed := map[string]int{}
			told := time.Now()
			for time.Since(begin) < until+8*time.Minute {
				time.Sleep(time.Second)
				if r.hangs = ""; time.Since(begin) >= from && time.Since(begin) < until {
					r.hangs = "slow_"
				}
				for _, ev := range p.Round(t.Context(), targets) {
					if ev.Missing != nil {
						failed[ev.Service]++
					}
					if ev.Service == "slow" && ev.Missing != nil && ev.Missing.Code == analysis.SourceUnreachable && strings.Contains(ev.Missing.Reason, "did not answer within 10s") {
						told = time.Now()
					}
					for _, c := range ev.Cells {
						if c.To.After(newest[ev.Service]) {
							newest[ev.Service] = c.To
						}
					}
					if len(ev.Cells) > 0 {
						if gap := time.Since(came[ev.Service]); gap > 7*time.Second && time.Since(begin) > 30*time.Second {
							waited[ev.Service] += gap
						}
						came[ev.Service] = time.Now()
					}
				}
				if r.hangs != "" && time.Since(begin) > from+30*time.Second && time.Since(told) > 15*time.Second {
					t.Fatalf("for %s nothing was told of the service whose query hangs", time.Since(told))
				}
			}
			for _, service := range []string{"shop", "fine"} {
				if waited[service] > 3*time.Minute || failed[service] > 10 {
					t.Errorf("hung from %s on: %s waited for evidence for %s of 20 minutes, which was missing %d times", from, service, waited[service], failed[service])
				}
			}
			if age := time.Since(newest["slow"]); age > 10*time.Second {
				t.Errorf("hung from %s on: evidence of the service whose query hung is %s old, eight minutes after it answers", from, age)
			}
		})
	}
}

// Of several services whose queries hang each has its turn to be asked about: one that answers again is not forgotten behind another
// that still hangs.
func TestEachQueryThatHangsHasItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorded{live: scrapedEvery(5*time.Second, "shop", 0), hangs: "slow_"}
		p := source(t, r)
		targets := []Target{own("a", "slow_a"), own("b", "slow_b"), own("c", "slow_c"), shop}
		during := func(d time.Duration) {
			for begin := time.Now(); time.Since(begin) < d; {
				time.Sleep(time.Second)
				p.Round(t.Context(), targets)
			}
		}
		during(time.Hour)
		r.hangs = "slow_a"
		during(3*longestGap + time.Minute)
		for service, hangs := range map[string]bool{"a": true, "b": false, "c": false} {
			if is := p.progress[service].hung.times > 0; is != hangs {
				t.Errorf("the query of %s hangs: %v, and so it was seen: %v", service, hangs, is)
			}
		}
	})
}

// Whoever mends a query does not wait until the old one would be asked again.
func TestOtherQueriesAreAskedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorded{live: scrapedEvery(5*time.Second, "shop", 0), hangs: "slow_"}
		p := source(t, r)
		for range 60 {
			time.Sleep(time.Second)
			p.Round(t.Context(), []Target{own("pay", "slow"), shop})
		}
		asked := len(r.queries)
		for range 12 {
			time.Sleep(time.Second)
			p.Round(t.Context(), []Target{own("pay", "quick"), shop})
		}
		if got := strings.Join(r.queries[asked:], "\n"); !strings.Contains(got, "quick_requests_total") || !strings.Contains(got, "quick_errors_total") {
			t.Errorf("the other queries are not asked:\n%s", got)
		}
	})
}

// A query of buckets that hangs delays nobody either, and its own service has its evidence.
func TestBucketsThatHangDelayNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorded{live: scrapedEvery(5*time.Second, "shop", 0), hangs: "_bucket"}
		p := source(t, r)
		pay := own("pay", "quick")
		pay.Timed, pay.Queries.Buckets = true, "quick_seconds_bucket"
		begin, longest := time.Now(), 0
		for time.Since(begin) < 10*time.Minute {
			time.Sleep(time.Second)
			begun := time.Now()
			if p.Round(t.Context(), []Target{pay, shop}); time.Since(begun) >= queryTimeout {
				longest++
			}
		}
		if longest > 3 {
			t.Errorf("%d rounds of ten minutes took 10 s", longest)
		}
	})
}
