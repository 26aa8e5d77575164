package xds

import (
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Of a node from before a restart only the name is stored. It is waited for at every later table, also where route.nodes admits
// some clusters only: it had the service, so it was admitted.
func TestRestoredNodesAreWaitedForWhateverIsWanted(t *testing.T) {
	b := newBook()
	want := func(v int, nodes ...string) {
		b.Want(Wanted{Generation: uint64(v), Envoys: content(v), Nodes: nodes}, b.at)
	}
	want(2, "edge")
	b.Restore([]rollout.Crowd{{Version: "t1", Has: content(1).Slots, Nodes: []string{"a", "b"}}}, b.at)
	want(3, "edge")
	want(4, "edge", "core")
	if got := b.says(); got != "joining 0 applied 0 behind 0 lagging 0 refused 0 gone 2" {
		t.Fatal(got)
	}
	if cs := b.crowds(b.at); len(cs) != 1 || cs[0].Present || len(cs[0].Nodes) != 2 {
		t.Fatalf("%+v", cs)
	}
	b.join("a", 1)
	if got := b.says(); got != "joining 0 applied 0 behind 1 lagging 0 refused 0 gone 1" {
		t.Error(got)
	}
	want(5, "core") // the group of a, which is known by now, is not admitted any more
	if got := b.says(); got != "joining 0 applied 0 behind 0 lagging 0 refused 0 gone 1" {
		t.Error(got)
	}
	b.pass(time.Hour)
	if got := b.says(); got != "joining 0 applied 0 behind 0 lagging 0 refused 0 gone 0" {
		t.Error(got)
	}
}
