package controller

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
	"github.com/canaryd/canaryd/internal/world"
)

// replayed takes the journal of the service again.
func (b *bubble) replayed() *journal.Replay {
	b.t.Helper()
	rd, err := journal.NewReader()
	if err != nil {
		b.t.Fatal(err)
	}
	re := &journal.Replay{}
	if err := b.daemon.Journal(b.t.Context(), "shop", time.Time{}, time.Time{}, func(parts [][]byte) error {
		c, broken := rd.Read(parts)
		re.Take(&c, broken)
		return nil
	}); err != nil {
		b.t.Fatal(err)
	}
	re.Finish()
	return re
}

// decided are the decisions of the history since the service was quiet last.
func (b *bubble) decided() (all []string) {
	b.t.Helper()
	lines, err := b.db.History("shop", 1000)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, l := range lines {
		var e Entry
		if err := json.Unmarshal(l, &e); err != nil {
			b.t.Fatal(err)
		}
		raw, err := json.Marshal(e.Record)
		if err != nil {
			b.t.Fatal(err)
		}
		all = append(all, string(raw))
	}
	return all
}

// A release is promoted over restarts, and another one is cut: every decision of the history comes out of the journal, byte
// for byte, and so do the states between.
func TestWhatWasDecidedComesOutOfTheJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy+"ramp: {steps: [10%, 50%, 100%], hold: 20s}\njudge: {clump: 1, promote_within: {ratio: 2, margin: 1%}}\nafter_promotion: {watch: 30s}\n", 2,
			world.Traffic{Service: "shop", PerSecond: 500, ErrorRate: steady(map[string]float64{"v1": 0.001, "v2": 0.001, "v3": 0.012})})
		time.Sleep(3 * time.Second)
		for _, version := range []string{"v2", "v3"} {
			b.announce(version)
			for range 2 {
				time.Sleep(7 * time.Second)
				b.stop()
				time.Sleep(2 * time.Second)
				b.start()
			}
			if version == "v3" {
				b.until(version, rollout.Failed, 10*time.Minute)
				break
			}
			b.until(version, rollout.Stable, 10*time.Minute)
			b.until("v1", rollout.Retired, 10*time.Minute)
			time.Sleep(time.Minute)
		}
		time.Sleep(10 * time.Second)
		re := b.replayed()
		if len(re.Otherwise) > 0 || re.Same != re.Decisions || len(re.Gaps) > 0 || re.Chunks < 4 {
			t.Errorf("%d of %d decisions in %d chunks came out, gaps %v, otherwise %+v", re.Same, re.Decisions, re.Chunks, re.Gaps, re.Otherwise)
		}
		var ends []string
		for _, rel := range re.Releases {
			ends = append(ends, fmt.Sprint(rel.Version, " ", rel.Then.Decided, " ", rel.Whole))
		}
		if want := []string{"v2 promoted true", "v3 rolled_back true"}; !slices.Equal(ends, want) {
			t.Errorf("%q", ends)
		}
		// The history begins with the policy, when nothing is under way.
		history := b.decided()
		if n := len(history) - re.Decisions; n < 0 || n > 2 {
			t.Errorf("%d decisions in the history, %d in the journal", len(history), re.Decisions)
		}
		kept := b.journalled()
		if missing := slices.DeleteFunc(slices.Clone(history), func(line string) bool { return slices.Contains(kept, line) }); len(missing) > 2 {
			t.Errorf("not in the journal: %q", missing)
		}
		if b.version("v3").Verdict.Code != analysis.Worse {
			t.Errorf("%+v", b.version("v3").Verdict)
		}
		b.plots(t)
	})
}

// A tick that changes nothing but the time is in the journal like any other.
func TestTicksAreJournalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 1, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(time.Minute)
		rd, err := journal.NewReader()
		if err != nil {
			t.Fatal(err)
		}
		ticks := 0
		if err := b.daemon.Journal(t.Context(), "shop", time.Time{}, time.Time{}, func(parts [][]byte) error {
			c, err := rd.Read(parts)
			for _, e := range c.Events {
				if _, ok := e.(rollout.Tick); ok {
					ticks++
				}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if ticks < 50 {
			t.Errorf("%d ticks of a minute are in the journal", ticks)
		}
	})
}

func (b *bubble) journalled() (records []string) {
	rd, err := journal.NewReader()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.daemon.Journal(b.t.Context(), "shop", time.Time{}, time.Time{}, func(parts [][]byte) error {
		c, err := rd.Read(parts)
		for _, r := range c.Records {
			records = append(records, string(r))
		}
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	return records
}

// plots checks what is drawn of v2, which was promoted, and v3, which was cut.
func (b *bubble) plots(t *testing.T) {
	for _, version := range []string{"v2", "v3"} {
		v := b.version(version)
		p := &journal.Plot{Service: "shop", Version: version, From: v.AnnouncedAt}
		if err := b.daemon.Evidence(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		e, err := p.Buckets(0)
		if err != nil || len(e.Buckets) < 2 || len(e.Gaps) > 0 { // v3 is cut within seconds
			t.Fatalf("%s: %d buckets, %v (%v)", version, len(e.Buckets), e.Gaps, err)
		}
		decisions, requests, errors, most := 0, 0.0, 0.0, 0.0
		for _, k := range e.Buckets {
			decisions += len(k.Decisions)
			requests, errors, most = requests+k.Requests, errors+k.Errors, max(most, k.Evidence)
		}
		if decisions < 3 || requests > v.Counts.Requests || requests < 0.9*v.Counts.Requests-50 || errors > v.Counts.Errors {
			t.Errorf("%s: %d decisions, %.0f of %.0f requests, %.0f of %.0f errors", version, decisions, requests, v.Counts.Requests, errors, v.Counts.Errors)
		}
		if last := e.Buckets[len(e.Buckets)-1]; version == "v3" && (most < last.Threshold || most < 100 || last.Weight != 0) {
			t.Errorf("v3 was cut at evidence %.3g: %+v", most, last)
		}
	}
}

// The disk hangs, v2 is promoted and cut meanwhile: what was withdrawn is neither in the history nor in the journal.
func TestWhatIsWithdrawnIsNotJournalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bad sync.Map
		b := newBubble(t, tenPercent, 2, failing(&bad))
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(8 * time.Second)
		thaw := b.freeze()
		_, _, err := b.daemon.Command(t.Context(), "shop", rollout.Commanded{Verb: "promote", Version: "v2", By: "ann"})
		b.unstored(err)
		bad.Store("v2", true)
		b.until("v2", rollout.Failed, 10*time.Second)
		thaw()
		time.Sleep(30 * time.Second)
		re := b.replayed()
		if len(re.Otherwise) > 0 || re.Same != re.Decisions {
			t.Errorf("%d of %d decisions came out: %+v", re.Same, re.Decisions, re.Otherwise)
		}
		history := b.decided()
		for _, line := range b.journalled() {
			if !slices.Contains(history, line) {
				t.Errorf("in the journal, and not in the history: %s", line)
			}
		}
	})
}

// A chunk that the disk has changed costs what is in it: canaryd starts, and the rest is read.
func TestABrokenChunkCostsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 2, world.Traffic{Service: "shop", PerSecond: 500, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(20 * time.Second)
		b.stop()
		spoil(t, b.dir)
		b.start()
		time.Sleep(20 * time.Second)
		re := b.replayed()
		if len(re.Otherwise) > 0 || len(re.Gaps) == 0 || re.Events < 20 {
			t.Errorf("gaps %v, %d events, otherwise %+v", re.Gaps, re.Events, re.Otherwise)
		}
		p := &journal.Plot{Service: "shop", Version: "v2"}
		if err := b.daemon.Evidence(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if e, err := p.Buckets(0); err != nil || len(e.Gaps) == 0 || len(e.Buckets) < 3 {
			t.Errorf("%+v %v", e, err)
		}
	})
}

// spoil changes a byte in each part but the first of what is journalled.
func spoil(t *testing.T, dir string) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, "canaryd.db"), os.FileMode(0o600), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(func(tx *bbolt.Tx) error {
		j := tx.Bucket([]byte("journal"))
		n := 0
		return j.ForEach(func(k, v []byte) error {
			if n++; n == 1 {
				return nil
			}
			v = slices.Clone(v)
			v[len(v)/2] ^= 4
			return j.Put(k, v)
		})
	}); err != nil {
		t.Fatal(err)
	}
}

// However long the disk hangs, what waits for it is bounded; the oldest goes, and the journal says so.
func TestWhatWaitsForTheDiskIsBounded(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	u := newUnit(rollout.State{})
	c := &Controller{busy: map[string]*unit{"shop": u}}
	tell := func(e rollout.Event) {
		next, records, err := rollout.Step(u.state, e)
		if err != nil {
			t.Fatal(err)
		}
		before := u.state
		u.state = next
		c.journalled(u, &before, e, records)
	}
	d := readPolicy(t, tenPercent)
	tell(rollout.PolicyChanged{At: at, Policy: d.Policy, Hash: d.Hash})
	tell(rollout.Announced{At: at, Version: "v2", Endpoints: []string{"10.0.0.2:80"}})
	flight, most := []*journal.Part(nil), 0
	for i := range 400 {
		at = at.Add(time.Second)
		e := rollout.Observed{At: at, Batch: time.Second}
		for n := range 1000 {
			e.Cells = append(e.Cells, rollout.Cell{Slice: fmt.Sprint("edge-", n), From: at.Add(-time.Second - time.Duration(n)), To: at, Counts: map[string]analysis.Counts{"v1": {Requests: float64(i * n)}}})
		}
		tell(e)
		if i == 10 { // a write begins, and does not end
			flight = u.scribe.take(&u.state, true)
		}
		most = max(most, u.scribe.held())
	}
	if most > unwrittenOfOne+chunkMost || most < unwrittenOfOne/2 {
		t.Errorf("up to %d bytes waited", most)
	}
	if len(flight) != 1 || !slices.Equal(u.scribe.parts[:1], flight) {
		t.Error("what is being written was let go")
	}
	u.scribe.landed(true, nil)
	re := &journal.Replay{}
	rd, err := journal.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	chunks := map[uint64][][]byte{}
	var order []uint64
	for _, p := range append(flight, u.scribe.take(&u.state, true)...) {
		raw, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if chunks[p.Begin] == nil {
			order = append(order, p.Begin)
		}
		chunks[p.Begin] = append(chunks[p.Begin], raw)
	}
	for _, name := range order {
		chunk, err := rd.Read(chunks[name])
		re.Take(&chunk, err)
	}
	if len(re.Gaps) != 1 || re.Gaps[0].Why != string(journal.Gap) || re.Gaps[0].To.Sub(re.Gaps[0].From) < 100*time.Second || len(re.Otherwise) > 0 || re.Events < 20 {
		t.Errorf("gaps %+v, %d events, otherwise %+v", re.Gaps, re.Events, re.Otherwise)
	}
}

func readPolicy(t *testing.T, text string) policy.Document {
	t.Helper()
	docs, fs := policy.Parse("test.yml", []byte(text))
	if len(fs.Errors()) > 0 {
		t.Fatal(fs)
	}
	return docs[0]
}

// told is a service with a release, whose scribe is told of a tick a second.
func told(t *testing.T) (u *unit, tell func(e rollout.Event)) {
	u = newUnit(rollout.State{})
	c := &Controller{busy: map[string]*unit{"shop": u}}
	tell = func(e rollout.Event) {
		t.Helper()
		next, records, err := rollout.Step(u.state, e)
		if err != nil {
			t.Fatal(err)
		}
		before := u.state
		u.state = next
		c.journalled(u, &before, e, records)
	}
	d := readPolicy(t, tenPercent)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tell(rollout.PolicyChanged{At: at, Policy: d.Policy, Hash: d.Hash})
	tell(rollout.Announced{At: at, Version: "v2", Endpoints: []string{"10.0.0.2:80"}})
	return u, tell
}

// What was withdrawn while no write was under way says nothing of the next write: if that fails, what was in it is kept.
func TestAWriteThatFailsAfterAWithdrawalLosesNothing(t *testing.T) {
	u, tell := told(t)
	at := u.state.At
	for i := range 3 {
		tell(rollout.Tick{At: at.Add(time.Duration(i+1) * time.Second)})
	}
	u.scribe.restart(journal.Withdrawn)
	tell(rollout.Tick{At: at.Add(4 * time.Second)})
	u.scribe.take(&u.state, true)
	u.scribe.landed(false, nil) // the disk is full
	tell(rollout.Tick{At: at.Add(5 * time.Second)})
	var numbers []string
	for _, p := range u.scribe.take(&u.state, true) {
		numbers = append(numbers, fmt.Sprint(p.Number))
	}
	if fmt.Sprint(numbers) != "[0 1]" {
		t.Errorf("parts %v of the chunk are there, not 0 and 1: it cannot be read", numbers)
	}
}

// What is in a write that hangs and was withdrawn stays withdrawn when so much waits behind it that some is let go.
func TestWhatIsWithdrawnStaysSoWhenMoreIsLost(t *testing.T) {
	u, tell := told(t)
	u.scribe.take(&u.state, true) // a write begins, and hangs
	u.scribe.restart(journal.Withdrawn)
	tell(rollout.Tick{At: u.state.At.Add(time.Second)})
	u.scribe.restart(journal.Gap)
	tell(rollout.Tick{At: u.state.At.Add(time.Second)})
	u.scribe.landed(false, nil)
	for _, p := range u.scribe.parts {
		t.Errorf("part %d of chunk %d is to be stored, which was withdrawn", p.Number, p.Begin)
	}
}

// An event that cannot be written costs the chunk that it is in: the decision that rests on it is stored.
func TestAJournalThatCannotBeWrittenHoldsUpNoDecision(t *testing.T) {
	u, tell := told(t)
	tell(rollout.Tick{At: u.state.At.Add(time.Second)})
	j := u.job(true)
	j.parts = append(j.parts, nil) // as where writing one panics
	if err := j.encode(); err != nil || j.write.State == nil {
		t.Errorf("the state is not stored: %v", err)
	}
}

// On a disk that is always busy with evidence what is kept is trimmed all the same.
func TestABusyDiskIsTidied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 2, world.Traffic{Service: "shop", PerSecond: 500, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		b.disk.set(checkpoint+time.Second, nil)
		time.Sleep(20 * time.Second)
		b.disk.mu.Lock()
		saves, tidied := b.disk.saves, b.disk.tidied
		b.disk.mu.Unlock()
		time.Sleep(2 * time.Minute)
		b.disk.mu.Lock()
		defer b.disk.mu.Unlock()
		if saves, tidied = b.disk.saves-saves, b.disk.tidied-tidied; saves < 10 || tidied < 5 {
			t.Errorf("tidied %d times, beside %d writes", tidied, saves)
		}
	})
}

// broken is a store on a disk that has changed what bbolt wrote.
type broken struct{ Store }

func (broken) Tidy(time.Time, store.Limits) (bool, error) { panic("page 7 is not a leaf") }
func (broken) Save([]store.Write) (uint64, error)         { panic("page 7 is not a leaf") }

func TestABrokenPageEndsNobody(t *testing.T) {
	c := &Controller{Options: Options{Store: broken{}, Limits: store.Limits{Pack: journal.Pack}}}
	c.writer = newWriter(c.Store)
	c.tidy(time.Now().Add(time.Hour))
	if r := <-c.writer.done; r.err == nil || !r.tidied {
		t.Errorf("%+v", r)
	}
	if r := save(c.Store, nil, nil, nil); r.err == nil {
		t.Error("stored")
	}
}

// The clock was set back while canaryd was stopped: chunks are still named in the order in which they were written.
func TestChunksAreInOrderAfterTheClockWasSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 2, world.Traffic{Service: "shop", PerSecond: 500, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(20 * time.Second)
		states, err := b.db.States()
		if err != nil {
			t.Fatal(err)
		}
		u, err := b.daemon.restored("shop", states["shop"], time.Now().Add(-time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		b.daemon.do(t.Context(), func() {
			b.daemon.journalled(u, &u.state, rollout.Tick{At: time.Now().Add(-time.Hour)}, nil)
		})
		c, found, err := b.db.Chunk("shop", 0, false)
		if err != nil || !found || u.scribe.w.Name() <= c.Begin {
			t.Errorf("chunk %d is written after chunk %d (%v, %v)", u.scribe.w.Name(), c.Begin, found, err)
		}
	})
}

// A disk that the journal has filled still takes what is decided: that needs no more room than it had.
func TestADiskWithoutRoomForTheJournalTakesDecisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, tenPercent, 1, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.disk.small.Store(true)
		_, _, _ = b.daemon.Announce(t.Context(), "shop", rollout.Announced{Version: "v2", Endpoints: []string{"10.0.0.9:80"}, By: "ci"})
		time.Sleep(10 * time.Second)
		if b.share("v2") != 1000 {
			t.Errorf("v2 gets %d: its announcement waits for the journal", b.share("v2"))
		}
		time.Sleep(30 * time.Second)
		b.disk.small.Store(false)
		time.Sleep(30 * time.Second)
		if re := b.replayed(); len(re.Otherwise) > 0 || re.Same != re.Decisions || len(re.Gaps) > 0 || re.Events < 60 {
			t.Errorf("%+v", re)
		}
	})
}

// A chunk begins with the state before its first event, also where that is encoded much later: reports that come meanwhile change
// nothing of it.
func TestAChunkBeginsWithTheStateBeforeItsFirstEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bad sync.Map
		b := canary(t, tenPercent, &bad)
		time.Sleep(5 * time.Second)
		thaw := b.freeze()
		time.Sleep(2 * checkpoint) // a write hangs by now
		var want []byte
		b.inLoop(func() {
			var err error
			u := b.daemon.units["shop"]
			if want, err = rollout.EncodeState(u.state); err != nil {
				t.Error(err)
			}
			u.scribe.end(&u.state, journal.Continued)
		})
		time.Sleep(3 * time.Second)
		thaw()
		time.Sleep(10 * time.Second)
		rd, err := journal.NewReader()
		if err != nil {
			t.Fatal(err)
		}
		var states []string
		if err := b.daemon.Journal(t.Context(), "shop", time.Time{}, time.Time{}, func(parts [][]byte) error {
			c, err := rd.Read(parts)
			if err != nil {
				return err
			}
			raw, err := rollout.EncodeState(c.State)
			states = append(states, string(raw))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if len(states) < 2 || states[len(states)-1] != string(want) {
			t.Errorf("the last of %d chunks does not begin with\n%s", len(states), want)
		}
	})
}
