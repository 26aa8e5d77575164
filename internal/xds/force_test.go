package xds

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// book is a Force under a clock of the test's own; nodes are told apart by letters.
type book struct {
	*Force
	at      time.Time
	streams map[string]uint64 // by name: "a", or "a/2" for another stream of a
	opened  uint64
}

func newBook() *book {
	return &book{Force: NewForce(time.Hour), at: time.Unix(1e9, 0), streams: map[string]uint64{}}
}

func content(v int) Content {
	return Content{fmt.Sprint("t", v), []rollout.Run{{Version: "v1", Count: 10000 - v}, {Version: "v2", Count: v}}}
}

func (b *book) node(stream string) Node {
	id, _, _ := strings.Cut(stream, "/")
	return Node{ID: id, Cluster: "edge", Build: "envoy 1.40.0", Peer: "peer of " + stream}
}

func (b *book) join(stream string, has int) {
	if b.streams[stream] == 0 {
		b.opened++
		b.streams[stream] = b.opened
	}
	c := Content{}
	if has > 0 {
		c = content(has)
	}
	b.Join(b.streams[stream], b.node(stream), c, b.at)
}

func (b *book) leave(stream string) {
	b.Leave(b.streams[stream], b.at)
	delete(b.streams, stream)
}

// served is what whoever has some streams serves.
func (b *book) served(streams ...string) (Served, bool) {
	var ids []uint64
	for _, s := range streams {
		if id := b.streams[s]; id != 0 {
			ids = append(ids, id)
		}
	}
	return b.Served(ids)
}

func (b *book) want(v int) {
	b.Want(Wanted{Generation: uint64(v), Envoys: content(v), Canaries: []string{"v2"}}, b.at)
	b.Changed(Ref{TypeRoute, "shop"}, b.at)
}

func (b *book) accept(stream string, v int) {
	b.Sent(b.streams[stream], content(v).Version, b.at)
	b.Accept(b.streams[stream], content(v), content(v).Version == b.Force.want.Envoys.Version, b.at)
	b.Took(b.streams[stream], Ref{TypeRoute, "shop"}, content(v).Version, b.at)
}

func (b *book) refuse(stream, typ, name, version string) {
	b.Refuse(b.streams[stream], b.node(stream), Ref{typ, name}, version, "no", b.at)
}

func (b *book) pass(d time.Duration) {
	b.at = b.at.Add(d)
	b.Tick(b.at)
}

// says is the whole status in one line.
func (b *book) says() string {
	s := b.Status("shop")
	c := s.Counts
	out := fmt.Sprintf("joining %d applied %d behind %d lagging %d refused %d gone %d", c.Joining, c.Applied, c.Behind, c.Lagging, c.Refused, c.Gone)
	if s.InForce {
		out += ", in force"
	}
	return out
}

func TestStandings(t *testing.T) {
	const cluster = "shop/v2"
	for _, c := range []struct {
		what  string
		story func(*book)
		want  string
	}{
		{"nobody", func(b *book) {}, "joining 0 applied 0 behind 0 lagging 0 refused 0 gone 0"},
		{"a new Envoy", func(b *book) { b.join("a", 0); b.pass(time.Minute) },
			"joining 1 applied 0 behind 0 lagging 0 refused 0 gone 0"},
		{"it is waited for by nobody", func(b *book) { b.join("a", 0); b.accept("a", 1); b.join("b", 0) },
			"joining 1 applied 1 behind 0 lagging 0 refused 0 gone 0, in force"},
		{"whatever a new one refuses", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.join("b", 0)
			b.refuse("b", TypeRoute, "shop", "t1")
		},
			"joining 1 applied 1 behind 0 lagging 0 refused 0 gone 0, in force"},
		{"a newer table", func(b *book) { b.join("a", 0); b.accept("a", 1); b.want(2) },
			"joining 0 applied 0 behind 1 lagging 0 refused 0 gone 0"},
		{"no answer for 29 s", func(b *book) { b.join("a", 0); b.accept("a", 1); b.want(2); b.pass(29 * time.Second) },
			"joining 0 applied 0 behind 1 lagging 0 refused 0 gone 0"},
		{"no answer for 30 s", func(b *book) { b.join("a", 0); b.accept("a", 1); b.want(2); b.pass(30 * time.Second) },
			"joining 0 applied 0 behind 0 lagging 1 refused 0 gone 0"},
		{"R3: a lagging one is not waited for at the next table", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.join("b", 0)
			b.accept("b", 1)
			b.want(2)
			b.pass(30 * time.Second)
			b.want(3)
			b.accept("b", 3)
		}, "joining 0 applied 1 behind 0 lagging 1 refused 0 gone 0, in force"},
		{"lagging until it accepts what is present", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.want(2)
			b.pass(30 * time.Second)
			b.want(3)
			b.accept("a", 2)
		}, "joining 0 applied 0 behind 0 lagging 1 refused 0 gone 0"},
		{"then it has caught up", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.want(2)
			b.pass(30 * time.Second)
			b.accept("a", 2)
		}, "joining 0 applied 1 behind 0 lagging 0 refused 0 gone 0, in force"},
		{"the old table is wanted again, and the new one was not sent", func(b *book) { b.join("a", 0); b.accept("a", 1); b.want(2); b.want(1) },
			"joining 0 applied 1 behind 0 lagging 0 refused 0 gone 0, in force"},
		{"the old table is wanted again while the new one is on its way", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.want(2)
			b.Sent(b.streams["a"], "t2", b.at)
			b.want(1)
		}, "joining 0 applied 0 behind 1 lagging 0 refused 0 gone 0"},
		{"a refused route", func(b *book) { b.join("a", 0); b.accept("a", 1); b.want(2); b.refuse("a", TypeRoute, "shop", "t2") },
			"joining 0 applied 0 behind 0 lagging 0 refused 1 gone 0"},
		{"other content is wanted", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.want(2)
			b.refuse("a", TypeRoute, "shop", "t2")
			b.want(1)
		},
			"joining 0 applied 1 behind 0 lagging 0 refused 0 gone 0, in force"},
		{"R7: a refused cluster", func(b *book) { b.join("a", 0); b.accept("a", 1); b.want(2); b.refuse("a", TypeCluster, cluster, "c") },
			"joining 0 applied 0 behind 0 lagging 0 refused 1 gone 0"},
		{"which is accepted", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.refuse("a", TypeCluster, cluster, "c")
			b.Took(b.streams["a"], Ref{TypeCluster, cluster}, "c", b.at)
		}, "joining 0 applied 1 behind 0 lagging 0 refused 0 gone 0, in force"},
		{"or not wanted", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.refuse("a", TypeCluster, cluster, "c")
			b.Changed(Ref{TypeCluster, cluster}, b.at)
		}, "joining 0 applied 1 behind 0 lagging 0 refused 0 gone 0, in force"},
		{"a refusal of 9 min", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.refuse("a", TypeCluster, cluster, "c")
			b.pass(9 * time.Minute)
		},
			"joining 0 applied 0 behind 0 lagging 0 refused 1 gone 0"},
		{"a refusal of 10 min in all, over two tables and a reconnect", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.refuse("a", TypeCluster, cluster, "c")
			b.pass(4 * time.Minute)
			b.want(2)
			b.accept("a", 2)
			b.pass(4 * time.Minute)
			b.leave("a")
			b.pass(50 * time.Minute)
			b.join("a/2", 2)
			b.pass(2 * time.Minute)
		}, "joining 0 applied 0 behind 0 lagging 1 refused 0 gone 0"},
		{"another build may accept it", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.refuse("a", TypeCluster, cluster, "c")
			b.leave("a")
			n := b.node("a")
			n.Build = "envoy 1.41.0"
			b.Join(99, n, content(1), b.at)
		}, "joining 0 applied 1 behind 0 lagging 0 refused 0 gone 0, in force"},
		{"a new process may accept it", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.refuse("a", TypeCluster, cluster, "c")
			b.leave("a")
			b.pass(time.Second)
			b.join("a/2", 0)
			b.accept("a/2", 1)
		}, "joining 0 applied 1 behind 0 lagging 0 refused 0 gone 0, in force"},
		{"the same process still refuses it", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.refuse("a", TypeCluster, cluster, "c")
			b.leave("a")
			b.join("a/2", 1)
		}, "joining 0 applied 0 behind 0 lagging 0 refused 1 gone 0"},
		{"R19: a lost connection", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.join("b", 0)
			b.accept("b", 1)
			b.leave("a")
			b.want(2)
			b.accept("b", 2)
		},
			"joining 0 applied 1 behind 0 lagging 0 refused 0 gone 1, in force"},
		{"it comes back with what it had", func(b *book) { b.join("a", 0); b.accept("a", 1); b.leave("a"); b.want(2); b.join("a/2", 1) },
			"joining 0 applied 0 behind 1 lagging 0 refused 0 gone 0"},
		{"it comes back as a new process", func(b *book) { b.join("a", 0); b.accept("a", 1); b.leave("a"); b.want(2); b.join("a/2", 0) },
			"joining 1 applied 0 behind 0 lagging 0 refused 0 gone 0"},
		{"a new process that does not ask for the route", func(b *book) { b.join("a", 0); b.accept("a", 1); b.leave("a"); b.Restarted("a") },
			"joining 0 applied 0 behind 0 lagging 0 refused 0 gone 0"},
		{"gone for an hour", func(b *book) { b.join("a", 0); b.accept("a", 1); b.leave("a"); b.pass(time.Hour) },
			"joining 0 applied 0 behind 0 lagging 0 refused 0 gone 0"},
		{"who never had a route is not missed", func(b *book) { b.join("a", 0); b.leave("a") },
			"joining 0 applied 0 behind 0 lagging 0 refused 0 gone 0"},
		{"a reconnect every 29 s does not begin anew", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.want(2)
			b.pass(29 * time.Second)
			b.leave("a")
			b.join("a/2", 1)
			b.pass(time.Second)
		}, "joining 0 applied 0 behind 0 lagging 1 refused 0 gone 0"},
		{"forgotten while gone", func(b *book) { b.join("a", 0); b.accept("a", 1); b.leave("a"); b.Forget("a") },
			"joining 0 applied 0 behind 0 lagging 0 refused 0 gone 0"},
		{"forgotten while behind", func(b *book) { b.join("a", 0); b.accept("a", 1); b.want(2); b.Forget("a") },
			"joining 1 applied 0 behind 0 lagging 0 refused 0 gone 0"},
		{"R4: a node that may not have the service", func(b *book) {
			b.Want(Wanted{Envoys: content(1), Nodes: []string{"sidecar"}}, b.at)
			b.join("a", 0)
			b.refuse("a", TypeListener, "web", "l")
		}, "joining 0 applied 0 behind 0 lagging 0 refused 0 gone 0"},
		{"a node that may no longer have it", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.Want(Wanted{Envoys: content(2), Nodes: []string{"sidecar"}}, b.at)
		}, "joining 0 applied 0 behind 0 lagging 0 refused 0 gone 0"},
		{"C-18: a diagnostic", func(b *book) { b.Join(9, Node{ID: "me", Cluster: "edge", Diagnostic: true}, Content{}, b.at) },
			"joining 0 applied 0 behind 0 lagging 0 refused 0 gone 0"},
		{"B6: a refused listener, from a node that never asks for the route", func(b *book) { b.streams["a"] = 9; b.refuse("a", TypeListener, "web", "l") },
			"joining 1 applied 0 behind 0 lagging 0 refused 0 gone 0"},
		{"R6: a half-open stream of a node that came back", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.pass(time.Second)
			b.join("a/2", 1)
			b.want(2)
			b.accept("a/2", 2)
			b.pass(30 * time.Second)
		}, "joining 0 applied 1 behind 0 lagging 0 refused 0 gone 0, in force"},
		{"it refuses a listener late", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.streams["a/2"], b.opened = 9, 9
			b.join("a/2", 1)
			b.streams["a/1.5"] = 5 // opened before that one, and not heard of here until now
			b.refuse("a/1.5", TypeListener, "web", "l")
		}, "joining 0 applied 1 behind 0 lagging 0 refused 0 gone 0, in force"},
		{"it ends", func(b *book) { b.join("a", 0); b.accept("a", 1); b.join("a/2", 1); b.leave("a") },
			"joining 0 applied 1 behind 0 lagging 0 refused 0 gone 0, in force"},
		{"its last words are no life", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.join("a/2", 1)
			b.want(2)
			b.accept("a/2", 2)
			b.pass(time.Second)
			b.accept("a", 1)
		}, "joining 0 applied 1 behind 0 lagging 0 refused 0 gone 0, in force"},
		{"two Envoys with one id: the older one speaks", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.join("a/2", 1)
			b.pass(10 * time.Second)
			b.want(2)
			b.accept("a/2", 2)
			b.refuse("a", TypeRoute, "shop", "t2")
		}, "joining 0 applied 1 behind 0 lagging 0 refused 1 gone 0"},
		{"two Envoys with one id: the older one outlives keepalive", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.join("a/2", 1)
			b.pass(time.Minute)
		}, "joining 0 applied 2 behind 0 lagging 0 refused 0 gone 0, in force"},
		{"one of two Envoys with one id is lost", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.join("a/2", 1)
			b.pass(time.Minute)
			b.leave("a/2")
		}, "joining 0 applied 1 behind 0 lagging 0 refused 0 gone 1, in force"},
		{"the listener of the service is gone on a node", func(b *book) { b.join("a", 0); b.accept("a", 1); b.Drop(b.streams["a"]) },
			"joining 0 applied 0 behind 0 lagging 0 refused 0 gone 0"},
	} {
		t.Run(c.what, func(t *testing.T) {
			b := newBook()
			b.want(1)
			c.story(b)
			if got := b.says(); got != c.want {
				t.Errorf("got  %s\nwant %s\n%+v", got, c.want, b.Status("shop").Nodes)
			}
		})
	}
}

func TestStatusSaysWhoAndWhy(t *testing.T) {
	b := newBook()
	b.want(1)
	for _, s := range []string{"a", "b", "c"} {
		b.join(s, 0)
		b.accept(s, 1)
	}
	b.want(2)
	begun := b.at
	b.pass(time.Second)
	b.Refuse(b.streams["a"], b.node("a"), Ref{TypeCluster, "shop/v2"}, "x", "bad endpoint", b.at)
	b.accept("c", 2)
	s := b.Status("shop")
	if len(s.Nodes) != 2 {
		t.Fatalf("%+v", s.Nodes)
	}
	a, behind := s.Nodes[0], s.Nodes[1]
	if a.Standing != Refused || a.Type != "cluster" || a.Resource != "shop/v2" || a.Why != "bad endpoint" ||
		!a.Since.Equal(b.at) || a.Version != "t1" || !slices.Equal(a.Weights, content(1).Slots) || a.Build != "envoy 1.40.0" {
		t.Errorf("%+v", a)
	}
	if behind.Standing != Behind || behind.Node != "b" || !behind.Since.Equal(begun) {
		t.Errorf("%+v", behind)
	}
	if len(s.Refusals) != 1 || !strings.HasPrefix(s.Refusals[0].Message, "cluster shop/v2: bad") {
		t.Errorf("%+v", s.Refusals)
	}
}

func TestTwoEnvoysWithOneIDAreReportedOnce(t *testing.T) {
	b := newBook()
	b.want(1)
	b.join("a", 0)
	b.accept("a", 1)
	b.join("a/2", 1)
	b.pass(time.Minute)
	b.pass(time.Minute)
	notes := b.TakeNotes()
	if len(notes) != 1 || notes[0].Text != "two Envoys have the node.id a, at peer of a and peer of a/2: give each its own; they are booked apart" {
		t.Errorf("%q", notes)
	}
}

func TestServedSaysSinceWhen(t *testing.T) {
	b := newBook()
	b.want(1)
	if _, ok := b.served("a"); ok {
		t.Error("an unknown node serves something")
	}
	b.join("a", 0)
	if _, ok := b.served("a"); ok {
		t.Error("a node without a route serves something")
	}
	b.accept("a", 1)
	begun := b.at
	check := func(what string, v int, since time.Time) {
		t.Helper()
		if got, ok := b.served("a", "a/2"); !ok || !slices.Equal(got.Slots, content(v).Slots) || !got.Since.Equal(since) {
			t.Errorf("%s: %v %s %v", what, got.Slots, got.Since.Sub(begun), ok)
		}
	}
	check("accepted", 1, begun)
	b.pass(time.Minute)
	b.Accept(b.streams["a"], Content{"other timeout", content(1).Slots}, true, b.at)
	check("the same weights", 1, begun)
	b.accept("a", 1)
	b.leave("a")
	if _, ok := b.served("a"); ok {
		t.Error("a node that is gone reports nothing")
	}
	b.pass(time.Minute)
	b.join("a/2", 1)
	check("back with the same table", 1, begun)
	b.want(2)
	b.accept("a/2", 2)
	check("other weights", 2, b.at)
}
