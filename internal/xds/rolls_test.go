package xds

import (
	"io"
	"slices"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

func TestMemberIsFourWords(t *testing.T) {
	if n := unsafe.Sizeof(member{}); n > 32 {
		t.Errorf("a member is %d bytes: there is one for each service of each stream", n)
	}
}

func TestServicesShareWhoHasThem(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	h := NewHub(log)
	nodes := []string{"a", "b", "c"}
	for i := range 100 {
		name := "shop-" + strconv.Itoa(i)
		p := policy.Default()
		p.Service = name
		publish(t, h, rollout.Table{Service: name, Generation: 1, Policy: &p, Stable: "v1", Slots: []rollout.Run{{Version: "v1", Count: policy.FullWeight}}})
		h.Restore(name, []rollout.Crowd{{Version: "0123456789abcdef", Nodes: nodes}})
	}
	for len(h.changed.m) > 0 {
		h.TakeChanges()
	}
	lists := map[*string]bool{}
	for name, s := range h.services {
		if len(s.told.Crowds) != 1 || !slices.Equal(s.told.Crowds[0].Nodes, nodes) {
			t.Fatalf("%s is served by %+v", name, s.told.Crowds)
		}
		lists[&s.told.Crowds[0].Nodes[0]] = true
	}
	if len(lists) != 1 {
		t.Errorf("the same nodes are listed %d times", len(lists))
	}
}

func TestPlacesAreGivenOn(t *testing.T) {
	var p places
	a, b := &session{}, &session{}
	a.place, b.place = p.take(a), p.take(b)
	p.leave(a.place)
	c := &session{}
	if c.place = p.take(c); c.place != a.place || p.taken[c.place] != c || p.taken[b.place] != b || len(p.taken) != 2 {
		t.Errorf("places %+v", p)
	}
}

// Whoever asks for changes leaves the mutex to others for as long as the work was, not as long as he waited for a processor meanwhile.
func TestAPauseAfterChangesIsAsLongAsTheWork(t *testing.T) {
	for _, c := range []struct {
		took   time.Duration
		looked int
		want   time.Duration
	}{
		{50 * time.Microsecond, 10_000, 0},
		{4 * time.Millisecond, 10_000, 36 * time.Millisecond},
		{5 * time.Millisecond, 2, 0},
		{50 * time.Millisecond, 1_000, 18 * time.Millisecond},
	} {
		if got := pauseAfter(c.took, c.looked); got != c.want {
			t.Errorf("after %s for %d: %s, want %s", c.took, c.looked, got, c.want)
		}
	}
}
