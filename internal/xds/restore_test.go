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

// An Envoy that lost its connection before it answered may have the present table or not. Over a restart, however often, it is
// not taken for one that has it.
func TestALostAnswerIsNoAnswerAfterARestart(t *testing.T) {
	b := newBook()
	b.want(1)
	b.join("a", 0)
	b.accept("a", 1)
	b.want(2)
	b.Sent(b.streams["a"], content(2).Version, b.at)
	b.leave("a")
	for restarts := range 3 {
		cs := b.crowds(b.at)
		if len(cs) != 1 || cs[0].Present || cs[0].Has != nil {
			t.Fatalf("after %d restarts: %+v", restarts, cs)
		}
		b = newBook()
		b.want(2)
		b.Restore(cs, b.at)
		b.want(2) // once more
	}
	b.join("a", 2)
	if cs := b.crowds(b.at); len(cs) != 1 || !cs[0].Present {
		t.Errorf("back: %+v", cs)
	}
}

// An Envoy comes back with an older table after a restart, and answers nothing. It lags soon, and is waited for as long as anybody who
// lags: for an hour after it was heard of, or after it reported requests at what the stable version does not get.
func TestWhoComesBackAndLagsIsWaitedFor(t *testing.T) {
	b := newBook()
	b.want(2)
	b.Restore([]rollout.Crowd{{Version: "t1", Has: content(1).Slots, Nodes: []string{"a"}}}, b.at)
	b.join("a", 1)
	b.Sent(b.streams["a"], content(2).Version, b.at)
	waited := func(when string, want bool) {
		t.Helper()
		if cs := b.crowds(b.at); (len(cs) == 1) != want {
			t.Errorf("%s: waited for %v, want %v", when, cs, want)
		}
	}
	b.pass(LaggingAfter)
	waited("it lags", true)
	b.pass(59 * time.Minute)
	waited("59 minutes later", true)
	b.pass(30 * time.Second)
	waited("an hour after it came", false)
	b.leave("a")
	b.join("a", 1)
	b.pass(LaggingAfter)
	waited("it comes once more", false)
	b.Used(b.streams["a"], b.at)
	if !b.Tick(b.at) {
		t.Error("nobody hears that it is waited for again")
	}
	waited("it reports requests", true)
	b.at = b.at.Add(time.Hour)
	if !b.Tick(b.at) {
		t.Error("nobody hears that it is waited for no longer")
	}
	waited("an hour later", false)
}

// An Envoy is sent its first route, and its answer is lost with its connection: it may serve that, until it is back as another
// process, or with something else. Who was sent nothing, or refused it, serves nobody.
func TestWhoWasSentItsFirstRouteMayServeIt(t *testing.T) {
	left := func(sent bool) *book {
		b := newBook()
		b.want(1)
		b.join("a", 0)
		if sent {
			b.Sent(b.streams["a"], content(1).Version, b.at)
		}
		return b
	}
	b := left(true)
	b.leave("a")
	b.want(2)
	b.want(1)
	if cs := b.crowds(b.at); len(cs) != 1 || cs[0].Present || cs[0].Has != nil || len(cs[0].Nodes) != 1 {
		t.Errorf("it is away: %+v", cs)
	}
	b.join("a", 0)
	if cs := b.crowds(b.at); len(cs) != 0 {
		t.Errorf("a new process: %+v", cs)
	}
	b = left(false)
	b.leave("a")
	if b.Forget("a") {
		t.Error("it was sent nothing, and is remembered")
	}
	b = left(true)
	b.refuse("a", TypeRoute, "shop", content(1).Version)
	b.leave("a")
	if b.Forget("a") {
		t.Error("it refused the route, and is remembered")
	}
}

// A table that cannot be published after a restart: what is stored of its nodes waits for the next one.
func TestRestoredNodesWaitForTheirTable(t *testing.T) {
	h, _, _ := server(t)
	h.Restore("shop", []rollout.Crowd{{Version: "x", Has: []rollout.Run{{Version: "v1", Count: 10000}}, Nodes: []string{"edge-7"}}})
	publish(t, h, table(1, nil))
	waitStatus(t, h, "gone", func(s Status) bool { return s.Counts.Gone == 1 && s.Nodes[0].Node == "edge-7" })
}
