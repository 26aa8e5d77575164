package xds

import (
	"testing"
	"testing/synctest"
	"time"
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
