package docker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/canaryd/canaryd/internal/rollout"
)

// However many versions are looked at, the daemon is asked once a sweep; but never is an answer to a question from before
// canaryd changed something taken for one after it: it would make a container twice.
func TestTheDaemonIsAskedOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, f, _ := newDaemon(t)
		d.answers = make(chan struct{})
		ask := func(n int) {
			for range n {
				go func() {
					if _, err := f.containers(t.Context(), second); err != nil {
						t.Error(err)
					}
				}()
			}
		}
		until := func(n int) {
			t.Helper()
			synctest.Wait()
			if got, _, _ := d.asked(); got != n {
				t.Errorf("it was asked %d times, want %d", got, n)
			}
		}
		ask(100)
		until(1)
		f.survey.change("1")
		ask(100)
		until(1) // the next question waits for the answer to this one
		dropped, drop := context.WithCancel(t.Context())
		drop()
		if _, err := f.containers(dropped, second); err == nil {
			t.Error("who asks no longer waits for an answer")
		}
		close(d.answers)
		until(2)
		ask(100)
		until(2)
		f.survey.change("1")
		ask(1)
		until(3)
		time.Sleep(sweep / 2)
		ask(100)
		until(4)
	})
}

// Of many containers all are asked for at once: each would cost more.
func TestOfManyContainersAllAreAskedFor(t *testing.T) {
	f := &Fleet{}
	f.survey.keep(true)
	q, due := f.survey.due(time.Now())
	if f.survey.answered(q, nil); !due || len(q.ids) > 0 {
		t.Errorf("at first: %v, %v", q, due)
	}
	for n := range idsMost + 1 {
		f.survey.tell(fmt.Sprint(n))
		if q, due = f.survey.due(time.Now()); !due || len(q.ids) != (n+1)%(idsMost+1) {
			t.Errorf("of %d are asked: %d, %v", n+1, len(q.ids), due)
		}
	}
}

// What a worker walks stays as it was when it asked, and a daemon that says more than it was asked for changes nothing twice.
func TestWhatWasAskedForStays(t *testing.T) {
	var s survey
	of := func(id string, state container.ContainerState) container.Summary {
		return container.Summary{ID: id, State: state, Labels: map[string]string{LabelManaged: "true", LabelService: "shop", LabelVersion: "v1"}}
	}
	s.answered(question{}, []container.Summary{of("1", container.StateRunning), of("2", container.StateRunning), of("3", container.StateRunning)})
	before := s.of([2]string{"shop", "v1"})
	was := slices.Clone(before)
	s.answered(question{ids: []string{"1"}}, []container.Summary{of("1", container.StateExited), of("2", container.StateRunning)})
	s.answered(question{ids: []string{"3"}}, nil)
	if now := s.of([2]string{"shop", "v1"}); len(now) != 2 || len(s.all) != 2 || !slices.Equal(before, was) {
		t.Errorf("%d of %d, before %v, was %v", len(now), len(s.all), before, was)
	}
}

// What serves otherwise than it did differs, and what always changes does not count.
func TestWhatMakesAContainerDiffer(t *testing.T) {
	one := func() *container.Summary {
		return &container.Summary{State: container.StateRunning, Status: "Up 5 minutes (healthy)", Names: []string{"/a"},
			Ports: []container.PortSummary{{PrivatePort: 80}, {PrivatePort: 81}}, NetworkSettings: &container.NetworkSettingsSummary{Networks: networksAt("10.0.0.2")}}
	}
	for what, c := range map[string]struct {
		change func(*container.Summary)
		alike  bool
	}{
		"nothing":              {func(*container.Summary) {}, true},
		"it goes on running":   {func(c *container.Summary) { c.Status = "Up 6 minutes (healthy)" }, true},
		"ports come otherwise": {func(c *container.Summary) { slices.Reverse(c.Ports) }, true},
		"it ended":             {func(c *container.Summary) { c.State = container.StateExited }, false},
		"it is unhealthy":      {func(c *container.Summary) { c.Status = "Up 6 minutes (unhealthy)" }, false},
		"it is, as newer daemons say": {func(c *container.Summary) {
			c.Health = &container.HealthSummary{Status: container.Unhealthy}
		}, false},
		"another port":    {func(c *container.Summary) { c.Ports[0].PublicPort = 8080 }, false},
		"another name":    {func(c *container.Summary) { c.Names = []string{"/b"} }, false},
		"another address": {func(c *container.Summary) { c.NetworkSettings.Networks = networksAt("10.0.0.3") }, false},
		"no network":      {func(c *container.Summary) { c.NetworkSettings = nil }, false},
	} {
		changed := one()
		if c.change(changed); alike(one(), changed) != c.alike {
			t.Errorf("%s: alike is %v", what, !c.alike)
		}
	}
}

// Of all that the daemon tells of, an attempt has what canaryd made for it, by name, and for earlier attempts of its version.
func TestWhatAnAttemptFinds(t *testing.T) {
	_, f, _ := newDaemon(t)
	of := func(service, version string, attempt, i int, change map[string]string) container.Summary {
		want := Want{Service: service, Container: rollout.Container{Version: version, Attempt: attempt}}
		name := want.name(i)
		c := container.Summary{ID: name, Names: []string{"/" + name}, Labels: f.configOf(want, nil, name).Labels}
		maps.Copy(c.Labels, change)
		return c
	}
	copied := of("shop", "v2", 2, 0, nil)
	copied.ID, copied.Names = "copied", []string{"/vigilant_bose"}
	f.survey.answered(question{at: time.Now()}, []container.Summary{
		of("shop", "v2", 2, 1, nil), of("shop", "v2", 1, 1, nil), of("shop", "v2", 2, 0, nil), of("shop", "v2", 1, 0, nil), of("shop", "v2", 3, 0, nil), copied,
		of("shop", "v1", 2, 0, nil), of("shop2", "v2", 2, 0, nil), of("shop", "v2", 2, 2, map[string]string{LabelManaged: "no"}),
		of("shop", "v2", 2, 3, map[string]string{LabelAttempt: "two"}), of("shop", "v2", 2, 4, map[string]string{LabelSeal: "another's"}),
	})
	mine, older, err := f.list(t.Context(), second)
	if got := fmt.Sprint(names(mine), names(older)); err != nil || got != "[canaryd-shop.v2-2-0 canaryd-shop.v2-2-1] [canaryd-shop.v2-1-1 canaryd-shop.v2-1-0]" {
		t.Errorf("%s, %v", got, err)
	}
}

func eventOf(want Want) events.Message {
	return event("die", &container.Summary{ID: "1", Labels: map[string]string{LabelManaged: "true", LabelService: want.Service, LabelVersion: want.Version}})
}

func names(cs []container.Summary) (out []string) {
	for _, c := range cs {
		out = append(out, nameOf(c))
	}
	return out
}

// A version rests when all of it runs and the daemon tells what becomes of it; it is looked at when that says something,
// something else is wanted, or the daemon tells no longer. One that failed has its time.
func TestAVersionThatServesRests(t *testing.T) {
	_, f, _ := newDaemon(t)
	want := Want{Service: "shop", Container: rollout.Container{Version: "v1", Attempt: 1, Goal: rollout.Start, Launched: true, Alone: true}}
	want.Spec.Replicas = 1
	f.Want("shop", []Want{want})
	w := &worker{poke: make(chan struct{}, 1), drop: func() {}}
	f.work[want.key()] = w
	serves := want.event()
	serves.Endpoints = []string{"10.0.0.2:80"}
	looked := func() bool {
		select {
		case <-w.poke:
			return true
		default:
			return false
		}
	}
	if f.rest(want, w, serves) != sweep {
		t.Error("it rests though nobody tells what becomes of it")
	}
	f.listening(true)
	w.stirred = false // another pass
	for what, e := range map[string]Event{"one that has a note": {Launched: rollout.Launched{Note: "restarts", Endpoints: serves.Endpoints}}, "one without a container": want.event()} {
		if f.rest(want, w, e) != sweep {
			t.Errorf("%s rests", what)
		}
	}
	two := want
	two.Spec.Replicas = 2
	for what, change := range map[string]func(){
		"its container ended":        func() { f.happened(eventOf(want)) },
		"an earlier attempt's did":   func() { f.happened(eventOf(Want{Service: "shop", Container: rollout.Container{Version: "v1"}})) },
		"a list shows that it ended": func() { f.wakeUp([]*container.Summary{{Labels: eventOf(want).Actor.Attributes}}) },
		"more of it is wanted":       func() { f.Want("shop", []Want{two}); f.Want("shop", []Want{want}) },
		"the daemon tells no longer": func() { f.listening(false); f.listening(true) },
	} {
		if f.rest(want, w, serves) < restMost/2 || looked() {
			t.Errorf("before %s: it does not rest", what)
		}
		if change(); !looked() {
			t.Errorf("%s, and it is not looked at", what)
		}
		if f.rest(want, w, serves) != sweep {
			t.Errorf("%s while it was looked at, and it rests", what)
		}
		w.stirred = false
	}
	if f.rest(two, w, serves) != sweep {
		t.Error("it rests on something that is wanted no more")
	}
	w.resting = false
	if f.happened(eventOf(want)); looked() {
		t.Error("one that does not rest is tried before its time")
	}
}
