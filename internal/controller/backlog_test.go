package controller

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/world"
)

// However much evidence waits to be looked at, a cut that the disk holds up goes out between two pieces of it.
func TestACutGoesOutBetweenPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 1, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(5 * time.Second)
		if b.fleet[0].Weights()["v2"] == 0 {
			t.Fatal("v2 has no weight that could be cut")
		}
		defer b.freeze()()
		time.Sleep(checkpoint + 2*cutPatience) // a write hangs
		c, begin := b.daemon, time.Now()
		evs := make([]metrics.Evidence, 1000*pieceMost)
		for i := range evs {
			evs[i].Service = "shop"
		}
		heard := false
		for range 100 { // who speaks while there is work is mostly heard in the middle of it; how soon is the scheduler's choice
			if heard {
				break
			}
			c.evidence <- evs
			b.inLoop(func() { heard = len(c.backlog.evidence) > 0 })
		}
		left, out := 0, false
		b.inLoop(func() {
			c.backlog.evidence = slices.Clone(evs)
			if _, err := c.command(c.units["shop"], rollout.Commanded{Verb: "abort", Version: "v2", By: "ann"}); err != nil {
				t.Error(err)
			}
			c.settle(time.Now())
			left, out = len(c.backlog.evidence), c.units["shop"].outbox.Early()
		})
		if !heard || !out || left != len(evs) || time.Since(begin) > 0 {
			t.Errorf("heard: %v, out: %v, with %d of %d pieces left, after %s", heard, out, left/pieceMost, len(evs)/pieceMost, time.Since(begin))
		}
		time.Sleep(time.Second)
		if w := b.fleet[0].Weights(); len(w) != 1 || w["v1"] != 10000 {
			t.Errorf("the Envoy serves %v", w)
		}
	})
}

// Who is answered goes on before the loop does more of its work, also where no other processor is free.
func TestWhoIsAnsweredGoesOn(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 1, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(5 * time.Second)
		c, least := b.daemon, math.MaxInt
		for range 20 { // now and then the test itself is interrupted
			left, then := 0, 0
			b.inLoop(func() {
				c.backlog.evidence = slices.Repeat([]metrics.Evidence{{Service: "shop"}}, 1000*pieceMost)
				left = len(c.backlog.evidence)
			})
			b.inLoop(func() { then, c.backlog.evidence = len(c.backlog.evidence), nil })
			least = min(least, left-then)
		}
		if least > pieceMost {
			t.Errorf("the loop did %d services before who was answered could ask again", least)
		}
	})
}

// Where thousands want a processor the loop does not wait for all of them time and again.
func TestTheLoopGivesWayToACrowdSeldom(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var ended atomic.Bool
	defer ended.Store(true)
	for range 2000 {
		go func() {
			for !ended.Load() {
				for begun := time.Now(); time.Since(begun) < 50*time.Microsecond; {
				}
				runtime.Gosched()
			}
		}()
	}
	c := &Controller{backlog: newBacklog()}
	c.backlog.evidence = make([]metrics.Evidence, 1)
	giveWay := func() time.Duration {
		begun := time.Now()
		c.woke = true
		c.giveWay()
		return time.Since(begun)
	}
	once, often := giveWay(), time.Duration(0)
	for range 10 {
		often += giveWay()
	}
	if once < crowded || often > 5*once {
		t.Errorf("it gave way for %s, and ten times more for %s", once, often)
	}
}

// What a write holds is gathered for no longer than a piece, where that takes long.
func TestAWriteIsGatheredForNoLongerThanAPiece(t *testing.T) {
	c := &Controller{aged: map[*unit]struct{}{}, atOnce: storedAtOnce, writer: writer{paced: true}}
	large := make([]*journal.Part, 1<<19) // to copy them takes about a millisecond
	for range agedAtOnce {
		c.aged[&unit{scribe: scribe{parts: large}}] = struct{}{}
	}
	begin := time.Now()
	n := len(c.jobs(begin))
	if took := time.Since(begin); n == 0 || n == agedAtOnce && took > 2*pieceFor {
		t.Errorf("%d services were gathered in %s", n, took)
	}
	if n+len(c.aged) != agedAtOnce {
		t.Errorf("%d of %d services wait for the next write, %d are in this one", len(c.aged), agedAtOnce, n)
	}
}

// Where many wait to be stored, those are stored together whose names follow one another, and each in its turn.
func TestNeighboursAreStoredTogether(t *testing.T) {
	const turns = 5
	c := &Controller{aged: map[*unit]struct{}{}, units: map[string]*unit{}, atOnce: storedAtOnce}
	for i := range turns * agedAtOnce {
		name := fmt.Sprintf("shop-%03d", i)
		u := newUnit(rollout.State{Policy: policy.Policy{Service: name}})
		c.targets.services, c.units[name], c.aged[u] = append(c.targets.services, name), u, struct{}{}
	}
	for turn := range turns {
		jobs := c.jobs(time.Now())
		if len(jobs) != agedAtOnce {
			t.Fatalf("%d services are stored at once", len(jobs))
		}
		if turn == turns-1 { // those that are left, in any order
			break
		}
		for i, j := range jobs {
			if want := fmt.Sprintf("shop-%03d", turn*agedAtOnce+i); j.write.Service != want {
				t.Fatalf("%s is stored as the %d. of write %d, not %s", j.write.Service, i, turn, want)
			}
			if i%2 == 0 {
				c.aged[j.u] = struct{}{} // it changes again, and is not stored again before the others are
			}
		}
	}
	if len(c.aged) != (turns-1)*agedAtOnce/2 {
		t.Errorf("%d wait", len(c.aged))
	}
}

// However long it takes to gather what goes before it, a write has room for another decision, and for evidence.
func TestAWriteHasRoomForAllKinds(t *testing.T) {
	c := &Controller{aged: map[*unit]struct{}{}, unsaved: map[*unit]struct{}{}, cutting: map[*unit]time.Time{}, atOnce: storedAtOnce, cutAt: time.Now(), writer: writer{paced: true, alone: true}}
	large := make([]*journal.Part, 1<<19) // to copy them takes about a millisecond
	all := map[string][]*unit{}
	for i := range besideCuts {
		u := &unit{scribe: scribe{parts: large}}
		switch kind := []string{"cut", "decision", "evidence"}[i%3]; kind {
		case "cut":
			c.unsaved[u], c.cutting[u] = struct{}{}, time.Now()
		case "decision":
			c.unsaved[u] = struct{}{}
			all[kind] = append(all[kind], u)
		default:
			c.aged[u] = struct{}{}
			all[kind] = append(all[kind], u)
		}
	}
	jobs := c.jobs(time.Now())
	for kind, units := range all {
		if !slices.ContainsFunc(jobs, func(j job) bool { return slices.Contains(units, j.u) }) {
			t.Errorf("of %d services none has its %s in a write of %d", len(units), kind, len(jobs))
		}
	}
}

// A reload of many services is taken in in pieces, and is done when all of it is stored; where one document is wrong
// nothing is taken in.
func TestAReloadOfManyIsAllOrNothing(t *testing.T) {
	const n = 5 * pieceMost
	many := func(hold, last string) string {
		var s strings.Builder
		for i := range n {
			fmt.Fprintf(&s, "---\nservice: s%d\nversions: [{version: v1, endpoints: [\"10.0.0.1:80\"], stable: true}]\nramp: {hold: %s}\n", i, hold)
		}
		return s.String() + last
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, many("1m", ""), 0, world.Traffic{})
		holds := func() (list []string) {
			b.inLoop(func() {
				for _, u := range b.daemon.units {
					if h := fmt.Sprintf("%s unstored=%v orphaned=%v", u.state.Policy.Ramp.Hold, u.outbox.Unstored(), u.state.Orphaned); !slices.Contains(list, h) {
						list = append(list, h)
					}
				}
			})
			return list
		}
		b.write(many("2m", "---\nservice: shop\nramp: {hold: soon}\n"))
		if err := b.daemon.Reload(t.Context(), "ann"); err == nil {
			t.Error("a wrong document was reloaded")
		}
		if got := holds(); !slices.Equal(got, []string{"1m unstored=false orphaned=false"}) {
			t.Errorf("after a reload that failed: %v", got)
		}
		b.write(many("3m", ""))
		if err := b.daemon.Reload(t.Context(), "ann"); err != nil {
			t.Error(err)
		}
		if got := holds(); !slices.Equal(got, []string{"3m unstored=false orphaned=false"}) {
			t.Errorf("after a reload: %v", got)
		}
		b.write("service: shop\n")
		if err := b.daemon.Reload(t.Context(), "ann"); err != nil {
			t.Error(err)
		}
		if got := holds(); len(got) != 2 || !slices.Contains(got, "3m unstored=false orphaned=true") {
			t.Errorf("after their policies are gone: %v", got)
		}
	})
}

// A reload that nobody waits for any more before the loop has it is no mistake in the policies, and its edit is found by
// the next look at the files.
func TestAReloadThatIsLeftForgetsNoEdit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 0, world.Traffic{})
		left, leave := context.WithCancel(t.Context())
		leave()
		for i := range 100 {
			hold := fmt.Sprintf("%dm", i+61)
			b.write(strings.Replace(tenPercent, "hold: 1h", "hold: "+hold, 1))
			err := b.daemon.Reload(left, "ann")
			var failed error
			var has policy.Duration
			b.inLoop(func() { failed, has = b.daemon.reloadErr, b.daemon.units["shop"].state.Policy.Ramp.Hold })
			if failed != nil {
				t.Fatalf("a mistake in the policies: %v", failed)
			}
			if want, _ := time.ParseDuration(hold); time.Duration(has) != want && !b.daemon.filesChanged(t.Context(), true) {
				t.Fatalf("the edit is forgotten after %v", err)
			}
		}
	})
}

// Who waits for an answer is heard before the next piece of what concerns many services, and those who ask without end are
// not heard forever.
func TestWhoWaitsGoesBeforeTheNextPiece(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 0, world.Traffic{})
		c := b.daemon
		b.inLoop(func() {
			c.backlog.evidence, c.backlog.ahead = make([]metrics.Evidence, 10*pieceMost), 0
			heard := 0
			for range 3 * aheadMost {
				go func() { _ = c.do(t.Context(), func() { heard++ }) }()
			}
			synctest.Wait() // all of them are at the door
			for turn := 1; turn <= 2*(aheadMost+1); turn++ {
				if !c.first() {
					t.Fatal("nobody was heard, and nothing was done")
				}
				pieces := 10 - len(c.backlog.evidence)/pieceMost
				if want := turn / (aheadMost + 1); pieces != want || heard != turn-want {
					t.Errorf("after %d turns %d were heard and %d pieces done", turn, heard, pieces)
				}
			}
			c.backlog.evidence = nil
		})
	})
}

// While many policies are taken in, a cut waits for the write under way and for its own, in which there is nothing but
// cuts; however many cuts there are, the policies are stored as well.
func TestACutDuringAReloadWaitsForOneWrite(t *testing.T) {
	const n, cuts, each = 1600, 20, 20 * time.Millisecond
	many := func(hold string) string {
		var s strings.Builder
		for i := range n {
			fmt.Fprintf(&s, "---\nservice: s%04d\nroute: {probe: \"off\"}\nversions: [{version: v1, endpoints: [\"10.0.0.1:80\"], stable: true}]\nramp: {hold: %s}\n", i, hold)
		}
		return s.String()
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, many("1m"), 0, world.Traffic{})
		name := func(i int) string { return fmt.Sprintf("s%04d", i*n/cuts) }
		for i := range cuts {
			if _, _, err := b.daemon.Announce(t.Context(), name(i), rollout.Announced{Version: "v2", Endpoints: []string{"10.0.0.2:80"}, By: "ann"}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * checkpoint)
		b.disk.set(each, nil)
		before := len(b.disk.sizes())
		b.write(many("2m"))
		done := make(chan error, 1)
		go func() { done <- b.daemon.Reload(t.Context(), "ann") }()
		time.Sleep(each / 2)
		var slowest time.Duration
		for i := range cuts {
			begin := time.Now()
			if _, _, err := b.daemon.Command(t.Context(), name(i), rollout.Commanded{Verb: "abort", Version: "v2", By: "ann"}); err != nil {
				t.Fatal(err)
			}
			slowest = max(slowest, time.Since(begin))
			select {
			case err := <-done:
				t.Fatalf("the reload was over after %d cuts: %v", i, err)
			default:
			}
		}
		if slowest > 2*each {
			t.Errorf("a cut was stored after %s, with writes of %s", slowest, each)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		alone := 0
		for i, size := range b.disk.sizes()[before:] {
			if size > storedAtOnce {
				t.Errorf("write %d holds %d services", i, size)
			}
			if size == 1 {
				alone++
			}
		}
		if alone < cuts {
			t.Errorf("%d of %d cuts had a write of their own", alone, cuts)
		}
	})
}

// However many cuts wait to be stored, another decision waits for two writes and its own.
func TestManyCutsLeaveRoomForAnotherDecision(t *testing.T) {
	const n, each = 300, 20 * time.Millisecond
	var policies strings.Builder
	name := func(i int) string { return fmt.Sprintf("s%04d", i) }
	for i := range n + 1 {
		fmt.Fprintf(&policies, "---\nservice: %s\nroute: {probe: \"off\"}\nversions: [{version: v1, endpoints: [\"10.0.0.1:80\"], stable: true}]\n", name(i))
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, policies.String(), 0, world.Traffic{})
		announce := func(i int) error {
			_, _, err := b.daemon.Announce(t.Context(), name(i), rollout.Announced{Version: "v2", Endpoints: []string{"10.0.0.2:80"}, By: "ann"})
			return err
		}
		for i := range n {
			if err := announce(i); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * checkpoint)
		b.disk.set(each, nil)
		begin, last := time.Now(), make(chan time.Duration, n)
		for i := range n {
			go func() {
				if _, _, err := b.daemon.Command(t.Context(), name(i), rollout.Commanded{Verb: "abort", Version: "v2", By: "ann"}); err != nil {
					t.Error(err)
				}
				last <- time.Since(begin)
			}()
		}
		time.Sleep(each / 2)
		if err := announce(n); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 4*each {
			t.Errorf("a decision beside %d cuts was stored after %s, with writes of %s", n, took, each)
		}
		var slowest time.Duration
		for range n {
			slowest = max(slowest, <-last)
		}
		if slowest < 6*each {
			t.Errorf("all cuts were stored after %s: there were too few to be in the way", slowest)
		}
	})
}
