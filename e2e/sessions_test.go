package e2e

import (
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

const settling = 15 * time.Second

// both runs a test on the oldest and on the newest Envoy supported.
func both(t *testing.T, f func(t *testing.T, envoy string)) {
	for _, envoy := range []string{"envoy-oldest", "envoy-newest"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			f(t, envoy)
		})
	}
}

// Only here real Envoys spread many users over two canaries, at every weight up and down. Ten thousand users: each grows
// without losing a user and one goes without moving the other's; the share of users is the weight.
func TestUsersStayInTwoCanariesOnTheirWayUpAndDown(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, envoy string) {
		s := newScene(t, setting{envoy: envoy, ramp: "ramp: {steps: [5%, 10%, 25%, 100%], hold: 5s, per: user, canaries: 2}\njudge: {clump: 1, budget: 100000}\n"})
		s.load(300)
		s.run(0, s.deploy(s.version("v2"))...)
		s.run(0, s.deploy(s.version("v3"))...)
		s.until(settling, "both canaries", func() bool { return s.Version("shop", "v2").Weight > 0 && s.Version("shop", "v3").Weight > 0 })
		c := newCrowd(s, 10000, "user")
		flips := 0
		look := func(allowed string) {
			weights := s.weightsInForce()
			c.visit(t, func(_ int, before, now string) {
				if before != "" && before != now && before != allowed {
					flips++
				}
			})
			for _, v := range []string{"v1", "v2", "v3"} {
				if d := math.Abs(c.share(v) - weights[v]); d > 0.01 {
					t.Errorf("%s has %.2f %% of the users at weight %.2f %%", v, 100*c.share(v), 100*weights[v])
				}
			}
			t.Logf("weights %v: shares of the users %.4f %.4f %.4f, flips so far %d", weights, c.share("v1"), c.share("v2"), c.share("v3"), flips)
		}
		freeze := func(verb string) {
			for _, v := range []string{"v2", "v3"} {
				if p := s.Version("shop", v).Phase; p == rollout.Canary || p == rollout.Paused {
					s.run(0, verb, "shop", v)
				}
			}
		}
		freeze("pause")
		look("")
		for _, w := range []float64{0.1, 0.25} {
			freeze("resume")
			s.until(settling, "the next step of v2", func() bool { return s.Version("shop", "v2").Weight >= w })
			freeze("pause")
			look("v1") // growth takes users from stable only
		}
		s.run(0, "abort", "shop", "v3")
		look("v3") // its users go to stable
		s.run(0, "abort", "shop", "v2")
		look("v2")
		if flips > 0 {
			t.Errorf("%d users were moved by accident", flips)
		}
		if s := c.share("v1"); s != 1 {
			t.Errorf("%.4f of the users are on stable after both were aborted", s)
		}
	})
}

// An anonymous user gets a cookie with the first answer, and the second request goes where the first went.
func TestAnonymousUsersStayFromTheFirstRequestOn(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, envoy string) {
		s := newScene(t, setting{envoy: envoy, ramp: "ramp: {steps: [50%, 100%], hold: 1h, per: user}\n"})
		s.run(0, s.deploy(s.version("v2"))...)
		s.until(settling, "v2 in force", func() bool { v := s.Version("shop", "v2"); return v.InForce && v.Weight == 0.5 })
		c := newCrowd(s, 2000, "")
		flips := 0
		c.visit(t, nil)
		first := c.share("v2")
		c.visit(t, func(_ int, before, now string) {
			if before != now {
				flips++
			}
		})
		t.Logf("%.3f of 2 000 anonymous users got v2 at 50 %%; %d flips", first, flips)
		if flips > 0 || first < 0.45 || first > 0.55 {
			t.Errorf("%d flips, share %.3f", flips, first)
		}
	})
}

// Only here pins are followed through promotion, draining, cut and retirement. The founding story: steps [10%, 100%] by
// users, with sessions. Nobody is moved by a promotion, no new session begins on what drains, nobody is left on what failed.
func TestTheFoundingStory(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, envoy string) {
		s := newScene(t, setting{envoy: envoy, ramp: "ramp: {steps: [10%, 100%], hold: 2s, per: user}\njudge: {clump: 1, budget: 100000, promote_within: {ratio: 2, margin: 2%}}\n" +
			"sessions: {cookie: sess, ttl: 30m}\nafter_promotion: {watch: 1s}\n"})
		old := newCrowd(s, 2000, "old")
		old.visit(t, nil)
		l := s.load(300)
		v1, v2 := s.versions["v1"], s.version("v2")
		s.run(0, s.deploy(v2, "--wait", "--timeout", "5m")...)
		s.phase("v1", settling, rollout.Draining)
		s.weightsInForce()
		l.Stop()
		moved := 0
		old.visit(t, func(_ int, before, now string) {
			if before != now {
				moved++
			}
		})
		drained := v1.Count().Requests
		fresh := newCrowd(s, 1000, "new")
		fresh.visit(t, nil)
		atDraining := v1.Count().Requests - drained
		t.Logf("pinned sessions broken by the promotion: %d of 2 000; requests of 1 000 new sessions at the draining version: %d", moved, atDraining)
		if moved > 0 || atDraining > 0 {
			t.Errorf("%d sessions broken, %d new ones on the draining version", moved, atDraining)
		}
		pin := old.users[0].cookies["sess"]
		s.sessionsShare(t, pin)
		s.badCookies(t, pin)
		s.cutBeatsPins(t, old, fresh)
		s.quietRetires(t)
	})
}

// sessionsShare: v1 gets no new session and still many of the requests.
func (s *scene) sessionsShare(t *testing.T, pin string) {
	t.Helper()
	c := newCrowd(s, 200, "old") // their pins lead to v1
	for i := range c.users {
		c.users[i].cookies["sess"] = pin
	}
	var v1 float64
	s.until(settling, "the share of requests to be seen", func() bool {
		c.visit(t, nil)
		v := s.Version("shop", "v1")
		v1 = v.Share
		return v.Weight == 0 && v.Share > 0.5
	})
	t.Logf("the draining version has weight 0 and %.0f %% of the requests", 100*v1)
}

// badCookies: forged, oversized and duplicate ones fall to the weights.
func (s *scene) badCookies(t *testing.T, pin string) {
	t.Helper()
	for name, cookie := range map[string]string{
		"the version's name": "sess=v1",
		"a guess":            "sess=" + strings.Repeat("0", len(pin)),
		"a pin and more":     "sess=" + pin + "x",
		"8 KiB":              "sess=" + strings.Repeat(pin, 8192/len(pin)),
		"two of them":        "sess=" + pin + "; sess=" + pin,
		"one inside another": "a=sess=" + pin,
		"empty":              "sess=",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.front+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Cookie", cookie)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("X-Version"); got != "v2" || setCookie(resp.Header, "sess") == "" {
			t.Errorf("%s: led to %q (%s), want a new session on v2", name, got, resp.Status)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.front+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Cookie", "other=1; sess="+pin)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Get("X-Version"); got != "v1" {
		t.Errorf("the true pin led to %q", got) // else the checks above could not fail
	}
}

// cutBeatsPins: a failing canary is cut; after that it gets nothing, whatever cookies say.
func (s *scene) cutBeatsPins(t *testing.T, old, fresh *crowd) {
	t.Helper()
	v3 := s.version("v3")
	s.run(0, s.deploy(v3, "--paused")...)
	s.run(0, "resume", "shop", "v3")
	s.until(settling, "v3 in force", func() bool { v := s.Version("shop", "v3"); return v.InForce && v.Weight == 0.1 })
	late := newCrowd(s, 3000, "late")
	late.visit(t, nil)
	if share := late.share("v3"); share < 0.08 || share > 0.12 {
		t.Errorf("%.3f of the new sessions are on v3 at 10 %%", share)
	}
	v3.Fail(1)
	l := s.load(300)
	s.phase("v3", settling, rollout.Failed)
	s.until(settling, "the cut in force", func() bool { return s.Version("shop", "v2").InForce })
	l.Stop()
	before := v3.Count().Requests
	flips := 0
	for _, c := range []*crowd{late, old, fresh} {
		c.visit(t, func(_ int, was, now string) {
			if was != now && was != "v3" {
				flips++
			}
			if was == "v3" && now != "v2" {
				t.Errorf("a user of the failed version was sent to %s", now)
			}
		})
	}
	after := v3.Count().Requests - before
	t.Logf("after the cut: %d requests at the failed version, %d other sessions moved (6 000 clients)", after, flips)
	if after > 0 || flips > 0 {
		t.Errorf("%d requests at the cut version, %d others moved", after, flips)
	}
}

// quietRetires: with drain.quiet a draining version that gets nothing is retired before its sessions expire.
func (s *scene) quietRetires(t *testing.T) {
	t.Helper()
	if v := s.Version("shop", "v1"); v.Phase != rollout.Draining {
		t.Fatalf("v1 is %s", v.Phase)
	}
	text := policyText(s.front, s.versions["v1"].Address, "ramp: {steps: [10%, 100%], hold: 2s, per: user}\nsessions: {cookie: sess, ttl: 30m}\ndrain: {quiet: 4s}\n")
	if err := s.WritePolicy("shop.yml", text); err != nil {
		t.Fatal(err)
	}
	if code, body := post(t, "http://"+s.Web+"/-/reload"); code != http.StatusOK {
		t.Fatalf("reload: %d %s", code, body)
	}
	s.phase("v1", 30*time.Second, rollout.Retired)
	s.tells("shop", "drain.quiet")
}
