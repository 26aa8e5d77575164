package xds

import (
	"fmt"
	"math/rand/v2"
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
	streams map[string]*stream // by name: "a", or "a/2" for another stream of a
	opened  uint64
}

func newBook() *book {
	return &book{Force: NewForce("shop", time.Hour), at: time.Unix(1e9, 0), streams: map[string]*stream{}}
}

func content(v int) Content {
	return Content{fmt.Sprint("t", v), []rollout.Run{{Version: "v1", Count: 10000 - v}, {Version: "v2", Count: v}}}
}

func (b *book) node(stream string) Node {
	id, _, _ := strings.Cut(stream, "/")
	return Node{ID: id, Cluster: "edge", Build: "envoy 1.40.0", Peer: "peer of " + stream}
}

func (b *book) join(stream string, has int) {
	b.open(stream)
	c := Content{}
	if has > 0 {
		c = content(has)
	}
	b.Join(b.streams[stream], c, b.at)
}

// open begins a stream, unless it has begun.
func (b *book) open(name string) *stream {
	if b.streams[name] == nil {
		b.opened++
		b.streams[name] = &stream{Node: b.node(name), id: b.opened, since: b.at}
	}
	return b.streams[name]
}

func (b *book) leave(stream string) {
	b.Leave(b.streams[stream], b.at)
	delete(b.streams, stream)
}

// served is what whoever has some streams serves.
func (b *book) served(streams ...string) (Served, bool) {
	var ids []*stream
	for _, s := range streams {
		if st := b.streams[s]; st != nil {
			ids = append(ids, st)
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
	b.Refuse(b.open(stream), Ref{typ, name}, version, "no", b.at)
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
			b.open("a").Build = "envoy 1.41.0"
			b.join("a", 1)
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
		{"forgotten while behind, before its connection ends", func(b *book) {
			b.join("a", 0)
			b.accept("a", 1)
			b.want(2)
			b.Sent(b.streams["a"], content(2).Version, b.at)
			b.Forget("a")
			b.leave("a")
		},
			"joining 0 applied 0 behind 0 lagging 0 refused 0 gone 0"},
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
		{"C-18: a diagnostic", func(b *book) { b.open("me").Diagnostic = true; b.join("me", 0) },
			"joining 0 applied 0 behind 0 lagging 0 refused 0 gone 0"},
		{"B6: a refused listener, from a node that never asks for the route", func(b *book) { b.refuse("a", TypeListener, "web", "l") },
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
			b.open("a/1.5") // before the next one, and not heard of here until later
			b.join("a/2", 1)
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
	b.Refuse(b.streams["a"], Ref{TypeCluster, "shop/v2"}, "x", "bad endpoint", b.at)
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

// Whether a member rests shows in nothing: of two books that hear the same, one has all its members stirred before
// everything that it hears.
func TestRestShowsInNothing(t *testing.T) {
	resting := 0
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		calm, stirred := newBook(), newBook()
		streams := []string{"a", "a/2", "b", "b/2", "c"}
		var told []string
		for range 60 {
			kind, stream, v, d := r.IntN(10), streams[r.IntN(len(streams))], 1+r.IntN(3), time.Duration(r.IntN(40))*time.Second
			var said []string
			for _, b := range []*book{calm, stirred} {
				if b == stirred {
					for _, m := range b.members {
						b.stir(m)
					}
				}
				said = append(said, b.hear(kind, stream, v, d))
			}
			if told = append(told, said[0]); said[0] != said[1] {
				t.Fatalf("seed %d: %s\nstirred: %s", seed, strings.Join(told, "\n"), said[1])
			}
		}
		for m := range calm.restless.m {
			if m.unrest == nil {
				t.Fatal("who rests is among the restless")
			}
		}
		resting += len(calm.members) - len(calm.restless.m)
	}
	if resting < 100 {
		t.Errorf("%d members rest in the end", resting)
	}
}

// hear has one thing happen, and tells what, and all that shows.
func (b *book) hear(kind int, stream string, v int, d time.Duration) string {
	b.at = b.at.Add(d / 10)
	open := b.streams[stream] != nil
	switch {
	case kind < 2:
		b.join(stream, v%3)
	case kind == 2 && open:
		b.leave(stream)
	case kind == 3:
		b.want(v)
	case kind == 4:
		b.pass(d)
	case kind == 5:
		b.refuse(stream, TypeCluster, "shop/v2", "c")
	case kind == 6 && open:
		b.Took(b.streams[stream], Ref{TypeCluster, "shop/v2"}, "c", b.at)
	case kind == 7 && open:
		b.Used(b.streams[stream], b.at)
	case kind == 8 && open && v == 3:
		b.Changed(Ref{TypeCluster, "shop/v2"}, b.at)
		b.Forget(b.node(stream).ID)
	case open:
		b.accept(stream, v)
	}
	return fmt.Sprint(kind, stream, v, d, " ", b.shows(stream))
}

// shows is all that can be seen of a book.
func (b *book) shows(stream string) string {
	served, ok := b.served(stream)
	notes := b.TakeNotes()
	slices.SortFunc(notes, func(x, y Note) int { return strings.Compare(x.Text, y.Text) })
	unapplied := 0
	for _, m := range b.members {
		if b.unapplied(m) {
			unapplied++
		}
	}
	return fmt.Sprint(b.says(), b.Status("shop").Nodes, b.crowds(b.at), unapplied, served, ok, notes)
}

// Who is forgotten in one tick leaves the others of the book where they are, whether they have a node.id in common or not.
func TestManyAreForgottenAtOnce(t *testing.T) {
	b := newBook()
	var stay []string
	for i := range 300 {
		for _, s := range []string{fmt.Sprintf("n%03d", i/2), fmt.Sprintf("n%03d/%d", i/2, i)} {
			b.join(s, 1)
		}
	}
	b.pass(halfOpen + time.Second)
	for s := range b.streams {
		stay = append(stay, s)
	}
	slices.Sort(stay)
	for i := 0; i < len(stay); i++ {
		if i%3 > 0 {
			b.leave(stay[i])
			stay = slices.Delete(stay, i, i+1)
		}
	}
	b.pass(time.Hour)
	var left []string
	for _, m := range b.members {
		left = append(left, m.who.Peer)
		if b.find(m.who) != m {
			t.Errorf("%s is not found", m.who.Peer)
		}
	}
	for i := range stay {
		stay[i] = "peer of " + stay[i]
	}
	slices.Sort(left)
	if slices.Sort(stay); !slices.Equal(left, stay) || len(b.restless.m) > len(left) {
		t.Errorf("%d are left, not %d", len(left), len(stay))
	}
}
