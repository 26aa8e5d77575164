package controller

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// asStored compares what is stored of a service with what canaryd knows, where it says that all of that is stored.
func (b *bubble) asStored(service string) (compared bool) {
	b.t.Helper()
	var s rollout.State
	if err := b.daemon.do(b.t.Context(), func() {
		c := b.daemon
		u := c.units[service]
		_, stale := c.stale[u]
		_, unsaved := c.unsaved[u]
		if u.stale && !stale {
			b.t.Fatal("a service that has changed is not among those that have")
		}
		s, compared = u.state, !stale && !unsaved && c.writer.since.IsZero()
	}); err != nil || !compared {
		return false
	}
	states, err := b.db.States()
	if err != nil {
		b.t.Fatal(err)
	}
	again, lost, err := rollout.DecodeParts(states[service].Decided, states[service].Evidence)
	if err != nil || len(lost) > 0 {
		b.t.Fatalf("%v, lost %q", err, lost)
	}
	got, err := rollout.EncodeState(again)
	want, err2 := rollout.EncodeState(s)
	if errors.Join(err, err2) != nil || !bytes.Equal(got, want) {
		b.t.Fatalf("stored is another state than canaryd has (%v):\n%s\n%s", errors.Join(err, err2), got, want)
	}
	return true
}

// A checkpoint stores the evidence alone, beside what was decided earlier; whatever was decided, aborted and cut meanwhile, on a disk that fails now
// and then, both together are what canaryd knows.
func TestACheckpointStoresEvidenceAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bad sync.Map
		b := newBubble(t, tenPercent, 2, failing(&bad))
		time.Sleep(3 * time.Second)
		compared := 0
		watch := func(long time.Duration) {
			for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				if b.asStored("shop") {
					compared++
				}
			}
		}
		b.announce("v2")
		watch(40 * time.Second)
		if b.disk.alone < 5 {
			t.Errorf("of %d saves in 40 s, %d were of evidence alone", b.disk.saves, b.disk.alone)
		}
		b.disk.set(0, errDiskFull)
		watch(10 * time.Second)
		b.disk.set(200*time.Millisecond, nil)
		if _, err := b.hand("pause", "v2"); err != nil {
			t.Fatal(err)
		}
		watch(20 * time.Second)
		if _, err := b.hand("resume", "v2"); err != nil {
			t.Fatal(err)
		}
		b.disk.set(0, nil)
		watch(20 * time.Second)
		bad.Store("v2", true)
		watch(20 * time.Second)
		b.announce("v3")
		watch(40 * time.Second)
		if b.version("v2").Phase != rollout.Failed || b.version("v3").Phase != rollout.Canary {
			t.Errorf("v2 is %s and v3 %s, not failed and canary", b.version("v2").Phase, b.version("v3").Phase)
		}
		if compared < 50 {
			t.Errorf("stored and known could be compared %d times, not 50", compared)
		}
	})
}
