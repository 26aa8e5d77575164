package controller

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// patient is a bubble in which versions fall ill.
type patient struct {
	*bubble
	bad sync.Map
}

// killedAfterTheCut brings v2 to 10 %, lets the disk hang, has v2 cut, and kills canaryd, which has stored nothing of it.
func killedAfterTheCut(t *testing.T, cut func(b *patient), again func(b *patient)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &patient{}
		b.bubble = newBubble(t, tenPercent, 2, failing(&b.bad))
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(5 * time.Second)
		if b.share("v2") != 2000 {
			t.Fatalf("v2 is served to %d", b.share("v2"))
		}
		thaw := b.freeze()
		cut(b)
		time.Sleep(cutPatience + 10*time.Millisecond)
		b.kill(thaw)
		b.disk.set(70*time.Millisecond, nil) // the next one stores slowly: what it publishes first is what was stored
		again(b)
	})
}

// announcesUnstored announces a version while nothing can be stored.
func (b *patient) announcesUnstored(version string, again bool) {
	b.t.Helper()
	_, _, err := b.daemon.Announce(b.t.Context(), "shop", rollout.Announced{Version: version, Endpoints: []string{"10.0.0.9:80"}, Again: again, By: "ci"})
	b.unstored(err)
}

// promotes has a version promoted, whether that is stored or not.
func (b *patient) promotes(version string) {
	b.t.Helper()
	_, _, err := b.daemon.Command(b.t.Context(), "shop", rollout.Commanded{Verb: "promote", Version: version, Knowing: true, By: "ann"})
	if not := new(NotStoredError); err != nil && !errors.As(err, &not) {
		b.t.Fatal(err)
	}
}

// kill ends the daemon: nothing that it has not stored by now is ever stored.
func (b *patient) kill(thaw func()) {
	b.disk.set(0, errKilled)
	thaw()
	b.stop()
}

// requests is how many a version has got.
func (b *patient) requests(version string) (sum float64) {
	for _, e := range b.fleet {
		n, _ := e.Served(version)
		sum += n
	}
	return sum
}

func (b *patient) fails(version string) {
	b.bad.Store(version, true)
	b.until(version, rollout.Failed, 10*time.Second)
}

func (b *patient) aborts(version string) {
	b.t.Helper()
	s, _, err := b.daemon.Command(b.t.Context(), "shop", rollout.Commanded{Verb: "abort", Version: version, By: "ann"})
	if err != nil || s.Stored {
		b.t.Fatalf("%v, stored: %v", err, s.Stored)
	}
}

// staysRecalled checks that a version gets no request for a minute, and how it ended.
func (b *patient) staysRecalled(version string) {
	b.t.Helper()
	had := b.requests(version)
	b.never(version, time.Minute)
	if n := b.requests(version); n != had {
		b.t.Errorf("%s got %.0f requests after it was cut", version, n-had)
	}
	v := b.version(version)
	if v.Phase != rollout.Failed || v.Verdict.Code != analysis.Recalled {
		b.t.Errorf("%s is %s: %+v", version, v.Phase, v.Verdict)
	}
	lines, err := b.db.History("shop", 100)
	if err != nil {
		b.t.Fatal(err)
	}
	if last := string(lines[len(lines)-1]); !strings.Contains(last, `"event":"rolled_back"`) || !strings.Contains(last, "before it could store that") {
		b.t.Errorf("the history ends with %s", last)
	}
}

// The disk hangs, v2 is cut, canaryd is killed and starts again on what it had stored: v2 at 10 %. The Envoys tell it.
func TestACutThatWasNotStoredIsRecalled(t *testing.T) {
	for name, cut := range map[string]func(b *patient){
		"it was judged":        func(b *patient) { b.fails("v2") },
		"a person aborted it":  func(b *patient) { b.aborts("v2") },
		"in a second attempt":  func(b *patient) { b.aborts("v2"); b.announcesUnstored("v2", true); b.aborts("v2") },
		"after a promotion":    func(b *patient) { b.promotes("v2"); b.aborts("v2") },
		"when it was too late": func(b *patient) { b.aborts("v2"); b.promotes("v2") },
	} {
		t.Run(name, func(t *testing.T) {
			killedAfterTheCut(t, cut, func(b *patient) {
				b.never("v2", time.Second)
				b.start()
				b.staysRecalled("v2")
			})
		})
	}
}

// The canaryd that was told by the Envoys is killed as well before it has stored that: they tell the third one.
func TestARecallOutlivesTheNextCrash(t *testing.T) {
	killedAfterTheCut(t, func(b *patient) { b.fails("v2") }, func(b *patient) {
		thaw := b.freeze()
		b.start()
		b.never("v2", 10*time.Second)
		b.kill(thaw)
		b.disk.set(0, nil)
		b.start()
		b.staysRecalled("v2")
	})
}

// What a person says after the crash counts for more than what an Envoy remembers: v2 is stable when the Envoys come.
func TestAPromotionAfterTheCrashIsNotRecalled(t *testing.T) {
	killedAfterTheCut(t, func(b *patient) { b.aborts("v2") }, func(b *patient) {
		b.disk.set(0, nil)
		b.start() // they come back within a second
		b.promotes("v2")
		time.Sleep(time.Minute)
		if v := b.version("v2"); v.Phase != rollout.Stable || b.share("v2") != 20000 {
			b.t.Errorf("v2 is %s and gets %d: %+v", v.Phase, b.share("v2"), v.Verdict)
		}
	})
}

// A new attempt begins after the crash, and the first one was stored as cut: the Envoys still present the first.
func TestALaterAttemptIsNotRecalled(t *testing.T) {
	killedAfterTheCut(t, func(b *patient) { b.aborts("v2") }, func(b *patient) {
		b.disk.set(0, nil)
		b.start()
		b.staysRecalled("v2")
		b.stop() // the Envoys keep what they have, and present it again
		b.start()
		_, _, err := b.daemon.Announce(b.t.Context(), "shop", rollout.Announced{Version: "v2", Again: true, By: "ci"})
		if err != nil {
			b.t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if v := b.version("v2"); v.Phase != rollout.Canary || v.Attempt != 2 || b.share("v2") != 2000 {
			b.t.Errorf("attempt %d of v2 is %s and gets %d: %+v", v.Attempt, v.Phase, b.share("v2"), v.Verdict)
		}
	})
}

// A version that was superseded by a promotion which is lost is under test again.
func TestWhatWasSupersededIsNotRecalled(t *testing.T) {
	killedAfterTheCut(t, func(b *patient) { b.announcesUnstored("v3", false); b.promotes("v3") }, func(b *patient) {
		if b.share("v2") != 0 {
			b.t.Errorf("v2 is served to %d", b.share("v2"))
		}
		b.start()
		time.Sleep(10 * time.Second)
		if v := b.version("v2"); v.Phase != rollout.Canary || b.share("v2") != 2000 {
			b.t.Errorf("v2 is %s and gets %d: %+v", v.Phase, b.share("v2"), v.Verdict)
		}
	})
}

// Another service's store, or none: what the Envoys present has no valid MAC, and is ignored.
func TestWhatAnotherKeySealedIsIgnored(t *testing.T) {
	killedAfterTheCut(t, func(b *patient) { b.aborts("v2") }, func(b *patient) {
		b.disk.key = []byte("another")
		b.start()
		time.Sleep(10 * time.Second)
		if v := b.version("v2"); v.Phase != rollout.Canary || b.share("v2") != 2000 {
			b.t.Errorf("v2 is %s and gets %d: %+v", v.Phase, b.share("v2"), v.Verdict)
		}
	})
}

// What is named in the table by kind of record: an attempt that ended, and never a version that may come back by itself.
func TestOnlyWhatEndsAnAttemptIsNamed(t *testing.T) {
	third := rollout.Attempt{Version: "v2", Number: 3, ID: "0123abcd"}
	for _, k := range rollout.Kinds() {
		var o outbox
		now := time.Unix(1_700_000_000, 0)
		first := o.Decide(now, nil, "v1", false)
		o.Begin()
		o.Stored(now, first, made{stable: "v1", weights: map[string]int{"v1": 9000, "v2": 1000}}.table(first))
		o.Decide(now, newUnit(rollout.State{}).falls([]rollout.Record{{Kind: k, Version: "v2", Attempt: third}}), "v1", false)
		if t0, _ := o.Visible(now); len(t0.Unstored) > 0 {
			t.Errorf("%s: %v is named before its cut goes out", k, t0.Unstored)
		}
		tab, _ := o.Visible(now.Add(cutPatience))
		var want []rollout.Attempt
		if k.Final() {
			want = []rollout.Attempt{third}
		}
		if got := weightsOf(tab)["v2"]; !slices.Equal(tab.Unstored, want) || (got == 0) != k.Cut() {
			t.Errorf("%s: %v is named, v2 gets %d", k, tab.Unstored, got)
		}
	}
}

// reborn has the service removed and begin anew: its policy is away for a moment on a disk that hangs.
func (b *patient) reborn(policyText string) {
	b.t.Helper()
	ctx := b.t.Context()
	b.write("service: other\n")
	if err := b.daemon.Reload(ctx, "ann"); err != nil {
		b.t.Fatal(err)
	}
	thaw := b.freeze()
	b.unstored(b.daemon.Delete(ctx, "shop", "ann"))
	b.write(policyText)
	b.unstored(b.daemon.Reload(ctx, "ann"))
	thaw()
	time.Sleep(5 * time.Second)
}

// A number comes twice: of an attempt that was lost in the crash, and when the service begins anew. What the Envoys
// remember of the other one fails nothing.
func TestAnAttemptWithTheSameNumberIsNotRecalled(t *testing.T) {
	for name, c := range map[string]struct {
		cut, before func(b *patient)
		attempt     int
	}{
		"another second attempt": {func(b *patient) {
			b.aborts("v2")
			b.announcesUnstored("v2", true)
			b.aborts("v2")
			b.join() // whoever connects now is told of both
			time.Sleep(3 * time.Second)
		}, func(*patient) {}, 2},
		"another life": {func(b *patient) { b.aborts("v2") }, func(b *patient) { b.reborn(tenPercent) }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			killedAfterTheCut(t, c.cut, func(b *patient) {
				b.disk.set(0, nil)
				b.start()
				b.staysRecalled("v2")
				c.before(b)
				_, _, err := b.daemon.Announce(b.t.Context(), "shop", rollout.Announced{Version: "v2", Endpoints: []string{"10.0.0.9:80"}, Again: true, Paused: true, By: "ci"})
				if err != nil {
					b.t.Fatal(err)
				}
				time.Sleep(3 * time.Second)
				b.stop() // the route is the one from before the crash: the Envoys present it again
				b.start()
				time.Sleep(10 * time.Second)
				if v := b.version("v2"); v.Phase != rollout.Paused || v.Attempt != c.attempt {
					b.t.Errorf("attempt %d of v2 is %s: %+v", v.Attempt, v.Phase, v.Verdict)
				}
			})
		})
	}
}
