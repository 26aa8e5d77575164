package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	linesWait  = 4096        // lines of the log that wait for what takes them
	flushPause = time.Second // the last ones are waited for at the end
)

// logger logs to stderr. The caller flushes it at the end.
func (f serveFlags) logger() (log *logrus.Logger, flush func(), err error) {
	log = logrus.New()
	level, err := logrus.ParseLevel(f.level)
	if err != nil {
		return nil, nil, usage("--log.level: %q: write debug, info, warning or error", f.level)
	}
	log.SetLevel(level)
	terminal := isTerminal(os.Stderr)
	switch {
	case f.format == "json" || f.format == "" && !terminal:
		log.SetFormatter(&logrus.JSONFormatter{})
	case f.format != "" && f.format != "text":
		return nil, nil, usage("--log.format: %q: write text or json", f.format)
	default:
		log.SetFormatter(plainText{&logrus.TextFormatter{ForceColors: terminal}})
	}
	return log, patient(log, os.Stderr).flush, nil
}

// plainText keeps what others say from being a command to a terminal; JSON does so by itself.
type plainText struct{ *logrus.TextFormatter }

func (p plainText) Format(e *logrus.Entry) ([]byte, error) {
	shown := *e
	shown.Message = plain(e.Message)
	return p.TextFormatter.Format(&shown)
}

// lines hands the log to what takes it, which may hang: a file on a frozen disk, a pipe that nobody reads, a
// terminal that was stopped. Whoever logs does not wait for it, least of all the loop before a cut. Lines that
// find no room are counted, and that is told.
type lines struct {
	log     *logrus.Logger
	to      io.Writer
	queue   chan []byte // nil asks for word in flushed
	flushed chan struct{}
	lost    atomic.Int64
}

// patient lets a logger write that way.
func patient(log *logrus.Logger, to io.Writer) *lines {
	l := &lines{log: log, to: to, queue: make(chan []byte, linesWait), flushed: make(chan struct{}, 1)}
	log.SetOutput(l)
	go l.run()
	return l
}

// Write queues one line.
func (l *lines) Write(line []byte) (int, error) {
	select {
	case l.queue <- bytes.Clone(line):
	default:
		l.lost.Add(1)
	}
	return len(line), nil
}

func (l *lines) run() {
	for line := range l.queue {
		if line == nil {
			l.flushed <- struct{}{}
			continue
		}
		_, _ = l.to.Write(line) // there is nobody else to tell
		if n := l.lost.Swap(0); n > 0 {
			l.admit(n)
		}
	}
}

// admit says how many lines are missing, past the queue.
func (l *lines) admit(n int64) {
	e := logrus.NewEntry(l.log)
	e.Time, e.Level = time.Now(), logrus.WarnLevel
	e.Message = fmt.Sprintf("%d later lines of the log are lost: what takes it did not answer", n)
	if line, err := e.Bytes(); err == nil {
		_, _ = l.to.Write(line)
	}
}

// flush waits for what was logged so far, if it is being taken.
func (l *lines) flush() {
	end := time.After(flushPause)
	select {
	case l.queue <- nil:
	case <-end:
		return
	}
	select {
	case <-l.flushed:
	case <-end:
	}
}
