package controller

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
	"github.com/canaryd/canaryd/internal/world"
)

// crash ends the daemon at one write: before it is durable, or after, when nobody has heard of it.
type crash struct {
	at      int // number of the write
	durable bool
	n       atomic.Int32
	dead    atomic.Bool
	gone    chan struct{} // closed when the daemon has ended
}

var errKilled = errors.New("killed")

func (c *crash) save(b *store.Bolt, ws []store.Write) (uint64, error) {
	if c.dead.Load() {
		return 0, errKilled
	}
	if int(c.n.Add(1)) != c.at {
		return b.Save(ws)
	}
	if c.durable {
		if _, err := b.Save(ws); err != nil {
			return 0, err
		}
	}
	c.dead.Store(true)
	<-c.gone // a daemon that is dead does not go on
	return 0, errKilled
}

// drama is what happens to a service, whatever happens to canaryd: a person announces, promotes and
// aborts, and the versions answer as they do.
type drama struct {
	name    string
	rates   map[string]float64
	acts    []act
	lasts   time.Duration
	outcome map[string]rollout.Phase
}

type act struct {
	at            time.Duration
	verb, version string
}

const dramaHold = 5 * time.Second

const dramaPolicy = bubblePolicy + "ramp: {steps: [10%, 30%, 100%], hold: 5s}\njudge: {clump: 1, promote_within: {ratio: 3, margin: 2%}}\nafter_promotion: {watch: 10s}\n"

var dramas = []drama{
	{"a clean release", map[string]float64{}, []act{{3 * time.Second, "announce", "v2"}}, 75 * time.Second,
		map[string]rollout.Phase{"v1": rollout.Retired, "v2": rollout.Stable}},
	{"a failing release", map[string]float64{"v2": 0.5}, []act{{3 * time.Second, "announce", "v2"}}, 35 * time.Second,
		map[string]rollout.Phase{"v1": rollout.Stable, "v2": rollout.Failed}},
	{"several canaries, one aborted, and a way back", map[string]float64{"v3": 0.5},
		[]act{{3 * time.Second, "announce", "v2"}, {4 * time.Second, "announce", "v3"}, {5 * time.Second, "announce", "v4"}, {10 * time.Second, "abort", "v2"}, {17 * time.Second, "promote", "v4"}, {22 * time.Second, "abort", "v4"}},
		32 * time.Second, map[string]rollout.Phase{"v1": rollout.Stable, "v2": rollout.Aborted, "v3": rollout.Failed, "v4": rollout.Aborted}},
}

// canaryd is killed at every write of three stories, before and after it is durable, and started again.
// The outcomes are the same, nothing that was cut comes back, and nothing rises before its time.
func TestKilledAtEveryWrite(t *testing.T) {
	for _, d := range dramas {
		t.Run(d.name, func(t *testing.T) {
			writes := play(t, d, nil)
			if writes < 3 { // of the policy, the announcement, the outcome; a checkpoint may be among them
				t.Fatalf("%d writes", writes)
			}
			for at := 1; at <= writes && !t.Failed(); at++ {
				for _, durable := range []bool{false, true} {
					play(t, d, &crash{at: at, durable: durable, gone: make(chan struct{})})
				}
			}
			t.Logf("killed at %d writes", writes)
		})
	}
}

// stagehand holds what the Envoys serve against the rules.
type stagehand struct {
	*bubble
	what  string
	since map[string]time.Time // present weight
	had   map[string]uint32
	ended map[string]bool // seen as failed or aborted by who asked
}

// play runs one story and returns the number of writes.
func play(t *testing.T, d drama, kill *crash) (writes int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, dramaPolicy, 2, world.Traffic{Service: "shop", PerSecond: 300, ErrorRate: steady(d.rates)})
		what := "not killed"
		if kill != nil {
			kill.gone = make(chan struct{})
			b.disk.mu.Lock()
			b.disk.crash = kill
			b.disk.mu.Unlock()
			what = fmt.Sprintf("killed at write %d, durable: %v", kill.at, kill.durable)
		}
		s := &stagehand{bubble: b, what: what, since: map[string]time.Time{}, had: map[string]uint32{}, ended: map[string]bool{}}
		acts, begin := d.acts, time.Now()
		var under chan bool // the act that is under way: its answer may take two seconds
		for time.Since(begin) < d.lasts {
			time.Sleep(10 * time.Millisecond)
			if kill != nil && kill.dead.Load() && kill.at > 0 {
				s.restart(kill)
				kill.at = 0
			}
			select {
			case done := <-under:
				if under = nil; done {
					acts = acts[1:]
				}
			default:
			}
			if under == nil && len(acts) > 0 && time.Since(begin) >= acts[0].at {
				under = s.does(acts[0])
			}
			s.look()
		}
		s.phases(d.outcome)
		b.disk.mu.Lock()
		writes, b.disk.crash = b.disk.saves, nil
		b.disk.mu.Unlock()
		if kill != nil && kill.dead.Load() && kill.at > 0 { // at the very end
			s.daemon.patience = 0
			close(kill.gone)
		}
	})
	return writes
}

func (s *stagehand) restart(kill *crash) {
	go func() { time.Sleep(time.Millisecond); close(kill.gone) }()
	s.daemon.patience = 0 // who is killed tries nothing again
	s.stop()
	s.disk.mu.Lock()
	s.disk.crash = nil
	s.disk.mu.Unlock()
	s.wait(500 * time.Millisecond)
	s.start()
	s.wait(1500 * time.Millisecond) // the Envoys come back
}

// wait lets time pass with an eye on the Envoys.
func (s *stagehand) wait(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		s.watch(nil)
	}
}

// does carries out an act; false: it was not stored, and whoever wanted it tries again.
func (s *stagehand) does(a act) chan bool {
	daemon, answer := s.daemon, make(chan bool, 1)
	go func() {
		ctx, cancel := context.WithTimeout(s.t.Context(), 3*time.Second) // a daemon that has ended answers nothing
		defer cancel()
		var err error
		stored := true
		if a.verb == "announce" {
			_, _, err = daemon.Announce(ctx, "shop", rollout.Announced{Version: a.version, Endpoints: []string{"10.0.0.9:80"}, By: "ci"})
		} else {
			var svc Service
			svc, _, err = daemon.Command(ctx, "shop", rollout.Commanded{Verb: a.verb, Version: a.version, By: "ann"})
			stored = svc.Stored
		}
		var done *rollout.Refusal
		answer <- err == nil && stored || errors.As(err, &done) // carried out by the try before
	}()
	return answer
}

// look asks canaryd what is decided, and holds it against what the Envoys serve.
func (s *stagehand) look() {
	svc, err := s.daemon.Service(s.t.Context(), "shop")
	if err != nil {
		s.t.Fatalf("%s: %v", s.what, err)
	}
	byHand := map[string]bool{}
	for _, v := range svc.State.Versions {
		if svc.Stored && (v.Phase == rollout.Failed || v.Phase == rollout.Aborted) && time.Since(v.EndedAt) > time.Second {
			s.ended[v.Name] = true
		}
		byHand[v.Name] = v.Verdict.Reason == "promoted by hand"
	}
	s.watch(byHand)
}

// watch holds that what is stored as cut gets nothing, and that nothing rises before its time.
func (s *stagehand) watch(byHand map[string]bool) {
	serves := map[string]uint32{}
	for _, e := range s.fleet {
		for v, n := range e.Weights() {
			serves[v] = max(serves[v], n)
		}
	}
	for _, v := range []string{"v2", "v3", "v4"} {
		had, n := s.had[v], serves[v]
		if s.ended[v] && n > 0 {
			s.t.Fatalf("%s: %s was cut and is served to %d", s.what, v, n)
		}
		if held := time.Since(s.since[v]); n > had && had > 0 && !byHand[v] && held < dramaHold-10*time.Millisecond { // it looks every 10 ms
			s.t.Fatalf("%s: %s rose from %d to %d after %s", s.what, v, had, n, held)
		}
		if n != had {
			s.had[v], s.since[v] = n, time.Now()
		}
	}
}

func (s *stagehand) phases(want map[string]rollout.Phase) {
	for v, p := range want {
		if got := s.version(v).Phase; got != p {
			s.t.Errorf("%s: %s is %s, want %s: %+v", s.what, v, got, p, s.version(v).Verdict)
		}
	}
}
