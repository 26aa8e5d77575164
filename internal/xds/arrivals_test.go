package xds

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/credentials"
)

// arrives is one more connection, and how long it waited for its turn.
func arrives(as *accounts, address string) (l *line, waited time.Duration) {
	began := time.Now()
	l = as.open(from(address))
	as.hub.arrivals.arrive(l)
	return l, time.Since(began)
}

func TestConnectionsArriveInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAccounts(NewHub(quietLog()))
		var all []*line
		for range atATime {
			l, waited := arrives(as, "127.0.0.1")
			if all = append(all, l); waited != 0 {
				t.Fatalf("a connection waited %s for nobody", waited)
			}
		}
		for i, end := range []func(*line){func(l *line) { l.arrived(); l.arrived() }, func(l *line) { _ = l.Close() }} {
			time.AfterFunc(time.Millisecond, func() { end(all[i]) })
			l, waited := arrives(as, "127.0.0.1")
			if all = append(all, l); waited != time.Millisecond {
				t.Errorf("waited %s for the turn of another one, which ends after 1ms", waited)
			}
		}
		for _, l := range all {
			l.speaks()
		}
		time.Sleep(silentMost)
		for _, l := range all {
			l.speaks() // again: that buys no time
		}
		if _, waited := arrives(as, "127.0.0.1"); waited != answeredMost-silentMost {
			t.Errorf("waited %s for those who get no answer", waited)
		}
		for range atATime - 1 {
			arrives(as, "127.0.0.1")
		}
		if _, waited := arrives(as, "127.0.0.1"); waited != silentMost {
			t.Errorf("waited %s for those who say nothing", waited)
		}
	})
}

// Connections of one address that say nothing, however many they are, keep nobody else waiting.
func TestSilentConnectionsKeepOutTheirOwnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAccounts(NewHub(quietLog()))
		for range 20 * ofOneAddress {
			go arrives(as, "10.0.0.66")
		}
		synctest.Wait()
		for range 5 {
			l, waited := arrives(as, "10.0.0.1")
			if waited != 0 {
				t.Errorf("waited %s for connections of another address", waited)
			}
			l.arrived()
		}
		if _, waited := arrives(as, "10.0.0.66"); waited != turnWaitsMost && waited < 19*silentMost {
			t.Errorf("waited %s behind %d silent connections of the same address", waited, 20*ofOneAddress)
		}
	})
}

// shakes are credentials of which the handshake takes its time, and fails or not.
type shakes struct {
	credentials.TransportCredentials
	takes time.Duration
	fails error
}

func (s shakes) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	time.Sleep(s.takes)
	return c, nil, s.fails
}

// Handshakes have their turn as well, and one that fails ends it. The silence of a client begins after its handshake.
func TestHandshakesInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAccounts(NewHub(quietLog()))
		turns := func() int { return len(as.hub.arrivals.turns) }
		if _, _, err := (lines{shakes{fails: io.EOF}, as}).ServerHandshake(from("10.0.0.5")); err != io.EOF || turns() != 0 || len(as.of["10.0.0.5"].lines) != 0 {
			t.Errorf("after a handshake that failed (%v) %d connections have their turn, and %d are open", err, turns(), len(as.of["10.0.0.5"].lines))
		}
		began := time.Now()
		for range 2 * ofOneAddress {
			go func() {
				conn, _, err := (lines{shakes{takes: silentMost / 2}, as}).ServerHandshake(from("10.0.0.5"))
				if err != nil {
					t.Error(err)
					return
				}
				conn.(*line).arrived()
			}()
		}
		time.Sleep(silentMost / 4)
		if turns() != ofOneAddress {
			t.Errorf("%d handshakes at a time, not %d", turns(), ofOneAddress)
		}
		time.Sleep(silentMost)
		if turns() != 0 {
			t.Errorf("%d have their turn after %s, when all are done", turns(), time.Since(began))
		}
		conn, _, err := (lines{shakes{takes: silentMost / 2}, as}).ServerHandshake(from("10.0.0.5"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		time.Sleep(silentMost - time.Millisecond)
		synctest.Wait()
		if turns() != 1 {
			t.Error("a client that says nothing lost its turn before its time")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if turns() != 0 {
			t.Error("a client that says nothing keeps its turn")
		}
	})
}

// Whoever ends, ends the wait: canaryd, the connection, and time.
func TestNobodyWaitsForATurnForEver(t *testing.T) {
	for what, of := range map[string]struct {
		then func(*line)
		want time.Duration
	}{
		"canaryd":        {func(l *line) { l.account.hub.arrivals.end() }, time.Second},
		"the connection": {func(l *line) { _ = l.Close() }, time.Second},
		"time":           {func(*line) {}, turnWaitsMost},
	} {
		synctest.Test(t, func(t *testing.T) {
			as := newAccounts(NewHub(quietLog()))
			for range atATime {
				as.hub.arrivals.turns <- struct{}{}
			}
			l, began := as.open(from("127.0.0.1")), time.Now()
			time.AfterFunc(time.Second, func() { of.then(l) })
			as.hub.arrivals.arrive(l)
			l.arrived()
			if waited := time.Since(began); waited != of.want {
				t.Errorf("%s ends: it went on after %s, not %s", what, waited, of.want)
			}
			if len(as.hub.arrivals.turns) != atATime || len(l.account.turns) != 0 {
				t.Errorf("%s ends: a turn ended that nobody had, or goes on", what)
			}
		})
	}
}
