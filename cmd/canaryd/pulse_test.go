package main

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
)

// While the file system of the policies hangs, the metric of the alert and one line of the log say so; that keeps canaryd from nothing.
func TestPoliciesThatHangAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		said := &paper{}
		log := logrus.New()
		log.SetOutput(said)
		d := &daemon{log: log}
		hang := make(chan struct{})
		var looks int
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- d.pulse(ctx, func() {
				if looks++; looks == 3 || looks == 5 {
					<-hang
				}
			})
		}()
		told := func(when string, unread bool, lines int) {
			t.Helper()
			synctest.Wait()
			if got := strings.Count(said.String(), "does not answer"); d.unread() != unread || got != lines {
				t.Errorf("%s: unread: %v, %d lines in the log, want %v, %d", when, d.unread(), got, unread, lines)
			}
		}
		time.Sleep(2*pulseEvery + reloadWithin - time.Second)
		told("before a minute is over", false, 0)
		time.Sleep(10 * time.Minute)
		told("while it hangs", true, 1)
		hang <- struct{}{}
		told("when it answers", false, 1)
		time.Sleep(10 * time.Minute)
		told("the second time", true, 2)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		close(hang)
	})
}
