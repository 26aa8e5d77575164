package xds

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

func TestStatusesMerge(t *testing.T) {
	node := func(id string, s Standing) NodeStatus {
		return NodeStatus{Node: id, Standing: s, Type: "route", Why: "no"}
	}
	for _, c := range []struct {
		what    string
		a, b    Status
		counts  Counts
		nodes   string
		inForce bool
	}{
		{"two replicas, each with Envoys",
			Status{Generation: 3, Counts: Counts{Applied: 2}}, Status{Generation: 3, Counts: Counts{Applied: 1, Joining: 1}},
			Counts{Applied: 3, Joining: 1}, "", true},
		{"one refuses",
			Status{Generation: 3, Counts: Counts{Applied: 2}}, Status{Generation: 3, Counts: Counts{Refused: 1}, Nodes: []NodeStatus{node("b", Refused)}},
			Counts{Applied: 2, Refused: 1}, "b refused ", false},
		{"one replica has an older table",
			Status{Generation: 3, Counts: Counts{Applied: 2}}, Status{Generation: 2, Counts: Counts{Applied: 5}},
			Counts{Applied: 2, Behind: 5}, "", false},
		{"a replica without Envoys",
			Status{Generation: 3, Counts: Counts{Applied: 2}}, Status{Generation: 2}, Counts{Applied: 2}, "", true},
		{"an Envoy that moved is not gone",
			Status{Generation: 3, Counts: Counts{Gone: 2}, Nodes: []NodeStatus{node("a", Gone), node("b", Gone)}},
			Status{Generation: 3, Counts: Counts{Lagging: 1}, Nodes: []NodeStatus{node("a", Lagging)}},
			Counts{Lagging: 1, Gone: 1}, "a lagging b gone ", false},
	} {
		for _, got := range []Status{c.a.Merge(c.b), c.b.Merge(c.a)} {
			nodes := ""
			for _, n := range got.Nodes {
				nodes += fmt.Sprintf("%s %s ", n.Node, n.Standing)
			}
			if got.Generation != 3 || got.Counts != c.counts || nodes != c.nodes || got.InForce != c.inForce {
				t.Errorf("%s: %+v", c.what, got)
			}
		}
	}
}

// FuzzMerge: in whatever order statuses are merged, the result is the same, and none changes it.
func FuzzMerge(f *testing.F) {
	f.Add([]byte("\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"))
	f.Add([]byte{3, 5, 0, 0, 5, 1, 1, 3, 5, 0, 0, 3, 1, 0, 2, 2, 0, 1, 5, 5, 5})
	f.Fuzz(func(t *testing.T, raw []byte) {
		next := func(n byte) byte {
			if len(raw) == 0 {
				return 0
			}
			b := raw[0]
			raw = raw[1:]
			return b % n
		}
		one := func() Status {
			s := Status{Service: "shop", Generation: uint64(next(3)), Counts: Counts{Applied: int(next(3)), Joining: int(next(2))}}
			for range next(4) {
				n := NodeStatus{Node: string('a' + rune(next(3))), Standing: []Standing{Behind, Lagging, Refused, Gone}[next(4)], Since: time.Unix(int64(next(2)), 0)}
				if n.Standing == Refused {
					n.Type, n.Why = "route", string('x'+rune(next(2)))
				}
				n.Weights = []rollout.Run{{Version: "v1", Count: int(next(2))}}
				s.Counts.add(n.Standing)
				s.Nodes = append(s.Nodes, n)
			}
			for range next(3) {
				s.Lossy = append(s.Lossy, Lossy{Node: string('a' + rune(next(3))), Build: string('x' + rune(next(2)))})
			}
			for range next(3) {
				s.Recalled = append(s.Recalled, rollout.Attempt{Version: string('v' + rune(next(2))), Number: 1 + int(next(2))})
			}
			return s.derive()
		}
		a, b, c := one(), one(), one()
		want := a.Merge(b).Merge(c)
		for i, got := range []Status{a.Merge(b.Merge(c)), b.Merge(a).Merge(c), c.Merge(b).Merge(a), c.Merge(a.Merge(b)), want.Merge(Status{})} {
			if !same(got, want) {
				t.Fatalf("order %d:\n%+v\n%+v", i, got, want)
			}
		}
		if once := slices.Compact(slices.Clone(want.Recalled)); len(once) != len(want.Recalled) {
			t.Fatalf("recalled twice: %v", want.Recalled)
		}
		if c := want.Counts; want.InForce && (c.Behind > 0 || c.Refused > 0 || c.Applied == 0) {
			t.Fatalf("in force: %+v", want)
		}
	})
}

// same compares values; no nodes are no nodes, however they are written.
func same(a, b Status) bool {
	if len(a.Nodes) == 0 && len(b.Nodes) == 0 {
		a.Nodes, b.Nodes = nil, nil
	}
	return reflect.DeepEqual(a, b)
}

// Who asks what has changed is told of the rest, also where the asking took long because there was no processor for it.
func TestChangesThatAreLeftAreTold(t *testing.T) {
	h := NewHub(quietLog())
	const n = 20
	h.mu.Lock()
	for i := range n {
		name := fmt.Sprint("shop-", i)
		h.services[name] = &service{force: NewForce(name, time.Hour)}
		h.changes(name)
	}
	h.now = func() time.Time { time.Sleep(takenMost + time.Millisecond); return time.Now() }
	h.mu.Unlock()
	for told := 0; told < n; {
		select {
		case <-h.Changes():
			told += max(1, len(h.TakeChanges()))
		case <-time.After(10 * time.Second):
			t.Fatalf("nobody says that %d of %d have changed", n-told, n)
		}
	}
}
