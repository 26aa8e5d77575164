package controller

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
	"github.com/canaryd/canaryd/internal/world"
)

// disk is a store on a disk that is slow, hangs, or takes nothing.
type disk struct {
	*store.Bolt

	mu     sync.Mutex
	delay  time.Duration
	fails  error
	thaw   chan struct{} // closed when it no longer hangs; nil: it does not
	takes  bool          // what it says it did not
	lasts  int           // so many saves go well, then it is full; 0: nobody counts
	small  atomic.Bool   // it has room for what is there, and for no journal
	crash  *crash
	saves  int
	held   []int // services in each save
	alone  int   // of all of these, those of which nothing but the evidence was stored
	tidied int
	key    []byte // nil: the stored one
}

func (d *disk) Key() []byte {
	if d.key != nil {
		return d.key
	}
	return d.Bolt.Key()
}

var errDiskFull = errors.New("no space left on device")

func (d *disk) set(delay time.Duration, fails error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delay, d.fails = delay, fails
}

// freeze lets every write hang until the returned function is called, or the test has failed.
func (b *bubble) freeze() (thaw func()) {
	d := b.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	ch := make(chan struct{})
	d.thaw = ch
	thaw = sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.thaw = nil
		close(ch)
	})
	b.t.Cleanup(thaw)
	return thaw
}

func (b *bubble) services() (list []Service, err error) {
	for s, err := range b.daemon.Services(b.t.Context(), "", nil) {
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// unstored checks that an answer says that what was decided is not stored.
func (b *bubble) unstored(err error) {
	b.t.Helper()
	var e *NotStoredError
	if !errors.As(err, &e) {
		b.t.Fatalf("stored on a disk that hangs: %v", err)
	}
}

func (d *disk) Save(ws []store.Write) (uint64, error) {
	d.mu.Lock()
	d.saves++
	d.held = append(d.held, len(ws))
	for _, w := range ws {
		if w.State == nil && w.Evidence != nil {
			d.alone++
		}
	}
	delay, fails, thaw, kill, takes := d.delay, d.fails, d.thaw, d.crash, d.takes
	d.mu.Unlock()
	if kill != nil {
		return kill.save(d.Bolt, ws)
	}
	time.Sleep(delay)
	if thaw != nil {
		<-thaw
		d.mu.Lock()
		fails = d.fails
		if d.lasts--; d.lasts == 0 {
			d.fails = errDiskFull
		}
		d.mu.Unlock()
	}
	if fails != nil && !takes || d.small.Load() && slices.ContainsFunc(ws, func(w store.Write) bool { return len(w.Parts) > 0 }) {
		return 0, cmp.Or(fails, errDiskFull)
	}
	first, err := d.Bolt.Save(ws)
	return first, cmp.Or(fails, err)
}

func (d *disk) sizes() []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.held)
}

func (d *disk) Tidy(now time.Time, l store.Limits) (more bool, err error) {
	d.mu.Lock()
	d.tidied++
	d.mu.Unlock()
	return d.Bolt.Tidy(now, l)
}

// share is what the Envoys give a version, in parts of 10 000 of each.
func (b *bubble) share(version string) uint32 {
	sum := uint32(0)
	for _, e := range b.fleet {
		sum += e.Weights()[version]
	}
	return sum
}

// serves checks what all Envoys give the versions together.
func (b *bubble) serves(want map[string]uint32) {
	b.t.Helper()
	got := map[string]uint32{}
	for _, e := range b.fleet {
		for v, n := range e.Weights() {
			got[v] += n
		}
	}
	if !maps.Equal(got, want) {
		b.t.Fatalf("the Envoys serve %v, want %v", got, want)
	}
}

// orphaned takes the policy of the service away.
func (b *bubble) orphaned() {
	b.t.Helper()
	b.write("service: other\n")
	if err := b.daemon.Reload(b.t.Context(), "test"); err != nil {
		b.t.Fatal(err)
	}
}

// hand is a person's command.
func (b *bubble) hand(verb, version string) (Service, error) {
	s, _, err := b.daemon.Command(b.t.Context(), "shop", rollout.Commanded{Verb: verb, Version: version, Knowing: true, By: "ann"})
	return s, err
}

// never fails when a version gets anything within the time.
func (b *bubble) never(version string, long time.Duration) {
	b.t.Helper()
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if n := b.share(version); n > 0 {
			b.t.Fatalf("%s after the cut, %s is served to %d of 10 000", long-time.Until(end), version, n)
		}
	}
}

const tenPercent = bubblePolicy + "ramp: {steps: [10%, 100%], hold: 1h}\njudge: {clump: 1}\n"

// failing is traffic of which every request fails at the versions that are bad.
func failing(bad *sync.Map) world.Traffic {
	return world.Traffic{Service: "shop", PerSecond: 500, ErrorRate: func(v string, _ time.Time) float64 {
		if _, ok := bad.Load(v); ok {
			return 1
		}
		return 0
	}}
}

// cutUnder brings v2 to 10 %, lets the disk do something, and has v2 fail.
func cutUnder(t *testing.T, trouble func(b *bubble), after func(b *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var bad sync.Map
		b := newBubble(t, tenPercent, 2, failing(&bad))
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(5 * time.Second)
		if b.share("v2") != 2000 {
			t.Fatalf("v2 is served to %d", b.share("v2"))
		}
		trouble(b)
		bad.Store("v2", true)
		b.until("v2", rollout.Failed, 10*time.Second)
		time.Sleep(cutPatience + 10*time.Millisecond)
		after(b)
	})
}

// slowDisk is one on which a write is always under way.
func slowDisk(b *bubble) {
	b.disk.set(6*time.Second, nil)
	time.Sleep(16 * time.Second) // a cut falls into one
}

// A write that is under way when a version is cut ends after the cut went out: the version stays out.
func TestAWriteThatEndsLateBringsNothingBack(t *testing.T) {
	cutUnder(t, slowDisk, func(b *bubble) { b.never("v2", 30*time.Second) })
}

// The same, and afterwards the disk is full.
func TestADiskThatIsFullAfterwardsBringsNothingBack(t *testing.T) {
	cutUnder(t, slowDisk, func(b *bubble) {
		b.disk.set(0, errDiskFull)
		b.never("v2", time.Minute)
		if s, err := b.daemon.Service(b.t.Context(), "shop"); err != nil || s.Stored || s.Storing == nil {
			b.t.Errorf("the full disk is not told: %+v %v", s.Storing, err)
		}
		b.disk.set(0, nil)
		b.never("v2", 10*time.Second)
		if s, err := b.daemon.Service(b.t.Context(), "shop"); err != nil || !s.Stored || s.Storing != nil {
			b.t.Errorf("the disk is well again: %v %v %v", s.Stored, s.Storing, err)
		}
	})
}

// A disk that hangs for minutes under a write, then takes it, or does not.
func TestADiskThatHangsBringsNothingBack(t *testing.T) {
	for name, end := range map[string]error{"and takes the write": nil, "and refuses it": errDiskFull} {
		t.Run(name, func(t *testing.T) {
			var thaw func()
			cutUnder(t, func(b *bubble) {
				thaw = b.freeze()
				time.Sleep(6 * time.Second) // a checkpoint hangs
			}, func(b *bubble) {
				b.never("v2", 3*time.Minute)
				s, err := b.daemon.Service(b.t.Context(), "shop")
				if err != nil || s.Storing == nil || !strings.Contains(s.Storing.Error(), "has not answered for 3m") {
					b.t.Errorf("status says %v (%v)", s.Storing, err)
				}
				b.disk.set(0, end)
				thaw()
				b.never("v2", 10*time.Second)
				b.disk.set(0, nil)
				b.never("v2", 10*time.Second)
			})
		})
	}
}

// canaryd is told to end while a cut waits behind a write that hangs: it ends when the disk answers, and
// the cut is not forgotten.
func TestAStopWaitsForAHangingDisk(t *testing.T) {
	var thaw func()
	cutUnder(t, func(b *bubble) {
		thaw = b.freeze()
		time.Sleep(6 * time.Second) // a checkpoint hangs
	}, func(b *bubble) {
		begin := time.Now()
		time.AfterFunc(time.Minute, thaw)
		b.stop()
		if took := time.Since(begin); took < time.Minute {
			b.t.Errorf("it ended after %s, the disk did not answer for a minute", took)
		}
		b.start()
		if v := b.version("v2"); v.Phase != rollout.Failed {
			b.t.Errorf("after the restart v2 is %s", v.Phase)
		}
		b.never("v2", 10*time.Second)
	})
}

// What went out unstored is stored when the disk takes it again, and what was raised meanwhile goes out
// then: nothing is lost, nothing comes back.
func TestARaiseWaitsForAHangingDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy+"ramp: {steps: [10%, 50%, 100%], hold: 10s}\njudge: {clump: 1}\n", 2, world.Traffic{Service: "shop", PerSecond: 500, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(3 * time.Second)
		thaw := b.freeze()
		time.Sleep(time.Minute)
		if b.share("v2") != 2000 {
			t.Errorf("v2 is served to %d while the disk hangs", b.share("v2"))
		}
		if v := b.version("v2"); v.Verdict.Code != "not_in_force" {
			t.Errorf("%+v", v.Verdict)
		}
		thaw()
		time.Sleep(time.Second)
		if b.share("v2") != 10000 {
			t.Errorf("v2 is served to %d when the disk answers again", b.share("v2"))
		}
	})
}

// An abort before the first write of a service: nothing was published, so nothing is to be cut, and the
// daemon goes on.
func TestAnAbortBeforeTheFirstWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 1, world.Traffic{Service: "pay", PerSecond: 10, ErrorRate: steady(nil)})
		b.disk.set(0, errDiskFull)
		if err := os.WriteFile(filepath.Join(b.dir, "pay.yml"), []byte("service: pay\nroute: {probe: \"off\"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		b.unstored(b.daemon.Reload(t.Context(), "test"))
		for _, v := range []string{"v1", "v2"} {
			_, _, err := b.daemon.Announce(t.Context(), "pay", rollout.Announced{Version: v, Endpoints: []string{"10.0.0.9:80"}})
			var unstored *NotStoredError
			if !errors.As(err, &unstored) || !strings.Contains(err.Error(), errDiskFull.Error()) || !strings.Contains(err.Error(), "abort") {
				t.Errorf("announced: %v", err)
			}
		}
		s, _, err := b.daemon.Command(t.Context(), "pay", rollout.Commanded{Verb: "abort", Version: "v2"})
		if err != nil || s.Stored {
			t.Errorf("aborted: %v, stored %v", err, s.Stored)
		}
		time.Sleep(10 * time.Second)
		if w := b.fleet[0].Weights(); len(w) != 0 {
			t.Errorf("nothing of pay is stored, and an Envoy serves %v", w)
		}
		b.disk.set(0, nil)
		time.Sleep(5 * time.Second)
		if w := b.fleet[0].Weights(); len(w) != 1 || w["v1"] != 10000 {
			t.Errorf("an Envoy serves %v", w)
		}
		s, err = b.daemon.Service(t.Context(), "pay")
		if err != nil || !s.Stored || s.State.Version("v2").Phase != rollout.Aborted {
			t.Errorf("%v %+v", err, s.State.Version("v2"))
		}
	})
}

// The way back is a cut: it does not wait for the disk, and a promotion does.
func TestTheWayBackDoesNotWaitForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 2, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		command := func(verb, version string) (Service, error) {
			s, _, err := b.daemon.Command(t.Context(), "shop", rollout.Commanded{Verb: verb, Version: version, Knowing: true, By: "ann"})
			return s, err
		}
		if _, err := command("promote", "v2"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		thaw := b.freeze()
		time.Sleep(6 * time.Second)
		begin := time.Now()
		s, err := command("abort", "v2")
		if took := time.Since(begin); err != nil || s.Stored || took > writeHangs+100*time.Millisecond {
			t.Errorf("abort of stable: %v, stored %v, after %s", err, s.Stored, took)
		}
		if b.share("v2") != 0 || b.share("v1") != 20000 {
			t.Errorf("v1 gets %d, v2 %d", b.share("v1"), b.share("v2"))
		}
		b.never("v2", time.Minute)
		var unstored *NotStoredError
		if _, err := command("promote", "v2"); !errors.As(err, &unstored) {
			t.Errorf("promoted on a disk that hangs: %v", err)
		}
		if _, err := command("promote", "v2"); err == nil || !strings.Contains(err.Error(), "stable already; this rests on what is decided and not stored yet (the disk has not answered") {
			t.Errorf("promoted again: %v", err)
		}
		b.never("v2", time.Minute)
		thaw()
		time.Sleep(time.Second)
		if b.share("v2") != 20000 { // the promotion that was asked for after the abort
			t.Errorf("v1 gets %d, v2 %d", b.share("v1"), b.share("v2"))
		}
	})
}

// Nothing is told before it is stored: not to listeners, not to whoever reads the history.
func TestWhatIsToldIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 1, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		told, err := b.daemon.Listen(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		thaw := b.freeze()
		defer thaw()
		_, _, err = b.daemon.Announce(t.Context(), "shop", rollout.Announced{Version: "v2", Endpoints: []string{"10.0.0.9:80"}, By: "ci"})
		if !strings.Contains(err.Error(), "announcement of v2") {
			t.Errorf("%v", err)
		}
		select {
		case e := <-told:
			t.Fatalf("told and not stored: %+v", e)
		case <-time.After(time.Minute):
		}
		if h, err := b.daemon.History(t.Context(), "shop", 100); err != nil || len(h) != 1 {
			t.Errorf("%d records, %v", len(h), err)
		}
		thaw()
		e := <-told
		h, err := b.daemon.History(t.Context(), "shop", 100)
		if err != nil || len(h) < 2 || h[1].Kind != e.Kind || !h[1].At.Equal(e.At) {
			t.Errorf("told %+v, stored %+v, %v", e, h, err)
		}
	})
}

// Who listened before a restart goes on where it was.
func TestListenersMissNothingOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 1, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		listen := func(after string, n int) (got []Entry) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ch, err := b.daemon.Listen(ctx, after)
			if err != nil {
				t.Fatal(err)
			}
			for len(got) < n {
				select {
				case e := <-ch:
					got = append(got, e)
				case <-time.After(time.Minute):
					t.Fatalf("%d of %d entries", len(got), n)
				}
			}
			return got
		}
		b.announce("v2")
		first := listen("0", 2)
		for i := range 5 {
			b.announce("w" + string(rune('0'+i)))
			b.stop()
			b.start()
		}
		rest := listen(first[1].Cursor, 5)
		if all := listen("0", 7); all[6].Version != rest[4].Version || all[2].Version != rest[0].Version || rest[0].Version == "v2" {
			t.Errorf("%+v", rest)
		}
		if _, err := b.daemon.Listen(t.Context(), "yesterday"); err == nil {
			t.Error("a made-up cursor is taken")
		}
	})
}

// A listener that does not keep up is let go, and does not hold up the loop.
func TestASlowListenerIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 0, world.Traffic{Service: "shop"})
		ch, err := b.daemon.Listen(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		b.announce("v2")
		for range listenerRoom {
			for _, verb := range []string{"pause", "resume"} {
				if _, _, err := b.daemon.Command(t.Context(), "shop", rollout.Commanded{Verb: verb, Version: "v2"}); err != nil {
					t.Fatal(err)
				}
			}
		}
		n := 0
		var last Entry
		for last = range ch {
			n++
		}
		if n > listenerRoom+2 {
			t.Errorf("%d entries", n)
		}
		again, err := b.daemon.Listen(t.Context(), last.Cursor)
		if err != nil {
			t.Fatal(err)
		}
		if e := <-again; e.cursor != last.cursor+1 {
			t.Errorf("after %d comes %d", last.cursor, e.cursor)
		}
	})
}

// While nothing can be stored only so many records are kept, and the history says how many were not.
func TestRecordsOfAFullDiskAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 0, world.Traffic{Service: "shop"})
		b.announce("v2")
		b.disk.set(0, errDiskFull)
		for range mostKept {
			for _, verb := range []string{"pause", "resume"} {
				_, _, _ = b.daemon.Command(t.Context(), "shop", rollout.Commanded{Verb: verb, Version: "v2"}) // not stored
			}
		}
		b.disk.set(0, nil)
		time.Sleep(5 * time.Second)
		h, err := b.daemon.History(t.Context(), "shop", 10*mostKept)
		if err != nil || len(h) > mostKept+5 {
			t.Fatalf("%d records, %v", len(h), err)
		}
		if last := h[len(h)-1]; last.Kind != rollout.KindDropped || !strings.Contains(last.Reason, "1000 records") {
			t.Errorf("%+v", last)
		}
	})
}

// A broken policy, a full disk, a state that cannot be read: canaryd starts on what it has, and says so.
func TestStartsOnWhatIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 2, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(40 * time.Second)
		had := b.share("v2")
		b.stop()
		b.write("service: shop\nramp: nonsense\n")
		b.disk.set(0, errDiskFull)
		b.start()
		time.Sleep(3 * time.Second)
		s, err := b.daemon.Service(t.Context(), "shop")
		if err != nil || s.Policies == nil || !strings.Contains(s.Policies.Error(), "shop.yml:2:") {
			t.Errorf("the policy: %v, %v", s.Policies, err)
		}
		if b.share("v2") != had || had == 0 || b.share("v1") != 20000-had {
			t.Errorf("v1 gets %d, v2 %d (was %d)", b.share("v1"), b.share("v2"), had)
		}
		if f, err := b.daemon.Figures(t.Context()); err != nil || f.ReloadOK {
			t.Errorf("config_last_reload_successful would be 1: %v", err)
		}
		b.write(bubblePolicy)
		b.disk.set(0, nil)
		if err := b.daemon.Reload(t.Context(), "test"); err != nil {
			t.Error(err)
		}
		if s, _ = b.daemon.Service(t.Context(), "shop"); s.Policies != nil {
			t.Errorf("%v", s.Policies)
		}
	})
}

// A state that cannot be read is left alone, and so is what the Envoys have of it; the other services go on.
func TestAnUnreadableStateIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 2, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		if err := os.WriteFile(filepath.Join(b.dir, "pay.yml"), []byte(strings.Replace(bubblePolicy, "shop", "pay", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := b.daemon.Reload(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(40 * time.Second)
		had := b.share("v2")
		b.disk.set(0, errors.New("as if it were killed"))
		b.stop()
		db, err := store.Open(b.dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Save([]store.Write{{Service: "shop", State: []byte(`{"policy": 7}`)}}); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		b.disk.set(0, nil)
		b.start()
		time.Sleep(10 * time.Second)
		if b.share("v2") != had || b.share("v1") != 20000-had || had == 0 {
			t.Errorf("the Envoys had %d of v2 and have %d, and %d of v1", had, b.share("v2"), b.share("v1"))
		}
		list, err := b.services()
		if err != nil || len(list) != 2 || list[0].Name != "pay" || list[0].Unreadable != nil || list[1].Name != "shop" || list[1].Unreadable == nil {
			t.Fatalf("%+v %v", list, err)
		}
		_, _, err = b.daemon.Command(t.Context(), "shop", rollout.Commanded{Verb: "abort", Version: "v2"})
		if err == nil || !strings.Contains(err.Error(), "cannot be read") {
			t.Errorf("%v", err)
		}
		if err := b.daemon.Reload(t.Context(), "test"); err != nil { // never begins anew by itself
			t.Error(err)
		}
		b.disk.set(300*time.Millisecond, nil)
		if err := b.daemon.Delete(t.Context(), "shop", "ann"); err != nil {
			t.Error(err)
		}
		for range 50 { // the Envoys always have a route
			time.Sleep(100 * time.Millisecond)
			if n := b.share("v1") + b.share("v2"); n != 20000 {
				t.Fatalf("v1 and v2 get %d", n)
			}
		}
		if b.share("v1") != 20000 { // its policy is still there, and begins anew
			t.Errorf("v1 gets %d, v2 %d", b.share("v1"), b.share("v2"))
		}
	})
}

// A service that was deleted stays deleted, though a write of it was under way; its policy brings it back.
func TestADeletedServiceStaysDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 1, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(2 * time.Second)
		b.orphaned()
		b.disk.set(1900*time.Millisecond, nil)
		time.Sleep(6 * time.Second) // a checkpoint is under way
		err := b.daemon.Delete(t.Context(), "shop", "ann")
		var unstored *NotStoredError
		if err != nil && !errors.As(err, &unstored) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		b.disk.set(0, nil)
		b.stop()
		b.start()
		if s, err := b.daemon.Service(t.Context(), "shop"); err == nil {
			t.Fatalf("it is back: %+v", s)
		}
		h, err := b.daemon.History(t.Context(), "shop", 100)
		if err != nil || h[len(h)-1].Kind != rollout.KindRemoved || h[len(h)-1].By != "ann" {
			t.Errorf("%v %v", h, err)
		}
		b.write(bubblePolicy)
		if err := b.daemon.Reload(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if b.share("v1") != 10000 {
			t.Errorf("v1 gets %d", b.share("v1"))
		}
	})
}

// A policy comes back while its service is being deleted on a disk that hangs.
func TestAPolicyComesBackDuringADeletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 1, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.orphaned()
		thaw := b.freeze()
		if err := b.daemon.Delete(t.Context(), "shop", "ann"); err == nil {
			t.Error("deleted on a disk that hangs")
		}
		b.write(bubblePolicy)
		b.unstored(b.daemon.Reload(t.Context(), "test"))
		if _, _, err := b.daemon.Announce(t.Context(), "shop", rollout.Announced{Version: "v7", Endpoints: []string{"10.0.0.9:80"}}); err == nil || !strings.Contains(err.Error(), "being removed") {
			t.Errorf("%v", err)
		}
		if b.share("v1") != 10000 {
			t.Errorf("v1 gets %d before the deletion is stored", b.share("v1"))
		}
		thaw()
		time.Sleep(3 * time.Second)
		s, err := b.daemon.Service(t.Context(), "shop")
		if err != nil || s.State.Stable != "v1" || b.share("v1") != 10000 {
			t.Errorf("%v, stable %q, v1 gets %d", err, s.State.Stable, b.share("v1"))
		}
	})
}

// A policy file that cannot be read to its end (here a pipe without a writer) holds up a reload, and
// nothing else.
func TestAHangingPolicyFileHoldsUpNothing(t *testing.T) {
	b := &bubble{t: t, dir: t.TempDir(), dialer: &dialer{}, disk: &disk{}}
	b.write(bubblePolicy)
	b.start()
	defer func() { b.stop() }()
	pipe := filepath.Join(b.dir, "z.yml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.daemon.Reload(t.Context(), "test") }()
	for range 20 {
		begin := time.Now()
		if _, err := b.daemon.Service(t.Context(), "shop"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 30*time.Second { // the pipe would hold it up for ever
			t.Fatalf("the loop was held up for %s", took)
		}
		time.Sleep(10 * time.Millisecond)
	}
	select {
	case err := <-done:
		t.Fatalf("the pipe was read: %v", err)
	default:
	}
	if err := os.WriteFile(pipe, []byte("service: pay\n"), 0o600); err != nil { // its writer comes
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := b.daemon.Service(t.Context(), "pay"); err != nil {
		t.Error(err)
	}
}

// Other services of a file, and of a reload, hear nothing of an edit.
func TestAnEditIsHeardByItsServiceOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy+"---\n"+strings.Replace(bubblePolicy, "shop", "pay", 1), 1, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		state := func(service string) string {
			s, err := b.daemon.Service(t.Context(), service)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := json.Marshal(s.State)
			if err != nil {
				t.Fatal(err)
			}
			return string(raw)
		}
		shop, pay := state("shop"), state("pay")
		b.write(bubblePolicy + "---\n" + strings.Replace(bubblePolicy, "shop", "pay", 1) + "ramp: {hold: 7s}\n")
		if err := b.daemon.Reload(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		if state("shop") != shop || state("pay") == pay {
			t.Errorf("shop changed: %v, pay changed: %v", state("shop") != shop, state("pay") != pay)
		}
	})
}

// While the disk hangs the Envoys serve what is stored, whatever was decided since: what they give traffic
// can be aborted, what a promotion superseded loses its traffic, and no promotion ends a judgement.
func TestWhatIsServedCanBeCutWhileTheDiskHangs(t *testing.T) {
	hang := func(name, policyText string, story func(b *bubble, bad *sync.Map, command func(verb, version string) error)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var bad sync.Map
				b := newBubble(t, policyText, 2, failing(&bad))
				time.Sleep(3 * time.Second)
				b.announce("v2")
				time.Sleep(5 * time.Second)
				story(b, &bad, func(verb, version string) error {
					_, _, err := b.daemon.Command(b.t.Context(), "shop", rollout.Commanded{Verb: verb, Version: version, By: "ann"})
					return err
				})
			})
		})
	}
	hang("the way back is not stored", tenPercent, func(b *bubble, _ *sync.Map, command func(verb, version string) error) {
		if err := command("promote", "v2"); err != nil {
			b.t.Fatal(err)
		}
		thaw := b.freeze()
		defer thaw()
		if err := command("promote", "v1"); err != nil || b.share("v2") != 0 || b.share("v1") != 20000 {
			b.t.Errorf("%v: v1 gets %d, v2 %d", err, b.share("v1"), b.share("v2"))
		}
	})
	hang("it was superseded", tenPercent, func(b *bubble, bad *sync.Map, command func(verb, version string) error) {
		b.announce("v3")
		thaw := b.freeze()
		defer thaw()
		if err := command("promote", "v3"); err == nil {
			b.t.Error("promoted on a disk that hangs")
		}
		bad.Store("v2", true)
		b.never("v2", time.Minute)
	})
	hang("it would be promoted", bubblePolicy+"ramp: {steps: [10%, 100%], hold: 10s}\njudge: {clump: 1, promote_within: {ratio: 2, margin: 1%}}\n", func(b *bubble, bad *sync.Map, _ func(verb, version string) error) {
		thaw := b.freeze()
		defer thaw()
		time.Sleep(5 * time.Minute)
		if v := b.version("v2"); v.Phase != rollout.Canary || !strings.Contains(v.Verdict.Reason, "waits for the disk") {
			b.t.Errorf("v2 is %s: %+v", v.Phase, v.Verdict)
		}
		bad.Store("v2", true)
		b.until("v2", rollout.Failed, 20*time.Second)
		time.Sleep(time.Second)
		b.never("v2", time.Minute)
	})
}

// A service is deleted on a disk that hangs: until that is stored its canary is judged, and can be aborted.
func TestWhatIsBeingDeletedIsStillJudged(t *testing.T) {
	for _, how := range []string{"judged", "aborted"} {
		synctest.Test(t, func(t *testing.T) {
			var bad sync.Map
			b := newBubble(t, tenPercent, 2, failing(&bad))
			time.Sleep(3 * time.Second)
			b.announce("v2")
			time.Sleep(5 * time.Second)
			b.orphaned()
			thaw := b.freeze()
			var unstored *NotStoredError
			if err := b.daemon.Delete(t.Context(), "shop", "ann"); !errors.As(err, &unstored) {
				t.Fatalf("deleted on a disk that hangs: %v", err)
			}
			if b.share("v2") != 2000 {
				t.Fatalf("v2 gets %d before the deletion is stored", b.share("v2"))
			}
			if how == "judged" {
				bad.Store("v2", true)
				b.until("v2", rollout.Failed, 10*time.Second)
			} else if s, _, err := b.daemon.Command(t.Context(), "shop", rollout.Commanded{Verb: "abort", Version: "v2"}); err != nil || s.Stored {
				t.Fatalf("abort: %v, stored %v", err, s.Stored)
			}
			time.Sleep(200 * time.Millisecond)
			if b.share("v2") != 0 || b.share("v1") != 20000 {
				t.Errorf("%s: v1 gets %d, v2 %d", how, b.share("v1"), b.share("v2"))
			}
			thaw()
			time.Sleep(3 * time.Second)
			var unknown *UnknownError
			if _, err := b.daemon.Service(t.Context(), "shop"); !errors.As(err, &unknown) {
				t.Errorf("%s: it is not removed: %v", how, err)
			}
			h, err := b.daemon.History(t.Context(), "shop", 100)
			if err != nil || !slices.ContainsFunc(h, func(e Entry) bool { return e.Kind.Cut() && e.Version == "v2" }) {
				t.Errorf("%s: the history does not have the cut: %v %v", how, h, err)
			}
		})
	}
}

// A reload answers when what it changed is stored.
func TestAReloadIsStoredOrSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 1, world.Traffic{Service: "shop", PerSecond: 10, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		thaw := b.freeze()
		if err := b.daemon.Reload(t.Context(), "test"); err != nil {
			t.Errorf("nothing changed: %v", err)
		}
		b.write(bubblePolicy + "ramp: {hold: 7s}\n")
		b.unstored(b.daemon.Reload(t.Context(), "test"))
		thaw()
		time.Sleep(time.Second)
		b.write(bubblePolicy + "ramp: {hold: 8s}\n")
		if err := b.daemon.Reload(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		h, err := b.db.History("shop", 1)
		if err != nil || len(h) != 1 || !strings.Contains(string(h[0]), `"policy"`) {
			t.Errorf("answered before it was stored: %s %v", h, err)
		}
	})
}

// Whoever asked for a reload goes away while the loop is busy: what was read is not lost.
func TestAnEditIsNotLostWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 1, world.Traffic{Service: "shop", PerSecond: 10, ErrorRate: steady(nil)})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = b.daemon.WatchFiles(ctx, nil, 5*time.Second) }()
		time.Sleep(3 * time.Second)
		busy := make(chan struct{})
		go func() { _ = b.daemon.do(ctx, func() { <-busy }) }()
		synctest.Wait()
		b.write(bubblePolicy + "ramp: {hold: 7s}\n")
		patience, end := context.WithTimeout(ctx, time.Second)
		defer end()
		if err := b.daemon.Reload(patience, "ann"); err == nil {
			t.Fatal("reloaded by a loop that is busy")
		}
		close(busy)
		time.Sleep(6 * time.Second)
		s, err := b.daemon.Service(ctx, "shop")
		if err != nil || s.State.Policy.Ramp.Hold.Std() != 7*time.Second {
			t.Errorf("%v, hold %s", err, s.State.Policy.Ramp.Hold)
		}
	})
}

// A policy file that cannot be read for a moment is read again, though it looks the same.
func TestAFileThatCannotBeReadIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 1, world.Traffic{Service: "shop", PerSecond: 10, ErrorRate: steady(nil)})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		time.Sleep(3 * time.Second)
		file := filepath.Join(b.dir, "pay.yml")
		if err := os.Mkdir(file, 0o755); err != nil { // reading a directory fails, for root as well
			t.Fatal(err)
		}
		if err := b.daemon.Reload(ctx, "test"); err == nil {
			t.Fatal("a directory was read")
		}
		if !b.daemon.filesChanged(ctx, false) {
			t.Error("it is not looked at again")
		}
	})
}

// The database is lost, and the disk takes no new one: the Envoys keep the route that they have.
func TestANewServiceIsHeldUntilItIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 2, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.stop()
		if err := os.Remove(filepath.Join(b.dir, "canaryd.db")); err != nil {
			t.Fatal(err)
		}
		b.disk.set(0, errDiskFull)
		b.start()
		time.Sleep(30 * time.Second)
		if b.share("v1") != 20000 {
			t.Errorf("v1 gets %d while nothing can be stored", b.share("v1"))
		}
		b.disk.set(0, nil)
		time.Sleep(3 * time.Second)
		if b.share("v1") != 20000 {
			t.Errorf("v1 gets %d", b.share("v1"))
		}
		b.announce("v2")
		b.until("v2", rollout.Canary, time.Minute)
	})
}

// A write is durable, and fails all the same: what it recorded is in the history once, and is told once.
func TestAWriteThatFailsAfterItIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 1, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		told, err := b.daemon.Listen(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		b.disk.mu.Lock()
		b.disk.fails, b.disk.takes = errors.New("the last sync failed"), true
		b.disk.mu.Unlock()
		_, _, err = b.daemon.Announce(ctx, "shop", rollout.Announced{Version: "v2", Endpoints: []string{"10.0.0.9:80"}, By: "ci"})
		b.unstored(err) // it is there, and nobody knows whether it is on the disk
		time.Sleep(10 * time.Second)
		select {
		case e := <-told:
			t.Errorf("told, and not known to be on the disk: %+v", e)
		default:
		}
		b.disk.set(0, nil)
		time.Sleep(3 * time.Second)
		if b.share("v2") != 1000 {
			t.Errorf("v2 gets %d", b.share("v2"))
		}
		h, err := b.daemon.History(ctx, "shop", 100)
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[rollout.Kind]int{}
		for i, e := range h[1:] {
			if kinds[e.Kind]++; kinds[e.Kind] > 1 {
				t.Errorf("twice in the history: %+v", e)
			}
			select {
			case got := <-told:
				if got.Kind != e.Kind || got.cursor != uint64(i)+2 {
					t.Errorf("told %s with cursor %d, want %s with %d", got.Kind, got.cursor, e.Kind, i+2)
				}
			default:
				t.Errorf("%s is not told", e.Kind)
			}
			synctest.Wait()
		}
	})
}

// An older copy of the database is restored: who listened to the newer one hears what is new.
func TestAListenerOutlivesARestoredCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 0, world.Traffic{Service: "shop"})
		told, err := b.daemon.Listen(t.Context(), "1000")
		if err != nil {
			t.Fatal(err)
		}
		b.announce("v2")
		select {
		case e := <-told:
			if e.Version != "v2" {
				t.Errorf("%+v", e)
			}
		case <-time.After(time.Minute):
			t.Error("it hears nothing")
		}
	})
}

// Commands that were answered are not kept while the disk hangs.
func TestAnsweredCommandsAreNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 0, world.Traffic{Service: "shop"})
		b.announce("v2")
		b.freeze()
		for range 20 {
			for _, verb := range []string{"pause", "resume"} {
				_, _, err := b.daemon.Command(t.Context(), "shop", rollout.Commanded{Verb: verb, Version: "v2"})
				b.unstored(err)
			}
		}
		waiting := -1
		if err := b.daemon.do(t.Context(), func() { waiting = len(b.daemon.units["shop"].waiting) }); err != nil || waiting != 0 {
			t.Errorf("%d commands wait, %v", waiting, err)
		}
	})
}

// A person goes back to a version that the Envoys do not have any more, on a disk that hangs: what they serve stays
// until the promotion is stored and the old version is there.
func TestTheReturnToARetiredVersionLeavesNobodyWithoutARoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy+"after_promotion: {watch: 5s}\n", 2, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		hand := func(verb, version string) error {
			_, _, err := b.daemon.Command(t.Context(), "shop", rollout.Commanded{Verb: verb, Version: version, By: "ann"})
			return err
		}
		if err := hand("promote", "v2"); err != nil {
			t.Fatal(err)
		}
		b.until("v1", rollout.Retired, time.Minute)
		time.Sleep(5 * time.Second)
		thaw := b.freeze()
		b.unstored(hand("promote", "v1"))
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			if n := b.share("v1") + b.share("v2"); n != 20000 {
				t.Fatalf("v1 gets %d, v2 %d", b.share("v1"), b.share("v2"))
			}
		}
		thaw()
		time.Sleep(3 * time.Second)
		if b.share("v1") != 20000 {
			t.Errorf("v1 gets %d, v2 %d", b.share("v1"), b.share("v2"))
		}
	})
}

// canaryd is told to end while a cut is out that is not stored, and the write under way fails: the cut is tried again.
func TestAStopTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bad sync.Map
		b := newBubble(t, tenPercent, 2, failing(&bad))
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(5 * time.Second)
		thaw := b.freeze()
		time.Sleep(6 * time.Second) // a checkpoint is under way
		bad.Store("v2", true)
		b.until("v2", rollout.Failed, 10*time.Second)
		time.Sleep(time.Second)
		b.disk.set(0, errors.New("input/output error"))
		go func() {
			time.Sleep(20 * time.Second)
			thaw()
			time.Sleep(100 * time.Millisecond)
			b.disk.set(0, nil)
		}()
		b.stop()
		b.start()
		b.never("v2", 10*time.Second)
		if v := b.version("v2"); v.Phase != rollout.Failed {
			t.Errorf("v2 is %s after the restart", v.Phase)
		}
	})
}

// The first answer to a reload was that it is not stored; the second says no more.
func TestAReloadIsStoredTheSecondTimeAsWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 1, world.Traffic{Service: "shop", PerSecond: 10, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.freeze()
		b.write(bubblePolicy + "ramp: {hold: 7s}\n")
		b.unstored(b.daemon.Reload(t.Context(), "test"))
		b.unstored(b.daemon.Reload(t.Context(), "test"))
	})
}

// A service is given another name, on the listener that it has: its old self would lose its users, so nothing changes.
func TestARenamedServiceTakesNothingFromItsOldSelf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listening := strings.Replace(bubblePolicy, `probe: "off"`, `probe: "off", listener: "0.0.0.0:10000"`, 1)
		b := newBubble(t, listening, 1, world.Traffic{Service: "shop", PerSecond: 10, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.write(strings.Replace(listening, "shop", "store", 1))
		err := b.daemon.Reload(t.Context(), "test")
		if err == nil || !strings.Contains(err.Error(), "listener 0.0.0.0:10000 still belongs to service shop") || !strings.Contains(err.Error(), "canaryd remove shop") {
			t.Fatalf("%v", err)
		}
		if s, err := b.daemon.Service(t.Context(), "shop"); err != nil || s.State.Orphaned || b.share("v1") != 10000 {
			t.Errorf("orphaned %v, %v, v1 gets %d", s.State.Orphaned, err, b.share("v1"))
		}
		b.orphaned() // as the words say
		if err := b.daemon.Delete(t.Context(), "shop", "ann"); err != nil {
			t.Fatal(err)
		}
		b.write(strings.Replace(listening, "shop", "store", 1))
		if err := b.daemon.Reload(t.Context(), "test"); err != nil {
			t.Error(err)
		}
	})
}

// On a disk that hangs a person goes back to a version that the Envoys do not have. What they serve meanwhile can be
// cut, and left for another one that they have.
func TestWhoFleesInVainCanStillCut(t *testing.T) {
	for _, how := range []string{"abort", "promote"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBubble(t, bubblePolicy+"after_promotion: {watch: 1s}\n", 2, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
			time.Sleep(3 * time.Second)
			hand := func(verb, version string) (Service, error) {
				s, _, err := b.daemon.Command(t.Context(), "shop", rollout.Commanded{Verb: verb, Version: version, By: "ann"})
				return s, err
			}
			must := func(verb, version string) Service {
				t.Helper()
				s, err := hand(verb, version)
				if err != nil {
					t.Fatalf("%s %s: %v", verb, version, err)
				}
				return s
			}
			for _, v := range []string{"v2", "v3"} {
				b.announce(v)
				must("promote", v)
				time.Sleep(5 * time.Second)
			}
			b.write(bubblePolicy + "after_promotion: {watch: 1h}\n")
			if err := b.daemon.Reload(t.Context(), "test"); err != nil {
				t.Fatal(err)
			}
			b.announce("v4")
			must("promote", "v4")
			time.Sleep(5 * time.Second)
			if p := b.version("v2").Phase; p != rollout.Retired || b.version("v3").Phase != rollout.Warm {
				t.Fatalf("v2 is %s, v3 %s", p, b.version("v3").Phase)
			}
			b.freeze()
			_, err := hand("promote", "v2")
			b.unstored(err)
			if b.share("v4") != 20000 {
				t.Fatalf("v4 gets %d: nobody else is there", b.share("v4"))
			}
			if how == "abort" {
				if s := must("abort", "v4"); s.Stored {
					t.Error("stored on a disk that hangs")
				}
			} else if s := must("promote", "v3"); s.Stored {
				t.Error("stored on a disk that hangs")
			}
			time.Sleep(200 * time.Millisecond)
			if b.share("v4") != 0 || b.share("v3") != 20000 {
				t.Errorf("%s: v3 gets %d, v4 %d", how, b.share("v3"), b.share("v4"))
			}
			b.never("v4", 20*time.Second)
		})
	}
}

// A service is removed, its policy comes back, and the disk takes nothing more: until the new service is stored the old
// one is judged, and can be aborted.
func TestAServiceThatBeginsAnewIsJudgedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bad sync.Map
		b := newBubble(t, tenPercent, 2, failing(&bad))
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(5 * time.Second)
		b.orphaned()
		thaw := b.freeze()
		b.unstored(b.daemon.Delete(t.Context(), "shop", "ann"))
		b.write(tenPercent)
		b.unstored(b.daemon.Reload(t.Context(), "test"))
		b.disk.mu.Lock()
		b.disk.lasts = 1
		b.disk.mu.Unlock()
		thaw() // the removal is stored, and nothing else
		bad.Store("v2", true)
		b.until("v2", rollout.Failed, 10*time.Second)
		time.Sleep(200 * time.Millisecond)
		if b.share("v2") != 0 || b.share("v1") != 20000 {
			t.Errorf("v1 gets %d, v2 %d", b.share("v1"), b.share("v2"))
		}
		b.disk.set(0, nil)
		time.Sleep(5 * time.Second)
		s, err := b.daemon.Service(t.Context(), "shop")
		if err != nil || s.State.Version("v2") != nil || !s.Stored || b.share("v1") != 20000 {
			t.Errorf("%v, v2 %v, stored %v, v1 gets %d", err, s.State.Version("v2"), s.Stored, b.share("v1"))
		}
		h, err := b.daemon.History(t.Context(), "shop", 100)
		if err != nil {
			t.Fatal(err)
		}
		removed := 0
		for _, e := range h {
			if e.Kind == rollout.KindRemoved {
				removed++
			}
		}
		if last := h[len(h)-1]; removed != 1 || last.Kind != rollout.KindAnnounced || last.By != "the policy is back" {
			t.Errorf("%d removals, then %+v", removed, last)
		}
	})
}

// canaryd promotes just as the disk begins to hang. The Envoys still give the canary its share, and it fails: it is cut,
// and not served when the disk answers again.
func TestAPromotionIntoAHangIsWithdrawn(t *testing.T) {
	for _, early := range []time.Duration{500 * time.Millisecond, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			var bad sync.Map
			b := newBubble(t, bubblePolicy+"ramp: {steps: [10%, 100%], hold: 20s}\njudge: {clump: 1, promote_within: {ratio: 3, margin: 5%}}\n", 2, failing(&bad))
			time.Sleep(3 * time.Second)
			b.announce("v2")
			begin := time.Now()
			b.until("v2", rollout.Stable, time.Minute)
			took := time.Since(begin)
			b.announce("v3")
			time.Sleep(took - early)
			if b.version("v3").Phase != rollout.Canary {
				t.Fatal("v3 is through already")
			}
			thaw := b.freeze()
			time.Sleep(early + 2*time.Second)
			promoted := b.version("v3").Phase == rollout.Stable
			if b.share("v3") != 2000 {
				t.Fatalf("v3 gets %d", b.share("v3"))
			}
			bad.Store("v3", true)
			b.until("v3", rollout.Failed, 10*time.Second)
			time.Sleep(200 * time.Millisecond)
			b.never("v3", time.Minute)
			b.disk.set(0, errDiskFull)
			thaw()
			b.never("v3", 5*time.Second)
			b.disk.set(0, nil)
			b.never("v3", 5*time.Second)
			s, err := b.daemon.Service(t.Context(), "shop")
			if err != nil || s.State.Stable != "v2" || !s.Stored || b.share("v2") != 20000 {
				t.Errorf("%v, stable %s, stored %v, v2 gets %d", err, s.State.Stable, s.Stored, b.share("v2"))
			}
			if want := early < time.Second; promoted != want {
				t.Errorf("frozen %s before it would be: promoted %v", early, promoted)
			}
			if got := b.told("v3"); !slices.Equal(got, []rollout.Kind{rollout.KindAnnounced, rollout.KindStarted, rollout.KindRolledBack}) {
				t.Errorf("frozen %s before: told %v", early, got)
			}
		})
	}
}

// The directory of the policies is away, as a file system that is not mounted: no service loses its policy.
func TestADirectoryThatIsAwayOrphansNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 1, world.Traffic{Service: "shop", PerSecond: 10, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		aside := b.dir + "-aside"
		if err := os.Rename(b.dir, aside); err != nil {
			t.Fatal(err)
		}
		if err := b.daemon.Reload(t.Context(), "test"); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("%v", err)
		}
		if s, err := b.daemon.Service(t.Context(), "shop"); err != nil || s.State.Orphaned {
			t.Errorf("%v, orphaned %v", err, s.State.Orphaned)
		}
		if err := os.Rename(aside, b.dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(b.dir, "shop.yml")); err != nil { // a person removes it
			t.Fatal(err)
		}
		if err := b.daemon.Reload(t.Context(), "test"); err != nil {
			t.Error(err)
		}
		if s, err := b.daemon.Service(t.Context(), "shop"); err != nil || !s.State.Orphaned {
			t.Errorf("%v, orphaned %v", err, s.State.Orphaned)
		}
	})
}

// A canary is sent back into the line on a disk that hangs, by the lead's next step or by an edit: it loses what the
// Envoys give it, because nobody judges it there.
func TestWhoIsSentBackIntoAHangIsNotServed(t *testing.T) {
	for _, how := range []string{"the lead needs the room", "an edit"} {
		synctest.Test(t, func(t *testing.T) {
			text := bubblePolicy + "ramp: {steps: [10%, 85%, 100%], hold: 20s, canaries: 2}\njudge: {clump: 1}\n"
			b := newBubble(t, text, 2, world.Traffic{Service: "shop", PerSecond: 500, ErrorRate: steady(nil)})
			time.Sleep(3 * time.Second)
			b.announce("v2")
			time.Sleep(5 * time.Second)
			b.announce("v3")
			time.Sleep(8 * time.Second)
			if b.share("v3") != 2000 {
				t.Fatalf("v3 gets %d", b.share("v3"))
			}
			b.freeze()
			if how == "an edit" {
				b.write(strings.Replace(text, "canaries: 2", "canaries: 1", 1))
				b.unstored(b.daemon.Reload(t.Context(), "test"))
			}
			b.until("v3", rollout.Queued, 2*time.Minute)
			time.Sleep(200 * time.Millisecond)
			if b.share("v3") != 0 {
				t.Errorf("%s: v3 gets %d", how, b.share("v3"))
			}
		})
	}
}

// What was cut since a promotion that is withdrawn stays cut, and what decides nothing does not end the judgement of what
// was promoted.
func TestAWithdrawnPromotionBringsNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rates sync.Map
		b := newBubble(t, bubblePolicy+"ramp: {steps: [10%, 100%], hold: 20s}\njudge: {clump: 1, promote_within: {ratio: 3, margin: 5%}}\n", 2, world.Traffic{Service: "shop", PerSecond: 500,
			ErrorRate: func(v string, _ time.Time) float64 {
				r, _ := rates.LoadOrStore(v, 0.0)
				return r.(float64)
			}})
		rates.Store("v1", 0.05)
		time.Sleep(3 * time.Second)
		b.announce("v3") // cleaner than stable
		time.Sleep(12 * time.Second)
		rates.Store("v4", 0.05)
		b.announce("v4") // as stable
		for b.version("v3").Phase == rollout.Canary {
			if v := b.version("v3"); v.Judge.Proven(&v.Config) && !v.WeightSince.IsZero() && time.Since(v.WeightSince) > 19*time.Second {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		thaw := b.freeze()
		b.until("v3", rollout.Stable, 10*time.Second)
		_, _, err := b.daemon.Announce(t.Context(), "shop", rollout.Announced{Version: "v5", Endpoints: []string{"10.0.0.9:80"}, By: "ci"})
		b.unstored(err)
		b.until("v4", rollout.Failed, 5*time.Minute) // against v3
		rates.Store("v3", 1.0)
		b.until("v3", rollout.Failed, 20*time.Second)
		if p := b.version("v4").Phase; p != rollout.Failed {
			t.Errorf("v4, which was cut, is %s", p)
		}
		b.never("v4", 10*time.Second)
		thaw()
		b.never("v4", 20*time.Second)
		b.never("v3", time.Second)
	})
}

// The way back did not answer for a moment, so that its control share was taken from it, and answers again: on a disk that
// hangs all the while everything goes back to it.
func TestTheHeirThatWasAwayForAMomentTakesOver(t *testing.T) {
	at := answering(t) // outside of the bubble, where time does not wait for who waits for a connection
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, "service: shop\nversions: [{version: v1, endpoints: [\""+at+"\"], stable: true}]\nafter_promotion: {watch: 1h, control: 10%}\n", 2,
			world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		if _, _, err := b.daemon.Announce(t.Context(), "shop", rollout.Announced{Version: "v2", Endpoints: []string{at}}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.hand("promote", "v2"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		b.serves(map[string]uint32{"v1": 2000, "v2": 18000})
		thaw := b.freeze()
		b.daemon.probes <- probed{"shop", rollout.Probed{At: time.Now(), Version: "v1"}}
		time.Sleep(200 * time.Millisecond)
		b.serves(map[string]uint32{"v2": 20000})
		if !b.version("v1").Reachable {
			t.Fatal("v1 does not answer")
		}
		if s, err := b.hand("abort", "v2"); err != nil || s.Stored {
			t.Errorf("%v, stored %v", err, s.Stored)
		}
		b.serves(map[string]uint32{"v1": 20000})
		b.never("v2", 10*time.Second)
		thaw()
		b.never("v2", 3*time.Second)
		b.serves(map[string]uint32{"v1": 20000})
	})
}

// A person aborts the way back on a disk that hangs, and promotes it all the same. That it was ended stays out; so
// what the Envoys serve goes on until the promotion is stored.
func TestAnEndedHeirWaitsForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy+"after_promotion: {watch: 1h, control: 10%}\n", 2, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		if _, err := b.hand("promote", "v2"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		thaw := b.freeze()
		if s, err := b.hand("abort", "v1"); err != nil || s.Stored {
			t.Errorf("%v, stored %v", err, s.Stored)
		}
		_, err := b.hand("promote", "v1")
		b.unstored(err)
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			b.serves(map[string]uint32{"v2": 20000})
		}
		thaw()
		time.Sleep(3 * time.Second)
		b.serves(map[string]uint32{"v1": 20000})
	})
}
