package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// What takes the log hangs: nobody who logs waits for it, what has room is written in order when it is taken
// again, and what had none is admitted.
func TestNobodyWaitsForTheLog(t *testing.T) {
	log := logrus.New()
	log.SetFormatter(&logrus.JSONFormatter{})
	reader, writer := io.Pipe()
	l := patient(log, writer)
	log.Info("first")
	for deadline := time.Now().Add(10 * time.Second); len(l.queue) > 0 && time.Now().Before(deadline); { // the first hangs in the pipe
		time.Sleep(time.Millisecond)
	}
	for range linesWait + 7 {
		log.Info("more")
	}
	text := make(chan string)
	go func() {
		b, _ := io.ReadAll(reader) // ends when the pipe is closed
		text <- string(b)
	}()
	for len(l.queue) > 0 {
		time.Sleep(time.Millisecond)
	}
	log.Info("last")
	l.flush()
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(<-text), "\n")
	if len(got) != linesWait+3 || !strings.Contains(got[0], "first") || !strings.Contains(got[1], "7 later lines of the log are lost") || !strings.Contains(got[len(got)-1], "last") {
		t.Errorf("%d lines: %s %s ... %s", len(got), got[0], got[1], got[len(got)-1])
	}
}

// At the end a log that nobody takes keeps canaryd for a moment only.
func TestALogThatHangsDoesNotHoldUpTheEnd(t *testing.T) {
	log := logrus.New()
	_, writer := io.Pipe()
	l := patient(log, writer)
	log.Info("nobody reads this")
	begin := time.Now()
	l.flush()
	if took := time.Since(begin); took < flushPause {
		t.Errorf("it was flushed after %s", took)
	}
}
