package controller

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/world"
)

// refusing is a fleet of three that refuses every table with more than 1 % of v2: more is decided, and
// 1 % is served.
func refusing(t *testing.T, more string) *bubble {
	b := newBubble(t, bubblePolicy+"ramp: {steps: [1%, 20%, 50%, 100%], hold: 5s}\n"+more, 3, world.Traffic{Service: "shop", PerSecond: 300,
		ErrorRate: steady(nil), Refuse: func(w map[string]uint32) string {
			if w["shop/v2"] > 100 {
				return "too much"
			}
			return ""
		}})
	time.Sleep(3 * time.Second)
	b.announce("v2")
	time.Sleep(5 * time.Minute)
	b.refused("after the refusal")
	return b
}

// refused checks what is decided, served and said.
func (b *bubble) refused(when string) {
	b.t.Helper()
	s, err := b.daemon.Service(b.t.Context(), "shop")
	if err != nil {
		b.t.Fatal(err)
	}
	if w := s.State.Weight("v2"); w != 2000 || s.State.InForceAt("v2") || s.State.Nack() == nil {
		b.t.Errorf("%s %d is decided, in force %v, refusal %+v", when, w, s.State.InForceAt("v2"), s.State.Nack())
	}
	if v := s.State.Version("v2"); v.Phase != rollout.Canary {
		b.t.Errorf("%s v2 is %s: %s", when, v.Phase, v.Verdict.Reason)
	}
	for _, e := range b.fleet {
		if w := e.Weights(); w["v2"] != 100 || w["v1"] != 9900 {
			b.t.Errorf("%s an Envoy serves %v", when, w)
		}
	}
}

func TestARestartKeepsARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := refusing(t, "")
		b.stop()
		b.start()
		time.Sleep(2 * time.Second)
		b.refused("2 s after a restart")
		time.Sleep(3 * time.Minute)
		b.refused("3 min after a restart")
	})
}

func TestAReloadKeepsARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := refusing(t, "")
		if err := os.WriteFile(filepath.Join(b.dir, "other.yml"), []byte("service: other\nroute: {domains: [other]}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := b.daemon.Reload(t.Context(), "file change"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Minute)
		b.refused("3 min after another service's policy was added")
	})
}

// A release without a single error, of which more was decided than is served, completes less than its
// decided weight lets expect: that is no starvation. When nobody is waited for any longer it is what it was.
func TestARefusedRaiseIsNotStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := refusing(t, "judge: {no_evidence: {for: 10m, then: rollback}}\n")
		b.stop()
		b.start()
		time.Sleep(4 * time.Minute)
		b.refused("4 min after a restart")
		time.Sleep(16 * time.Minute)
		if v := b.version("v2"); v.Phase != rollout.Canary || v.Verdict.Code != analysis.Nack || b.share("v2") != 300 {
			t.Errorf("20 min after a restart v2 is %s at %d: %s", v.Phase, b.share("v2"), v.Verdict.Reason)
		}
	})
}

// No Envoy takes the first weight of v2, which has the only place: it is given up after ten minutes, whether there is one
// Envoy or there are three, and v3 goes its way.
func TestTheLineGoesOnWithoutWhatNoEnvoyTakes(t *testing.T) {
	for _, envoys := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			b := newBubble(t, bubblePolicy+"ramp: {steps: [10%, 50%, 100%], hold: 5s, canaries: 1}\n", envoys, world.Traffic{Service: "shop", PerSecond: 300,
				ErrorRate: steady(nil), Refuse: func(w map[string]uint32) string {
					if w["shop/v2"] > 0 {
						return "no v2"
					}
					return ""
				}})
			time.Sleep(3 * time.Second)
			b.announce("v2")
			b.announce("v3")
			time.Sleep(9 * time.Minute)
			if v := b.version("v2"); v.Phase != rollout.Canary || v.Verdict.Code != analysis.Nack {
				t.Errorf("%d Envoys: after 9 min v2 is %s: %s", envoys, v.Phase, v.Verdict.Reason)
			}
			time.Sleep(3 * time.Minute)
			if v := b.version("v2"); v.Phase != rollout.Queued || !strings.Contains(v.Verdict.Reason, "refuses it: no v2; `canaryd resume shop v2` tries again") {
				t.Errorf("%d Envoys: after 12 min v2 is %s: %s", envoys, v.Phase, v.Verdict.Reason)
			}
			if v := b.version("v3"); v.FirstWeight.IsZero() {
				t.Errorf("%d Envoys: after 12 min v3 is %s: %s", envoys, v.Phase, v.Verdict.Reason)
			}
		})
	}
}

// The only Envoy that takes v2 is away when what the other one refuses is waited for no longer. When it is back v2 goes its way.
func TestWhoWasAwayMayTakeWhatNobodyTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traffic := world.Traffic{Service: "shop", PerSecond: 300, ErrorRate: steady(nil)}
		picky := traffic
		picky.Refuse = func(w map[string]uint32) string {
			if w["shop/v2"] > 0 {
				return "no v2"
			}
			return ""
		}
		b := newBubble(t, bubblePolicy+"ramp: {steps: [10%, 50%, 100%], hold: 5s}\n", 1, picky)
		takes := world.NewEnvoy("edge-9", 9, traffic)
		leave := b.run(takes)
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(9 * time.Minute)
		leave()
		time.Sleep(3 * time.Minute)
		if v := b.version("v2"); v.Phase != rollout.Queued || v.Refused == "" {
			t.Fatalf("who takes it is away, and v2 is %s: %s", v.Phase, v.Verdict.Reason)
		}
		leave = b.run(takes)
		defer leave()
		time.Sleep(2 * time.Minute)
		if v := b.version("v2"); v.FirstWeight.IsZero() || v.Refused != "" {
			t.Errorf("who takes it is back, and v2 is %s at %v: %s", v.Phase, takes.Weights(), v.Verdict.Reason)
		}
	})
}
