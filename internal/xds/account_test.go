package xds

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// What all connections of one address may cost together.

func TestStreamsOfAPeerAreCountedUntilTheyEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(quietLog())
		h.Admission.Limits.StreamsPerPeer = 2
		as := newAccounts(h)
		far, again, other, near := as.open(from("10.0.0.5")), as.open(from("10.0.0.5")), as.open(from("10.0.0.6")), as.open(from("::1"))
		if !far.account.enters() || !again.account.enters() || !other.account.enters() || again.account.enters() {
			t.Error("two streams of an address may be, on whichever connections, and no third one")
		}
		for range 3 {
			if !near.account.enters() {
				t.Error("those of loopback are not counted")
			}
		}
		if far.account.leaves(); !again.account.enters() {
			t.Error("one that has ended counts")
		}
		for _, l := range []*line{far, again, other, near, near} {
			_ = l.Close()
		}
		if as.open(from("10.0.0.5")).account != far.account {
			t.Error("who comes back at once is forgotten what they have spent")
		}
		time.Sleep(2 * time.Second)
		as.mu.Lock()
		defer as.mu.Unlock()
		if len(as.of) != 1 {
			t.Errorf("%v", as.of)
		}
	})
}

// Who goes away with a debt has it when they come back, however often they went, until it would be theirs again.
func TestADebtIsNotForgottenBeforeItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(quietLog())
		as := newAccounts(h)
		first := as.open(from("10.0.0.5"))
		_ = first.Close()
		l := as.open(from("10.0.0.5"))
		l.owes(10 * h.Admission.Limits.BytesPerSecond)
		_ = l.Close()
		time.Sleep(9 * time.Second)
		if as.open(from("10.0.0.5")).account != l.account {
			t.Error("a debt of ten seconds was forgotten within nine")
		} else {
			for other := range l.account.lines {
				_ = other.Close()
			}
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		as.mu.Lock()
		defer as.mu.Unlock()
		if len(as.of) != 0 {
			t.Errorf("%d accounts of nobody are kept", len(as.of))
		}
	})
}

// conn is a connection from an address, on which anything can be read.
type conn struct {
	net.Conn
	addr net.TCPAddr
}

func from(ip string) conn                 { return conn{addr: net.TCPAddr{IP: net.ParseIP(ip), Port: 1}} }
func (c conn) RemoteAddr() net.Addr       { return &c.addr }
func (c conn) Close() error               { return nil }
func (c conn) Read(b []byte) (int, error) { return len(b), nil }

// A peer is read at its pace and no faster, on however many connections; others are not slowed by it.
func TestAPeerIsReadAtItsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(quietLog())
		h.Admission.Limits.BytesPerSecond, h.Admission.Limits.BytesPerPeer = 1<<20, 1<<40
		as := newAccounts(h)
		read := func(l *line, mib int) time.Duration {
			c, began, buf := paced{l.Conn, l}, time.Now(), make([]byte, 1<<15)
			for range mib << 20 / len(buf) {
				if _, err := c.Read(buf); err != nil {
					t.Fatal(err)
				}
			}
			return time.Since(began).Round(100 * time.Millisecond)
		}
		one, two := as.open(from("10.0.0.5")), as.open(from("10.0.0.5"))
		if took := read(one, 5) + read(two, 6); took != 10*time.Second { // what it may in a second comes at once
			t.Errorf("11 MiB took %s", took)
		}
		_ = one.Close()
		_ = two.Close()
		if took := read(as.open(from("10.0.0.5")), 1); took != time.Second {
			t.Errorf("1 MiB on another connection took %s", took)
		}
		if took := read(as.open(from("10.0.0.6")), 1) + read(as.open(from("127.0.0.1")), 10); took != 0 {
			t.Errorf("others were slowed by %s", took)
		}
		if n := h.Figures().Refused[overPace]; n == 0 {
			t.Error("nothing was counted")
		}
	})
}

// Many small messages are slowed as well: each counts as 1 KiB at least. Who is kept waiting is not late.
func TestMessagesAreReadAtTheirPeersPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, _, dial := reports(t, func(a *Admission) { a.Limits.BytesPerSecond, a.Limits.ConnectionAge = 64<<10, time.Hour })
		publish(t, h, table(1, nil))
		began := time.Now()
		e := connect(t, dial(), "edge-1", 40)
		e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: append(invented(60_000), "shop")}) // about 900 KB
		e.expect(TypeRoute)
		if took := time.Since(began); took < 10*time.Second || took > 20*time.Second {
			t.Errorf("900 KB took %s", took)
		}
		began = time.Now()
		for range 640 {
			e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: "type.googleapis.com/evil.v1.Type"})
		}
		counted(t, h, overTypes, 640)
		if took := time.Since(began); took < 9*time.Second || took > 12*time.Second {
			t.Errorf("640 messages took %s", took)
		}
		if n := h.Figures().Refused[overFirst]; n != 0 {
			t.Errorf("%d streams were late", n)
		}
		e.cancel()
		waitSessions(t, h, 0)
	})
}

// What is opened and reset costs as much as a message, although it weighs a few bytes and never reaches anybody; so does what is
// asked for and does not exist.
func TestStreamsAreOpenedAtTheirPeersPace(t *testing.T) {
	for name, method := range map[string]string{"reset": "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources", "unknown": "/evil.v1.Service/Method"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, _, _, dial := reports(t, func(a *Admission) { a.Limits.BytesPerSecond, a.Limits.ConnectionAge = 64<<10, time.Hour })
				publish(t, h, table(1, nil))
				c := dial()
				e := connect(t, c, "edge-1", 40)
				e.start("shop", "shop/v1")
				began := time.Now()
				for range 640 {
					ctx, cancel := context.WithCancel(t.Context())
					st, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
					if name == "unknown" && err == nil {
						_ = st.RecvMsg(&discovery.DeltaDiscoveryResponse{})
					}
					cancel()
					synctest.Wait()
				}
				e.subscribe(TypeRoute, "more")
				e.expect(TypeRoute)
				if took := time.Since(began); took < 9*time.Second || took > 15*time.Second {
					t.Errorf("640 streams took %s", took)
				}
				e.cancel()
				waitSessions(t, h, 0)
			})
		})
	}
}

// Connections of an address are bounded, those that say nothing too; so is how fast they come.
func TestConnectionsOfAPeerAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(quietLog())
		h.Admission.Limits.StreamsPerPeer, h.Admission.Limits.BytesPerSecond = 3, 64<<10
		as := newAccounts(h)
		h.arrivals.end() // nobody waits for a turn
		opens := func(ip string) error {
			_, _, err := lines{shakes{}, as}.ServerHandshake(from(ip))
			return err
		}
		began := time.Now()
		for i := range 3 + spareLines {
			if err := opens("10.0.0.66"); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
		if took, want := time.Since(began), time.Duration(3+spareLines)*time.Second/8-time.Second; took.Round(time.Second/8) != want {
			t.Errorf("so many handshakes took %s, want %s", took, want)
		}
		if err := opens("10.0.0.66"); err == nil || !strings.Contains(err.Error(), "10.0.0.66 has 103 connections already: see xds.limits.streams_per_peer") {
			t.Error(err)
		}
		if n := len(as.of["10.0.0.66"].lines); n != 3+spareLines {
			t.Errorf("%d connections are open", n)
		}
		counted(t, h, overStreams, 1)
		if err := opens("10.0.0.5"); err != nil {
			t.Error(err)
		}
		for range 2 * spareLines {
			if err := opens("127.0.0.1"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// greets are credentials of which the handshake reads some bytes, at once and then once more.
type greets struct {
	credentials.TransportCredentials
	bytes int
	took  chan time.Duration
}

func (g greets) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	began := time.Now()
	for range 2 {
		if _, err := c.Read(make([]byte, g.bytes)); err != nil {
			return nil, nil, err
		}
	}
	g.took <- time.Since(began)
	return c, nil, nil
}

// When all who are behind one address come back at once, what they send is read at their pace. Envoy gives a handshake a second: one
// whose turn it is does not wait behind what all others send, nor behind their handshakes.
func TestAHandshakeThatHasItsTurnIsNotKeptWaiting(t *testing.T) {
	for bytes, waits := range map[int]bool{2 << 10: false, handshakeBytes: true} {
		synctest.Test(t, func(t *testing.T) {
			const all = 300
			h := NewHub(quietLog())
			h.Admission.Limits.BytesPerSecond = 1 << 20
			as, g := newAccounts(h), greets{bytes: bytes, took: make(chan time.Duration, all)}
			for range all { // 2.4 MB, of which one goes through at once
				go func() {
					conn, _, err := (lines{g, as}).ServerHandshake(from("10.0.0.5"))
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					if conn.(*line).paid != 0 {
						t.Error("what comes after the handshake is not counted")
					}
				}()
			}
			most := time.Duration(0)
			for range all {
				most = max(most, <-g.took)
			}
			if most > 0 != waits {
				t.Errorf("a handshake of twice %d bytes took %s", bytes, most)
			}
			synctest.Wait()
		})
	}
}

// speaksAt is a stream whose first message arrives after a while.
type speaksAt struct {
	grpc.ServerStream
	after time.Duration
}

func (s speaksAt) RecvMsg(any) error {
	time.Sleep(s.after)
	return nil
}

// A connection that is kept waiting when a stream begins keeps that waiting too; who says nothing afterwards is late all the same.
func TestWhoIsKeptWaitingBeforehandIsNotLate(t *testing.T) {
	for after, late := range map[time.Duration]bool{30*time.Second + time.Millisecond: false, 40 * time.Second: true} {
		synctest.Test(t, func(t *testing.T) {
			h := NewHub(quietLog())
			l := newAccounts(h).open(from("10.0.0.5"))
			defer l.Close()
			l.owes(31 * h.Admission.Limits.BytesPerSecond)
			go l.wait(1)
			synctest.Wait()
			v := &visitor{ServerStream: speaksAt{after: after}, hub: h, line: l, ctx: t.Context()}
			if err := v.first(&discovery.DeltaDiscoveryRequest{}); (err != nil) != late {
				t.Errorf("of a first message that came after %s, of which the connection was kept waiting 30 s: %v", after, err)
			}
			time.Sleep(time.Minute)
		})
	}
}

// halfway is a connection that says no more after so many bytes.
type halfway struct {
	net.Conn
	left int
}

func (c *halfway) Write(b []byte) (int, error) {
	n := min(len(b), c.left)
	c.left -= n
	if _, err := c.Conn.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Messages that never end are not kept for ever: of a peer whose unfinished ones are too many, the oldest goes. Who is
// done with theirs is not touched, at the same address or elsewhere.
func TestUnfinishedMessagesOfAPeerAreBounded(t *testing.T) {
	h := NewHub(quietLog())
	h.Admission.Limits.BytesPerPeer = 2 << 20
	l, _ := listen(t)
	s := NewServer(h, NewLoads(time.Second, func(Report) {}), nil)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	publish(t, h, table(1, nil))
	dial := func(bytes int) *grpc.ClientConn {
		c, err := grpc.NewClient("passthrough:///hub", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				c, err := l.DialContext(ctx)
				return &halfway{c, bytes}, err
			}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	honest := connect(t, dial(1<<30), "edge-1", 40)
	honest.start("shop", "shop/v1")
	long := invented(90_000) // more than 1 MiB
	honest.subscribe(TypeScope, long...)
	honest.ack(honest.expect(TypeScope))
	var half []*envoy
	for i := range 4 {
		e := connect(t, dial(600<<10), fmt.Sprint("half-", i), 40)
		e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: long})
		half = append(half, e)
		time.Sleep(50 * time.Millisecond) // so that they begin one after the other
	}
	counted(t, h, overBytes, 1)
	half[0].ends(codes.Unavailable, "")
	honest.subscribe(TypeRoute, "pay") // it is answered as ever
	for r := range honest.in {
		if honest.ack(r); r.TypeUrl == TypeRoute {
			return
		}
	}
	t.Error("the honest one was ended")
}

// Names are counted over all streams of a peer, delta or not, until nobody asks for them.
func TestNamesOfAPeerAreBounded(t *testing.T) {
	h, _, _, dial := reports(t, func(a *Admission) { a.Limits.NamesPerPeer = 100 })
	h.penalties.least, h.penalties.address = 0, 0
	publish(t, h, table(1, nil))
	first := connect(t, dial(), "edge-1", 40)
	first.start("shop", "shop/v1") // two names
	first.subscribe(TypeRoute, invented(80)...)
	first.expect(TypeRoute)
	second := connect(t, dial(), "edge-2", 40)
	second.subscribe(TypeRoute, invented(20)...)
	second.ends(codes.ResourceExhausted, "102 names on all streams of bufconn: see xds.limits.names_per_peer")
	counted(t, h, overPeer, 1)
	second = connect(t, dial(), "edge-2", 40)
	second.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, InitialResourceVersions: versionsOf(invented(30))})
	second.ends(codes.ResourceExhausted, "112 names on all")

	first.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesUnsubscribe: invented(80)})
	for asked := 80; asked > 2; time.Sleep(time.Millisecond) {
		h.mu.Lock()
		asked = 0
		for _, s := range h.sessions {
			asked += s.asked
		}
		h.mu.Unlock()
	}
	second = connect(t, dial(), "edge-2", 40)
	second.subscribe(TypeRoute, append(invented(79), "shop")...) // what is asked for twice counts once
	second.expect(TypeRoute)
	second.subscribe(TypeRoute, invented(10)...)
	second.expect(TypeRoute)
	counted(t, h, overPeer, 2)
	second.cancel()
	first.cancel()
	waitSessions(t, h, 0)
	third := connect(t, dial(), "edge-3", 40)
	third.subscribe(TypeRoute, invented(100)...)
	third.expect(TypeRoute)
	counted(t, h, overPeer, 2)
}

func versionsOf(names []string) map[string]string {
	out := map[string]string{}
	for _, n := range names {
		out[n] = "x"
	}
	return out
}

func waitSessions(t *testing.T, h *Hub, want int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		h.mu.Lock()
		n := len(h.peers)
		h.mu.Unlock()
		if n == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d streams are left, want %d", n, want)
		}
	}
}

// However many names all streams of a peer ask for at once, nobody waits for more than two hundred of them.
func TestNobodyWaitsBehindManyNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(quietLog())
		as := newAccounts(h)
		publish(t, h, table(1, nil))
		names, left := invented(5000), make(chan bool)
		for i := range 10 {
			n := Node{ID: fmt.Sprint("edge-", i), by: "10.0.0.5", line: as.open(from("10.0.0.5"))}
			s := h.open(n)
			go func() {
				if err := s.receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: names}); err != nil {
					t.Error(err)
				}
				left <- true
			}()
		}
		most, had, done := 0, 0, 0
		for done < 10 {
			select {
			case <-left:
				done++
			case <-time.After(pause):
			}
			h.mu.Lock()
			now := 0
			for _, s := range h.sessions {
				now += s.asked
			}
			h.mu.Unlock()
			most, had = max(most, now-had), now
		}
		if had != 50_000 || most > 2*atOnce {
			t.Errorf("%d of %d names were taken in between two looks", most, had)
		}
	})
}

// A cut overtakes whatever somebody asks for, and is found without looking through that.
func TestNothingIsUrgentOfWhatIsOnlyAskedFor(t *testing.T) {
	h := NewHub(quietLog())
	publish(t, h, table(1, map[string]int{"v2": 100}))
	s := h.open(Node{ID: "edge-1"})
	if err := s.receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: append(invented(5000), "shop")}); err != nil {
		t.Fatal(err)
	}
	k := s.inv.kinds[TypeRoute]
	if len(k.dirty.m) != 5001 || len(k.had.m) != 0 {
		t.Errorf("%d are looked at, %d of them as urgent", len(k.dirty.m), len(k.had.m))
	}
	for {
		if _, _, ok := s.next(); !ok {
			break
		}
	}
	publish(t, h, table(2, map[string]int{"v2": 0}, "v2"))
	if _, marked := k.had.m["shop"]; !marked || len(k.had.m) != 1 {
		t.Errorf("%v are looked at as urgent", k.had.m)
	}
	clear(k.had.m)
	if _, found := s.gate().gather(TypeRoute, true); found {
		t.Error("it was looked for among all that is asked for")
	}
	k.mark("shop")
	if _, found := s.gate().gather(TypeRoute, true); !found {
		t.Error("the cut is not urgent")
	}
}
