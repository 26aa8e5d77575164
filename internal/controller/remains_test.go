package controller

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/world"
	"github.com/canaryd/canaryd/internal/xds"
)

const housedPolicy = tenPercent + "docker: {image: r/shop, port: 80}\n"

// housed is a bubble in which v2 runs in a container, and gets 10 % of two Envoys.
func housed(t *testing.T, story func(b *patient)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &patient{}
		b.bubble = newBubble(t, housedPolicy, 2, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.houses("v2", 1)
		if b.share("v2") != 2000 {
			t.Fatalf("v2 is served to %d", b.share("v2"))
		}
		story(b)
	})
}

// houses announces a version and starts its container.
func (b *patient) houses(version string, attempt int) {
	b.t.Helper()
	_, _, err := b.daemon.Announce(b.t.Context(), "shop", rollout.Announced{Version: version, Image: "r/shop:" + version, By: "ci"})
	if err != nil {
		b.t.Fatal(err)
	}
	b.docker(rollout.Launched{Version: version, Attempt: attempt, Image: true, Endpoints: []string{"10.0.0.2:80"}})
	time.Sleep(5 * time.Second)
}

// docker tells what became of containers.
func (b *patient) docker(e rollout.Launched) {
	b.t.Helper()
	b.inLoop(func() { b.daemon.launched(docker.Event{Service: "shop", Launched: e}) })
}

// goal is what is wanted of the container of an attempt.
func (b *patient) goal(version string, attempt int) (g rollout.Goal) {
	b.t.Helper()
	err := b.daemon.do(b.t.Context(), func() {
		for _, w := range b.daemon.containers("shop") {
			if w.Version == version && w.Attempt == attempt {
				g = w.Goal
			}
		}
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return g
}

// wants checks what is wanted of the container of v2's first attempt.
func (b *patient) wants(when string, want rollout.Goal) {
	b.t.Helper()
	time.Sleep(3 * time.Second)
	if g := b.goal("v2", 1); g != want {
		b.t.Errorf("%s: the goal of its container is %s, want %s", when, g, want)
	}
}

func (b *patient) deletes() {
	b.t.Helper()
	b.write("service: other\n")
	if err := b.daemon.Reload(b.t.Context(), "ann"); err != nil {
		b.t.Fatal(err)
	}
	if err := b.daemon.Delete(b.t.Context(), "shop", "ann"); err != nil {
		b.t.Fatal(err)
	}
}

// gone tells that the container is removed: nothing is remembered of it.
func (b *patient) gone() {
	b.t.Helper()
	b.docker(rollout.Launched{Version: "v2", Attempt: 1, Done: rollout.Remove, Containers: 1})
	time.Sleep(3 * time.Second)
	if r, err := b.db.Remains(); err != nil || len(r) > 0 {
		b.t.Errorf("%s is still stored: %v", r, err)
	}
}

// Containers of a service that is deleted go when its Envoys have let go of it: both are there, and take the removal.
func TestContainersOfADeletedServiceGo(t *testing.T) {
	housed(t, func(b *patient) {
		b.deletes()
		b.wants("both have let go", rollout.Remove)
		b.gone()
	})
}

// One Envoy is away when its service is deleted. Its container waits for it, over a restart of canaryd as well.
func TestContainersOfADeletedServiceWaitForItsEnvoys(t *testing.T) {
	for how, ends := range map[string]func(b *patient){
		"it comes back": func(b *patient) { b.stops[1] = b.run(b.fleet[1]) },
		"it is forgotten": func(b *patient) {
			if err := b.daemon.ForgetEnvoy(b.t.Context(), "edge-1", "ann"); err != nil {
				b.t.Error(err)
			}
		},
		"it stays away": func(b *patient) { time.Sleep(xds.ForgetAfter) },
	} {
		for _, restart := range []bool{false, true} {
			t.Run(how, func(t *testing.T) {
				housed(t, func(b *patient) {
					b.stops[1]()
					time.Sleep(time.Second)
					b.deletes()
					b.wants("one is away", rollout.Leave)
					if restart {
						b.stop()
						b.start()
					}
					time.Sleep(50 * time.Minute)
					b.wants("it is still away", rollout.Leave)
					ends(b)
					b.wants(how, rollout.Remove)
					b.gone()
				})
			})
		}
	}
}

// The service begins anew while one of its Envoys is away that still sends users to the old life's container.
func TestAnotherLifeLeavesTheContainersOfTheOldOne(t *testing.T) {
	housed(t, func(b *patient) {
		b.stops[1]()
		time.Sleep(time.Second)
		b.reborn(housedPolicy)
		b.wants("one is away", rollout.Leave)
		b.houses("v2", 2)
		b.stop()
		b.start()
		b.wants("one is still away", rollout.Leave)
		b.stops[1] = b.run(b.fleet[1])
		b.wants("it is back", rollout.Remove)
		b.gone()
		if g := b.goal("v2", 2); g != rollout.Start || b.share("v2") != 2000 {
			b.t.Errorf("the new life's container is to %s, v2 gets %d", g, b.share("v2"))
		}
	})
}

// Ten thousand services are removed: a tick looks at none of them by itself, a piece of work at a few, and before the next tick all are.
func TestRemovedServicesAreLookedAtInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 1, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		const removed = 10_000
		b.inLoop(func() {
			c := b.daemon
			c.backlog = newBacklog()
			for i := range removed {
				c.leaving[fmt.Sprint("s", i)] = &remains{free: map[rollout.Container]bool{}} // nobody waits for them, so who is looked at goes
			}
			if c.depart(); len(c.leaving) != removed {
				t.Errorf("a tick looked at %d", removed-len(c.leaving))
			}
			for pieces := 1; pieces <= 3; pieces++ {
				if c.work(time.Now()); len(c.leaving) < removed-pieces*pieceMost || len(c.leaving) == removed {
					t.Errorf("%d pieces looked at %d", pieces, removed-len(c.leaving))
				}
			}
		})
		time.Sleep(time.Second)
		b.inLoop(func() {
			if left := len(b.daemon.leaving); left > 0 {
				t.Errorf("%d were not looked at", left)
			}
		})
	})
}
