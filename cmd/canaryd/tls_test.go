package main

import (
	"crypto/tls"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
)

// Certificates on a file server that does not answer keep nobody out: new connections wait a second once, and go by what was read
// before; when it answers, by what it says. Nothing piles up meanwhile.
func TestCertificatesThatHangKeepNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logrus.New()
		log.SetOutput(io.Discard)
		before, after := &tls.Config{ServerName: "before"}, &tls.Config{ServerName: "after"}
		hung := make(chan struct{})
		var readings atomic.Int32
		l := &lastingTLS{last: before, log: log, read: func() (*tls.Config, error) { readings.Add(1); <-hung; return after, nil }}
		connects := func(want *tls.Config, within time.Duration) {
			t.Helper()
			begun := time.Now()
			if c, err := l.forClient(nil); c != want || err != nil || time.Since(begun) > within {
				t.Errorf("%s after %s: %v", c.ServerName, time.Since(begun), err)
			}
		}
		connects(before, tlsWithin)
		for range 100 {
			connects(before, 0)
		}
		if readings.Load() != 1 {
			t.Errorf("%d readings hang", readings.Load())
		}
		close(hung)
		synctest.Wait()
		connects(after, 0)
		if readings.Load() != 2 {
			t.Errorf("%d readings, want 2: files are read for each connection again", readings.Load())
		}
	})
}

// However many connections come in the first second in which certificates are not read, few readings hang.
func TestManyConnectionsAtOnceReadFewTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logrus.New()
		log.SetOutput(io.Discard)
		before, hung := &tls.Config{}, make(chan struct{})
		var readings atomic.Int32
		l := &lastingTLS{last: before, log: log, read: func() (*tls.Config, error) { readings.Add(1); <-hung; return &tls.Config{}, nil }}
		var all sync.WaitGroup
		for range 20 * tlsAtOnce {
			all.Go(func() {
				if c, err := l.forClient(nil); c != before || err != nil {
					t.Error(c, err)
				}
			})
		}
		all.Wait()
		if n := readings.Load(); n != tlsAtOnce {
			t.Errorf("%d readings hang, want %d", n, tlsAtOnce)
		}
		close(hung)
		synctest.Wait()
		if c, _ := l.forClient(nil); c == before || readings.Load() != tlsAtOnce+1 {
			t.Errorf("after that the files are not read: %d readings", readings.Load())
		}
	})
}

// Of two readings at once the younger one counts, whichever ends first; one that failed takes nothing back.
func TestTheYoungerReadingOfCertificatesCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logrus.New()
		log.SetOutput(io.Discard)
		var mu sync.Mutex
		n := 0
		l := &lastingTLS{last: &tls.Config{}, log: log}
		l.read = func() (*tls.Config, error) {
			mu.Lock()
			n++
			mine := n
			mu.Unlock()
			switch mine {
			case 1:
				time.Sleep(500 * time.Millisecond)
				return &tls.Config{ServerName: "older"}, nil
			case 2:
				time.Sleep(100 * time.Millisecond)
				return &tls.Config{ServerName: "younger"}, nil
			}
			return nil, errors.New("wrong")
		}
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() { _, _ = l.forClient(nil) })
			time.Sleep(time.Millisecond)
		}
		both.Wait()
		if c, _ := l.forClient(nil); c.ServerName != "younger" {
			t.Errorf("new connections go by %q", c.ServerName)
		}
	})
}
