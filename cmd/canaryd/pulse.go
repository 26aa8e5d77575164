package main

import (
	"context"
	"os"
	"path/filepath"
	"time"
)

// pulseEvery is how often it is seen whether the file system of the policies answers.
const pulseEvery = 30 * time.Second

// pulse tells when it does not: the look at the files that would see an edit, or a mistake, hangs with it, and says nothing.
func (d *daemon) pulse(ctx context.Context, look func()) error {
	for {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = d.looking.reading(func() error { look(); return nil }) // that files are not there is another one's to say
		}()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reloadWithin):
			d.log.Warn("the file system of the policies does not answer: edits are not seen until it does")
		case <-ended:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pulseEvery):
		}
	}
}

// lookAt asks for the directories of some patterns: their files are many.
func lookAt(globs []string) {
	for _, g := range globs {
		dirs, _ := filepath.Glob(filepath.Dir(g)) // that a pattern is none was said before
		for _, dir := range dirs {
			_, _ = os.Stat(dir)
		}
	}
}

// unread reports whether the files do not say what is in force, as far as the daemon itself knows.
func (d *daemon) unread() bool { return d.rereading.failed() || d.looking.failed() }
