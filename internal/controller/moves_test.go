package controller

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/world"
)

// routed is a service s0, s1 and so on for each route.
func routed(t *testing.T, routes []string) (docs queue[*policy.Document]) {
	t.Helper()
	for i, r := range routes {
		ds, fs := policy.Parse("all.yml", fmt.Appendf(nil, "service: s%d\nroute: {%s}\n", i, r))
		if len(fs) > 0 {
			t.Fatal(fs)
		}
		docs = append(docs, &ds[0])
	}
	return docs
}

// movesOf is a reading that finds services otherwise than they were.
func movesOf(t *testing.T, before, after []string) *adoption {
	t.Helper()
	c := &Controller{units: map[string]*unit{}, findings: newFindings()}
	for _, d := range routed(t, before) {
		c.units[d.Policy.Service] = newUnit(rollout.State{Policy: d.Policy})
	}
	a := &adoption{crossing: crossing{}, read: routed(t, after)}
	for !a.compared {
		c.compare(a)
	}
	for _, ch := range a.shifts {
		a.crossing.meet(ch.shift, ch.move)
	}
	return a
}

// moves are the services that a reading stores and publishes at once.
func (a *adoption) moves() (all []string) {
	in := map[*move][]string{}
	for _, ch := range a.changes {
		if ch.move != nil && ch.move.now().size > 1 {
			in[ch.move.now()] = append(in[ch.move.now()], ch.service)
		}
	}
	for _, services := range in {
		all = append(all, strings.Join(services, " "))
	}
	slices.Sort(all)
	return all
}

// A service that leaves a listener or a host, and the one that has it from then on, are one move; who hangs on none of them is not
// in it.
func TestWhatMovesIsTakenInAtOnce(t *testing.T) {
	before := []string{`listener: "0.0.0.0:80", domains: [a]`, `listener: "0.0.0.0:80", domains: [b]`, `listener: "0.0.0.0:81", domains: [c]`, `domains: [d]`,
		`listener: "0.0.0.0:80", domains: [e], nodes: [x]`, `listener: "0.0.0.0:82"`, `listener: "0.0.0.0:83"`, `listener: "0.0.0.0:84"`}
	for _, x := range []struct {
		why    string
		routes []string
		moves  []string
	}{
		{"nothing moves", []string{`listener: "0.0.0.0:80", domains: [a], timeout: 3s`, `listener: "0.0.0.0:80", domains: [b], timeout: 3s`}, nil},
		{"a host moves", []string{`listener: "0.0.0.0:80", domains: [A1]`, `listener: "0.0.0.0:80", domains: [b, A]`, `listener: "0.0.0.0:81", domains: [c], timeout: 3s`}, []string{"s0 s1"}},
		{"a listener moves to a new service", []string{before[0] + ", timeout: 3s", before[1], `domains: [c]`, `domains: [d]`, `domains: [e]`, before[5], before[6], before[7], `listener: "0.0.0.0:81", domains: [f]`}, []string{"s2 s8"}},
		{"a listener is left, and nobody joins it", []string{before[0], `domains: [b]`}, nil},
		{"another service has it on those nodes", []string{before[0] + `, nodes: [x]`, before[1], `domains: [c]`, `domains: [d]`, `listener: "0.0.0.0:80", domains: [e], nodes: [y]`}, []string{"s0 s4"}},
		{"one that all nodes have takes its place", []string{before[0], before[1], before[2], `listener: "0.0.0.0:80", domains: [e]`, `listener: "0.0.0.0:85", domains: [f], nodes: [x]`}, []string{"s3 s4"}},
		{"more nodes have it, and others fewer", []string{before[0] + ", nodes: [y, z]", before[1], before[2], `domains: [d]`, `listener: "0.0.0.0:80", domains: [e], nodes: [x, w]`}, []string{"s0 s4"}},
		{"a host for each, and one leaves", []string{`listener: "0.0.0.0:80", domains: [a1]`, `listener: "0.0.0.0:80", domains: [b1]`, `listener: "0.0.0.0:81", domains: [c1]`, `domains: [d1]`, `listener: "0.0.0.0:86", domains: [e], nodes: [x]`}, nil},
		{"two exchanges", []string{`listener: "0.0.0.0:80", domains: [b]`, `listener: "0.0.0.0:80", domains: [a]`, `listener: "0.0.0.0:84", domains: [c]`, `domains: [d]`, before[4], before[5], before[6], `listener: "0.0.0.0:81"`}, []string{"s0 s1", "s2 s7"}},
		{"a chain, however it begins", []string{`listener: "0.0.0.0:80", domains: [g]`, `listener: "0.0.0.0:80", domains: [a]`, `listener: "0.0.0.0:81", domains: [b]`, `domains: [d]`, before[4], `listener: "0.0.0.0:83"`, `listener: "0.0.0.0:82"`}, []string{"s0 s1 s2", "s5 s6"}},
		{"all hosts of one listener, and of another", []string{before[0], before[1], before[2], before[3], before[4], `listener: "0.0.0.0:82", domains: [g]`, `listener: "0.0.0.0:83", domains: [h]`, before[7], `listener: "0.0.0.0:87"`}, nil},
	} {
		a := movesOf(t, before, x.routes)
		first := ""
		for _, ch := range inMoves(a.changes)[:len(strings.Fields(strings.Join(x.moves, " ")))] {
			first += " " + ch.service
		}
		if first = strings.TrimPrefix(first, " "); first != strings.Join(x.moves, " ") {
			t.Errorf("%s: %q are taken in first, want those of %q, one move after the other", x.why, first, x.moves)
		}
		if got := a.moves(); !slices.Equal(got, x.moves) || len(a.changes) != len(x.routes) {
			t.Errorf("%s: %q are taken in at once, of %d: want %q", x.why, got, len(a.changes), x.moves)
		}
	}
}

// Who has all hosts of a listener meets whoever joins or leaves it, and no others.
func TestAllHostsOfAListenerMeetEach(t *testing.T) {
	for _, x := range []struct {
		why           string
		before, after []string
		moves         []string
	}{
		{"all become one, and another service joins", []string{`listener: "0.0.0.0:80"`, `listener: "0.0.0.0:81", domains: [b]`}, []string{`listener: "0.0.0.0:80", domains: [a]`, `listener: "0.0.0.0:80", domains: [b]`}, []string{"s0 s1"}},
		{"on some nodes", []string{`listener: "0.0.0.0:80", nodes: [x]`, `listener: "0.0.0.0:81", domains: [b]`}, []string{`listener: "0.0.0.0:80", domains: [a]`, `listener: "0.0.0.0:80", domains: [b], nodes: [x]`}, []string{"s0 s1"}},
		{"one becomes all, and the other service leaves", []string{`listener: "0.0.0.0:80", domains: [a]`, `listener: "0.0.0.0:80", domains: [b]`}, []string{`listener: "0.0.0.0:80"`, `listener: "0.0.0.0:82", domains: [c]`}, []string{"s0 s1"}},
		{"each has hosts of its own", []string{`listener: "0.0.0.0:80", domains: [a]`, `listener: "0.0.0.0:80", domains: [b]`}, []string{`listener: "0.0.0.0:80", domains: [a1]`, `listener: "0.0.0.0:80", domains: [b1]`}, nil},
		{"each has a listener of its own", []string{`listener: "0.0.0.0:80"`, `listener: "0.0.0.0:81", domains: [b]`}, []string{`listener: "0.0.0.0:80", domains: [a]`, `listener: "0.0.0.0:81"`}, nil},
	} {
		if got := movesOf(t, x.before, x.after).moves(); !slices.Equal(got, x.moves) {
			t.Errorf("%s: %q are taken in at once, want %q", x.why, got, x.moves)
		}
	}
}

// hosted is the policy of a service with a host on a listener that it shares.
func hosted(name, host string) string {
	return fmt.Sprintf("---\nservice: %s\nroute: {probe: \"off\", listener: \"0.0.0.0:80\", domains: [%s]}\nversions: [{version: v1, endpoints: [\"10.0.0.1:80\"], stable: true}]\n", name, host)
}

// pairs is the policies of so many services, of which each two that follow one another have hosts that they exchange.
func pairs(n int, swapped bool) string {
	var s strings.Builder
	for i := range n {
		host := i
		if swapped {
			host ^= 1
		}
		s.WriteString(hosted(fmt.Sprintf("s%04d", i), fmt.Sprintf("h%04d", host)))
	}
	return s.String()
}

// halves are pairs of which only one service is published with what it has from now on.
func halves(c *Controller) (n int) {
	published := func(i int) string {
		return c.units[fmt.Sprintf("s%04d", i)].outbox.durable.Policy.Route.Domains[0]
	}
	for i := 0; i < len(c.units); i += 2 {
		if published(i) == published(i+1) {
			n++
		}
	}
	return n
}

// Many pairs exchange their hosts: a write holds as many services as any other, and so does a publication, and at no moment
// have two services one host.
func TestManyMovesAreManyPieces(t *testing.T) {
	const n = 10 * pieceMost
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, pairs(n, false), 0, world.Traffic{})
		time.Sleep(time.Second)
		before := len(b.disk.sizes())
		b.disk.set(20*time.Millisecond, nil)
		b.write(pairs(n, true))
		done := make(chan error, 1)
		go func() { done <- b.daemon.Reload(t.Context(), "ann") }()
		for ended := false; !ended; {
			select {
			case err := <-done:
				if ended = true; err != nil {
					t.Fatal(err)
				}
			case <-time.After(time.Millisecond):
				b.inLoop(func() {
					if bad := halves(b.daemon); bad > 0 {
						t.Errorf("%d hosts belong to two services", bad)
					}
				})
			}
		}
		sizes := b.disk.sizes()[before:]
		if most := slices.Max(sizes); most > storedAtOnce+1 || len(sizes) < n/storedAtOnce {
			t.Errorf("%d services are in one write, of %d writes", most, len(sizes))
		}
		b.inLoop(func() {
			if c := b.daemon; len(c.moves.of)+len(c.moves.due) > 0 || c.units["s0000"].outbox.durable.Policy.Route.Domains[0] != "h0001" {
				t.Errorf("%d services of moves are not stored", len(c.moves.of))
			}
		})
	})
}

// While nothing can be stored the policies are read again: what moved, and moves on, is one move, and a service whose old place
// another one joins is in it, though nothing of it changed since.
func TestMovesThatAreNotStoredMeetTheNext(t *testing.T) {
	hosts := func(hosts ...string) string {
		var s strings.Builder
		for i, h := range hosts {
			s.WriteString(hosted(fmt.Sprint("s", i), h))
		}
		return s.String()
	}
	for _, x := range []struct {
		why                 string
		first, second, want []string
		alone               string // is in no move
	}{
		{"a host goes on", []string{"a1", "a", "c", "d"}, []string{"a1", "b1", "a", "d1"}, []string{"a1", "b1", "a", "d1"}, "s3"},
		{"a host was left before", []string{"a1", "b", "c", "d"}, []string{"a1", "b", "a", "d"}, []string{"a1", "b", "a", "d"}, "s3"},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBubble(t, hosts("a", "b", "c", "d"), 0, world.Traffic{})
			time.Sleep(time.Second)
			b.disk.set(0, errDiskFull)
			for _, next := range [][]string{x.first, x.second} {
				b.write(hosts(next...))
				b.unstored(b.daemon.Reload(t.Context(), "ann"))
			}
			time.Sleep(writeAgain / 10) // no write is under way
			b.inLoop(func() {
				c := b.daemon
				m := c.moves.of[c.units["s0"]]
				if m == nil || m.now().awaits > 0 || c.moves.of[c.units["s2"]].now() != m.now() || c.moves.of[c.units[x.alone]] != nil {
					t.Errorf("%s: the move is %+v, of %v", x.why, m, c.moves.of)
				}
			})
			b.disk.set(0, nil)
			time.Sleep(10 * time.Second)
			b.inLoop(func() {
				for i, h := range x.want {
					if got := b.daemon.units[fmt.Sprintf("s%d", i)].outbox.durable.Policy.Route.Domains; !slices.Equal(got, []string{h}) {
						t.Errorf("%s: s%d is published at %v, want %s", x.why, i, got, h)
					}
				}
				if len(b.daemon.moves.of) > 0 {
					t.Errorf("%s: %d services of moves are not stored", x.why, len(b.daemon.moves.of))
				}
			})
		})
	}
}

// While a write is under way the policies are read three times: the place that the write gives a service, and that the last reading
// gives another one, is never nobody's.
func TestWhatIsBeingWrittenMeetsTheNext(t *testing.T) {
	policies := func(a, z string) string { return hosted("a", a) + hosted("z", z) }
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, policies("h0", "hz"), 0, world.Traffic{})
		time.Sleep(time.Second)
		thaw := b.freeze()
		for _, next := range []string{policies("h1", "hz"), policies("h2", "hz"), policies("h3", "h1")} {
			b.write(next)
			b.unstored(b.daemon.Reload(t.Context(), "ann"))
		}
		b.inLoop(func() {
			if of := b.daemon.moves.of; len(of) != 2 {
				t.Errorf("%d services are in moves, want a and z", len(of))
			}
		})
		thaw()
		time.Sleep(5 * time.Second)
		b.inLoop(func() {
			if c := b.daemon; len(c.moves.of) > 0 || c.units["z"].outbox.durable.Policy.Route.Domains[0] != "h1" {
				t.Errorf("z is not published at h1, and %d services are in moves", len(c.moves.of))
			}
		})
	})
}

// A service loses its policy before it is stored where that had it: who joins what it leaves is published with it.
func TestWhoLosesItsPolicyIsInItsMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, hosted("a", "ha")+hosted("z", "hz"), 0, world.Traffic{})
		time.Sleep(time.Second)
		thaw := b.freeze() // what is decided stays where it is
		for _, next := range []string{hosted("a", "h1") + hosted("z", "hz"), hosted("z", "ha")} {
			b.write(next)
			b.unstored(b.daemon.Reload(t.Context(), "ann"))
		}
		b.inLoop(func() {
			if of := b.daemon.moves.of; len(of) != 2 {
				t.Errorf("%d services are in moves, want a and z", len(of))
			}
		})
		thaw()
		time.Sleep(5 * time.Second)
		for name, host := range map[string]string{"a": "h1", "z": "ha"} {
			s, err := b.daemon.Service(t.Context(), name)
			if err != nil || !s.Stored || s.State.Orphaned != (name == "a") || s.State.Policy.Route.Domains[0] != host {
				t.Errorf("%s: %v, stored %v, orphaned %v, at %v", name, err, s.Stored, s.State.Orphaned, s.State.Policy.Route.Domains)
			}
		}
	})
}

// A service that was deleted comes back where another one leaves: it is published with that one, and so is what was decided of it
// while that was being stored.
func TestAServiceThatBeginsAnewIsPublishedWithItsMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, hosted("a", "ha")+hosted("z", "hz"), 0, world.Traffic{})
		time.Sleep(time.Second)
		b.write(hosted("z", "hz"))
		if err := b.daemon.Reload(t.Context(), "ann"); err != nil {
			t.Fatal(err)
		}
		thaw := b.freeze()
		b.unstored(b.daemon.Delete(t.Context(), "a", "ann"))
		b.write(hosted("a", "hz") + hosted("z", "h1"))
		b.unstored(b.daemon.Reload(t.Context(), "ann"))
		b.inLoop(func() {
			if of := b.daemon.moves.of; len(of) != 2 {
				t.Errorf("%d services are in moves, want a and z", len(of))
			}
		})
		b.disk.set(20*time.Millisecond, nil)
		thaw()
		for range 1000 {
			time.Sleep(time.Millisecond)
			b.inLoop(func() {
				c := b.daemon
				a, z := c.units["a"].outbox.durable.Policy.Route.Domains[0], c.units["z"].outbox.durable.Policy.Route.Domains[0]
				if (a == "hz") != (z == "h1") {
					t.Fatalf("a is published at %s, and z at %s", a, z)
				}
			})
		}
		s, err := b.daemon.Service(t.Context(), "a")
		if err != nil || !s.Stored || s.State.Policy.Route.Domains[0] != "hz" {
			t.Errorf("%v, stored %v, at %v", err, s.Stored, s.State.Policy.Route.Domains)
		}
	})
}

// A write that failed is written again before what waits behind it.
func TestAWriteThatFailedGoesFirst(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	c := &Controller{Options: Options{Log: log}, unsaved: map[*unit]struct{}{}, units: map[string]*unit{}, atOnce: storedAtOnce, moves: newMoves()}
	for i := range 5 * storedAtOnce {
		name := fmt.Sprintf("shop-%03d", i)
		u := newUnit(rollout.State{Policy: policy.Policy{Service: name}})
		c.targets.services, c.units[name], c.unsaved[u] = append(c.targets.services, name), u, struct{}{}
	}
	for i := range 4 {
		u, m := newUnit(rollout.State{Policy: policy.Policy{Service: fmt.Sprintf("move-%d", i)}}), newMove()
		c.moves.adopted(c.moves.bind(u, m))
	}
	names := func() (names []string) {
		jobs := c.jobs(time.Now())
		for _, j := range jobs {
			names = append(names, j.write.Service)
		}
		c.notWritten(saved{jobs: jobs, err: errDiskFull}, time.Now())
		return names
	}
	c.jobs(time.Now()) // goes well
	m := newMove()
	c.moves.adopted(c.moves.bind(newUnit(rollout.State{Policy: policy.Policy{Service: "move-4"}}), m))
	first := names()
	due := len(c.moves.due)
	for range 10 { // the store does not say what it has
		c.notWritten(saved{jobs: c.writer.doubted, err: errDiskFull, asked: true}, time.Now())
	}
	if len(c.moves.due) != due {
		t.Errorf("%d moves are due, which were %d", len(c.moves.due), due)
	}
	c.moves.adopted(c.moves.bind(newUnit(rollout.State{Policy: policy.Policy{Service: "move-5"}}), newMove()))
	second := names()
	if first[0] != "move-4" || !slices.Contains(first, fmt.Sprintf("shop-%03d", storedAtOnce)) {
		t.Fatalf("the first write holds %q", first)
	}
	if !slices.Equal(slices.DeleteFunc(second, func(s string) bool { return s == "move-5" }), first) {
		t.Errorf("what failed is %q, and then are stored %q", first, second)
	}
}
