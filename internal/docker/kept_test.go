package docker

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// works has the fleet work until the test ends, and gives what it finds of others.
func works(t *testing.T, f *Fleet) (found func() []Labelled) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var last []Labelled
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.Run(ctx) })
	wg.Go(func() {
		_ = f.Look(ctx, func(ls []Labelled) {
			mu.Lock()
			defer mu.Unlock()
			last = ls
		})
	})
	wg.Go(func() {
		for {
			select {
			case <-f.Events():
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func() []Labelled {
		mu.Lock()
		defer mu.Unlock()
		return last
	}
}

func (d *daemon) setDeaf(deaf bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deaf = deaf
}

func (d *daemon) hold() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.holds = true
}

// settled has the daemon tell what happens, and all versions rest.
func settled(t *testing.T, n int) (*daemon, *Fleet, func() []Labelled) {
	t.Helper()
	d, f, _ := newDaemon(t)
	for _, want := range d.serving(f, n) {
		f.Want(want.Service, []Want{want})
	}
	found := works(t, f)
	time.Sleep(10 * time.Second)
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, w := range f.work {
		if !w.resting {
			t.Errorf("%s does not rest", k.service)
		}
	}
	return d, f, found
}

// While the daemon tells what happens, and nothing does, it is asked for all containers once a minute, and for nothing else.
func TestAtRestTheDaemonIsAskedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, _ := settled(t, 100)
		lists, some, inspected := d.asked()
		time.Sleep(10 * relist)
		l, s, i := d.asked()
		if l-lists != 10 || s != some || i != inspected {
			t.Errorf("in ten minutes it was asked %d times for all, %d times for some, and %d times for one", l-lists, s-some, i-inspected)
		}
	})
}

// Whoever starts containers asks for those, not for all.
func TestAStartAsksForItsOwnContainers(t *testing.T) {
	for _, m := range []int{1, 10, 50} {
		synctest.Test(t, func(t *testing.T) {
			d, f, _ := settled(t, 100)
			lists, some, _ := d.asked()
			var wants []Want
			for i := range m {
				wants = append(wants, Want{Service: fmt.Sprint("new", i), Spec: policy.Docker{Image: "shop", Port: 80, Replicas: 2},
					Container: rollout.Container{Version: "v1", Attempt: 1, Image: "shop:v1", Goal: rollout.Start, Launched: true, Alone: true}})
				f.Want(wants[i].Service, wants[i:])
			}
			time.Sleep(20 * time.Second)
			l, s, _ := d.asked()
			if l != lists || s-some > 6*m {
				t.Errorf("%d versions began with two containers each: it was asked %d times for all, %d times for some", m, l-lists, s-some)
			}
			for _, want := range wants {
				if mine, _, err := f.list(t.Context(), want); err != nil || len(mine) != 2 || mine[1].State != container.StateRunning {
					t.Errorf("%s: %v, %v", want.Service, mine, err)
				}
			}
		})
	}
}

// A container of others is found when the daemon tells of it, and nobody looks otherwise.
func TestContainersOfOthersAreFoundWhenTheDaemonTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, found := settled(t, 10)
		lists, some, _ := d.asked()
		id := d.create("pay", map[string]string{LabelService: "pay", LabelVersion: "v1", LabelPort: "80"})
		d.change("start", id)
		synctest.Wait()
		if ls := found(); len(ls) != 1 || ls[0].Service != "pay" {
			t.Errorf("found: %v", ls)
		}
		d.change("die", id)
		time.Sleep(lookEvery + sweep)
		if ls := found(); len(ls) != 0 {
			t.Errorf("found when it has ended: %v", ls)
		}
		time.Sleep(10 * time.Second)
		if l, s, _ := d.asked(); l != lists || s-some > 3 {
			t.Errorf("it was asked %d times for all, %d times for some", l-lists, s-some)
		}
	})
}

// A daemon that tells nothing any more, and does not hang up, is found out within a minute, and heard anew.
func TestADaemonThatTellsNothingIsFoundOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, f, found := settled(t, 10)
		d.setDeaf(true)
		first := Want{Service: "shop0", Container: rollout.Container{Version: "v1", Attempt: 1}}.name(0)
		d.change("die", first)
		other := d.create("pay", map[string]string{LabelService: "pay", LabelVersion: "v1", LabelPort: "80"})
		d.change("start", other)
		time.Sleep(relist + lookEvery)
		if c := d.find(first); c.State != container.StateRunning || len(found()) != 1 {
			t.Errorf("after a minute: %s, %v", c.State, found())
		}
		d.setDeaf(false)
		time.Sleep(5 * time.Second)
		if n := d.streamed(); n != 2 || !f.isTold() {
			t.Errorf("its events were asked for %d times", n)
		}
		d.change("die", first)
		time.Sleep(sweep)
		if c := d.find(first); c.State != container.StateRunning {
			t.Errorf("after it was asked for its events again: %s", c.State)
		}
	})
}

// One event that does not come is made up for within a minute, though others do come.
func TestAnEventThatIsLostIsMadeUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, _ := settled(t, 10)
		first := Want{Service: "shop0", Container: rollout.Container{Version: "v1", Attempt: 1}}.name(0)
		d.setDeaf(true)
		d.change("die", first)
		d.setDeaf(false)
		d.change("die", Want{Service: "shop1", Container: rollout.Container{Version: "v1", Attempt: 1}}.name(0))
		time.Sleep(relist + sweep)
		if c := d.find(first); c.State != container.StateRunning || d.streamed() != 1 {
			t.Errorf("after a minute: %s; its events were asked for %d times", c.State, d.streamed())
		}
	})
}

// What canaryd does it sees at once, also where the daemon tells of it late.
func TestWhatCanarydDoesIsSeenBeforeItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, f, _ := settled(t, 10)
		d.hold()
		lists, _, _ := d.asked()
		want := Want{Service: "new", Container: rollout.Container{Version: "v1", Attempt: 1, Image: "shop:v1"}, Spec: policy.Docker{Image: "shop", Port: 80}}
		has := func(states ...container.ContainerState) []container.Summary {
			t.Helper()
			mine, _, err := f.list(t.Context(), want)
			var got []container.ContainerState
			for _, c := range mine {
				got = append(got, c.State)
			}
			if err != nil || !slices.Equal(got, states) {
				t.Errorf("it is %v, %v, want %v", got, err, states)
			}
			return mine
		}
		has()
		for i := range 2 {
			if _, err := f.create(t.Context(), want, want.name(i)); err != nil {
				t.Fatal(err)
			}
		}
		cs := has(container.StateCreated, container.StateCreated)
		if err := f.startOne(t.Context(), want.name(1), cs[1].ID); err != nil {
			t.Fatal(err)
		}
		cs = has(container.StateCreated, container.StateRunning)
		for i, remove := range []bool{false, true} {
			if _, err := f.stop(t.Context(), want, cs[1:], remove); err != nil {
				t.Fatal(err)
			}
			cs = has([]container.ContainerState{container.StateCreated, container.StateExited}[:2-i]...)
		}
		d.change("destroy", cs[0].ID)
		if _, err := f.inspect(t.Context(), cs[0]); err == nil {
			t.Error("what is gone is there")
		}
		has()
		if l, _, _ := d.asked(); l != lists {
			t.Errorf("it was asked %d times for all", l-lists)
		}
	})
}

// A daemon that hangs up is asked each second, as one that tells nothing from the first.
func TestADaemonThatHangsUpIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, f, _ := settled(t, 10)
		d.hangUp()
		synctest.Wait()
		if f.isTold() {
			t.Error("who hung up is believed to tell")
		}
		first := Want{Service: "shop0", Container: rollout.Container{Version: "v1", Attempt: 1}}.name(0)
		d.setDeaf(true)
		d.change("destroy", first)
		time.Sleep(2 * sweep)
		if c := d.find(first); c == nil || c.State != container.StateRunning {
			t.Errorf("what was removed meanwhile: %v", c)
		}
	})
}

// A container of canaryd's that is in no service is told once, and not at once.
func TestStraysAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, f, hook := newDaemon(t)
		works(t, f)
		time.Sleep(10 * time.Second)
		want := Want{Service: "pay", Container: rollout.Container{Version: "v1", Attempt: 1}}
		d.change("start", d.create(want.name(0), f.configOf(want, nil, want.name(0)).Labels))
		time.Sleep(lookEvery)
		if n := len(hook.AllEntries()); n != 0 {
			t.Errorf("%d lines at once", n)
		}
		time.Sleep(looksMost * lookEvery)
		d.change("die", want.name(0))
		d.change("start", want.name(0))
		time.Sleep(5 * relist)
		if n := len(hook.AllEntries()); n != 1 || !strings.Contains(hook.LastEntry().Message, "not in service") {
			t.Errorf("%d lines", n)
		}
	})
}

// shows compares what is kept with what the daemon has.
func (d *daemon) shows(t *testing.T, f *Fleet, after string) {
	t.Helper()
	for asked := true; asked; synctest.Wait() { // workers do something about what is new
		if err := f.current(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		_, asked = f.survey.due(time.Now())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if got, want := contents(f), linesOf(d.all); !slices.Equal(got, want) {
		t.Fatalf("after %s:\n%v\n%v", after, got, want)
	}
}

// contents is what is kept: the same in all that it is laid out by.
func contents(f *Fleet) []string {
	f.survey.mu.Lock()
	defer f.survey.mu.Unlock()
	laid := slices.Concat(slices.Collect(maps.Values(f.survey.managed))...)
	for _, c := range f.survey.all {
		if !isManaged(c) {
			laid = append(laid, c)
		}
	}
	if !slices.Equal(linesOf(laid), linesOf(slices.Collect(maps.Values(f.survey.all)))) {
		return []string{"it is laid out otherwise"}
	}
	return linesOf(laid)
}

func linesOf(cs []*container.Summary) (lines []string) {
	for _, c := range cs {
		if c.Labels[LabelService] != "" {
			lines = append(lines, c.ID+nameOf(*c)+string(c.State))
		}
	}
	slices.Sort(lines)
	return lines
}

// Whatever happens in whatever order, what is kept is what the daemon has: once all was told, or a minute later.
func TestWhatIsKeptIsWhatTheDaemonHas(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 15))
			d, f, _ := newDaemon(t)
			d.slow = sweep / 5
			works(t, f)
			w := &walk{daemon: d, f: f, rnd: rnd}
			var after []string
			for step := range 120 {
				if after = append(after, w.step(t)); rnd.IntN(3) == 0 {
					time.Sleep(time.Duration(rnd.Int64N(int64(sweep / 2))))
				}
				if rnd.IntN(4) > 0 {
					continue
				}
				if rnd.IntN(2) == 0 {
					time.Sleep(time.Duration(rnd.Int64N(int64(3 * time.Second))))
				}
				late := d.isLate()
				if d.release(); late {
					d.setDeaf(false)
					time.Sleep(relist + 3*sweep)
				}
				if synctest.Wait(); !f.isTold() {
					time.Sleep(sweep / 2)
				}
				d.shows(t, f, fmt.Sprintf("seed %d, step %d: %s", seed, step, strings.Join(after, ", ")))
			}
		})
	}
}

func (d *daemon) streamed() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opened
}

// isLate reports whether something happened that was told nobody.
func (d *daemon) isLate() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.deaf
}

// walk does something at random, as canaryd or as others.
type walk struct {
	*daemon
	f   *Fleet
	rnd *rand.Rand
}

func (w *walk) step(t *testing.T) string {
	want := Want{Service: fmt.Sprint("shop", w.rnd.IntN(3)), Spec: policy.Docker{Image: "shop", Port: 80, Replicas: 1},
		Container: rollout.Container{Version: fmt.Sprint("v", w.rnd.IntN(2)), Attempt: w.rnd.IntN(2) + 1, Image: "shop:v1", Goal: rollout.Start, Launched: true, Alone: true}}
	name := want.name(w.rnd.IntN(2))
	c := w.find(name)
	switch n := w.rnd.IntN(20); {
	case n < 4 && c == nil:
		_, _ = w.f.create(t.Context(), want, name)
	case n < 4:
		_ = w.f.startOne(t.Context(), name, c.ID)
	case n < 6 && c != nil:
		_, _ = w.f.stop(t.Context(), want, []container.Summary{*c}, n == 4)
	case n < 8:
		w.f.Want(want.Service, []Want{want})
	case n == 8:
		w.f.Want(want.Service, nil)
	case n == 9:
		w.hangUp()
	case n == 10:
		w.hold()
	case n == 11:
		w.setDeaf(true)
	case n == 12:
		w.create(fmt.Sprint("other", w.rnd.IntN(1000)), map[string]string{LabelService: "pay", LabelVersion: "v1", LabelPort: "80"})
	case n == 13:
		time.Sleep(time.Duration(w.rnd.Int64N(int64(2 * relist))))
	case n == 14:
		_ = w.f.current(t.Context())
	default:
		id := fmt.Sprint("id", w.rnd.IntN(30))
		what := []string{"start", "die", "destroy", "pause", "rename"}[w.rnd.IntN(5)]
		w.change(what, id)
		return what + " " + id
	}
	return name
}
