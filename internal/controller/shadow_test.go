package controller

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// canary brings v2 to 10 %.
func canary(t *testing.T, policy string, bad *sync.Map) *bubble { return canaryOf(t, policy, bad, 2) }

func canaryOf(t *testing.T, policy string, bad *sync.Map, envoys uint32) *bubble {
	b := newBubble(t, policy, int(envoys), failing(bad))
	time.Sleep(3 * time.Second)
	b.announce("v2")
	time.Sleep(5 * time.Second)
	b.serves(map[string]uint32{"v1": 9000 * envoys, "v2": 1000 * envoys})
	return b
}

// told are the kinds of records of a version, which listeners hear as they are in the history.
func (b *bubble) told(version string) (kinds []rollout.Kind) {
	b.t.Helper()
	h, err := b.daemon.History(b.t.Context(), "shop", 1000)
	if err != nil {
		b.t.Fatal(err)
	}
	events, err := b.daemon.Listen(b.t.Context(), "0")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, want := range h {
		if e := <-events; e.Kind != want.Kind || e.Version != want.Version || !e.At.Equal(want.At) {
			b.t.Errorf("told is %s of %q, the history has %s of %q", e.Kind, e.Version, want.Kind, want.Version)
		}
		if want.Version == version {
			kinds = append(kinds, want.Kind)
		}
	}
	return kinds
}

// A person promotes a canary on a disk that hangs, and it fails: what the Envoys serve of it is cut, and the promotion
// is withdrawn. It is in the history only where it may have been there before the cut.
func TestAPromotionByHandIntoAHangIsWithdrawn(t *testing.T) {
	syncs := errors.New("the last sync failed")
	for _, how := range []struct {
		name   string
		behind bool  // another write
		fails  error // the write under way
		takes  bool  // it is durable all the same
		told   bool
	}{
		{"behind another write", true, nil, false, false},
		{"in a write that fails", false, errDiskFull, false, false},
		{"in a write that succeeds", false, nil, false, true},
		{"in a write that fails after it is durable", false, syncs, true, true},
	} {
		t.Run(how.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var bad sync.Map
				b := canary(t, tenPercent, &bad)
				b.disk.mu.Lock()
				b.disk.takes = how.takes
				b.disk.mu.Unlock()
				thaw := b.freeze()
				if how.behind {
					time.Sleep(6 * time.Second) // a checkpoint is under way
				}
				_, err := b.hand("promote", "v2")
				b.unstored(err)
				if !strings.Contains(err.Error(), "unless it fails before") {
					t.Errorf("%v", err)
				}
				b.serves(map[string]uint32{"v1": 18000, "v2": 2000})
				bad.Store("v2", true)
				b.until("v2", rollout.Failed, 10*time.Second)
				time.Sleep(200 * time.Millisecond)
				b.serves(map[string]uint32{"v1": 20000})
				if v := b.version("v2"); !strings.Contains(v.Verdict.Reason, "error rate") || !strings.Contains(v.Verdict.Reason, rollout.Withdrawn) {
					t.Errorf("%s", v.Verdict.Reason)
				}
				b.disk.set(0, how.fails)
				thaw()
				time.Sleep(time.Second)
				b.disk.set(0, nil)
				b.never("v2", 10*time.Second)
				b.serves(map[string]uint32{"v1": 20000})
				want := []rollout.Kind{rollout.KindAnnounced, rollout.KindStarted, rollout.KindRolledBack}
				if how.told {
					want = slices.Insert(want, 2, rollout.KindPromoted)
				}
				if got := b.told("v2"); !slices.Equal(got, want) {
					t.Errorf("told %v, want %v", got, want)
				}
			})
		})
	}
}

// Whoever waits for the promotion to be stored hears that it is withdrawn, and why.
func TestWhoPromotesHearsThatItIsWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bad sync.Map
		b := canaryOf(t, tenPercent, &bad, 1) // one of its next two reports is the last one
		bad.Store("v2", true)
		for v := b.version("v2"); v.Judge.E(&v.Config) < 31; v = b.version("v2") { // of 1000: one report multiplies it by 31.6 at most, and what comes in one moment never cuts alone
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(900 * time.Millisecond) // so two reports come before the disk thaws
		thaw := b.freeze()
		time.AfterFunc(1900*time.Millisecond, thaw)
		_, err := b.hand("promote", "v2")
		var refusal *rollout.Refusal
		if !errors.As(err, &refusal) || !strings.Contains(err.Error(), "was promoted, and is failed since: error rate") || !strings.Contains(err.Error(), "--even-failed") {
			t.Fatalf("%v", err)
		}
		if _, err := b.hand("promote", "v2"); err != nil { // a person has the last word
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		b.serves(map[string]uint32{"v2": 10000})
	})
}

// What others did since a promotion that is withdrawn is told as it is without it, once.
func TestWhatIsToldIsWithoutTheWithdrawnPromotion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bad sync.Map
		b := canary(t, tenPercent, &bad)
		thaw := b.freeze()
		time.Sleep(6 * time.Second) // a checkpoint is under way
		_, err := b.hand("promote", "v2")
		b.unstored(err)
		_, _, err = b.daemon.Announce(t.Context(), "shop", rollout.Announced{Version: "v3", Endpoints: []string{"10.0.0.9:80"}, By: "ci"})
		b.unstored(err)
		bad.Store("v2", true)
		b.until("v2", rollout.Failed, 10*time.Second)
		thaw()
		time.Sleep(3 * time.Second)
		b.serves(map[string]uint32{"v1": 18000, "v3": 2000})
		if got := b.told("v3"); !slices.Equal(got, []rollout.Kind{rollout.KindAnnounced, rollout.KindStarted}) {
			t.Errorf("told of v3: %v", got)
		}
		h, err := b.daemon.History(t.Context(), "shop", 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range h {
			if e.Before["v2"] > 1000 || e.After["v2"] > 1000 {
				t.Errorf("v2 never had more than 10 %%: %+v", e)
			}
		}
	})
}

// A person promotes two canaries, one after the other, on a disk that hangs. What the Envoys serve of either is cut when
// it fails, and both promotions are withdrawn; where the first one has been stored meanwhile, only the second.
func TestTwoPromotionsIntoAHang(t *testing.T) {
	for _, fails := range []string{"v2", "v3"} {
		for _, stored := range []bool{false, true} {
			if stored && fails == "v2" {
				continue // it is stable then
			}
			synctest.Test(t, func(t *testing.T) {
				var bad sync.Map
				b := canary(t, tenPercent, &bad)
				b.announce("v3")
				time.Sleep(5 * time.Second)
				b.serves(map[string]uint32{"v1": 16000, "v2": 2000, "v3": 2000})
				thaw := b.freeze()
				for _, v := range []string{"v2", "v3"} {
					_, err := b.hand("promote", v)
					b.unstored(err)
				}
				want := map[string]map[string]uint32{"v2": {"v1": 18000, "v3": 2000}, "v3": {"v1": 18000, "v2": 2000}}[fails]
				if stored {
					b.disk.mu.Lock()
					b.disk.lasts = 1
					b.disk.mu.Unlock()
					thaw() // v2's promotion is stored, and nothing else
					time.Sleep(time.Second)
					b.serves(map[string]uint32{"v2": 18000, "v3": 2000})
					want = map[string]uint32{"v2": 20000}
				}
				bad.Store(fails, true)
				b.until(fails, rollout.Failed, 20*time.Second)
				time.Sleep(200 * time.Millisecond)
				b.serves(want)
				thaw()
				b.disk.set(0, nil)
				b.never(fails, 5*time.Second)
				b.serves(want)
			})
		}
	}
}

// What was promoted is left, or what was stable before is aborted, on a disk that hangs: there is nothing to withdraw, and
// what a person ended stays so.
func TestWhatWasLeftSinceIsNotWithdrawn(t *testing.T) {
	strict := strings.Replace(tenPercent, "judge: {", "judge: {max_error_rate: 5%, no_evidence: {for: 5s, then: rollback}, ", 1)
	for _, how := range []struct {
		verb, version string
		serves        string
		v2            rollout.Phase
	}{{"promote", "v1", "v1", rollout.Aborted}, {"abort", "v2", "v1", rollout.Aborted}, {"abort", "v1", "v2", rollout.Stable}} {
		synctest.Test(t, func(t *testing.T) {
			var bad sync.Map
			b := canary(t, strict, &bad)
			thaw := b.freeze()
			time.Sleep(6 * time.Second)
			_, err := b.hand("promote", "v2")
			b.unstored(err)
			if _, err := b.hand(how.verb, how.version); err != nil && how.verb == "abort" {
				t.Errorf("%v", err)
			}
			b.serves(map[string]uint32{how.serves: 20000})
			bad.Store("v2", true)
			for range 100 {
				time.Sleep(100 * time.Millisecond)
				b.serves(map[string]uint32{how.serves: 20000})
			}
			thaw()
			time.Sleep(3 * time.Second)
			b.serves(map[string]uint32{how.serves: 20000})
			if p := b.version("v2").Phase; p != how.v2 || !slices.Contains(b.told("v2"), rollout.KindPromoted) {
				t.Errorf("%s %s: v2 is %s, told %v", how.verb, how.version, p, b.told("v2"))
			}
		})
	}
}
