package controller

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/sirupsen/logrus"
)

const (
	editQuiet = 100 * time.Millisecond // after the last event of a file: an edit is several
	editMost  = time.Second            // and no later than this after the first
	watchAnew = time.Minute            // directories that came without an event are looked for so often
)

// FileEvents signals when something happens in a directory of policy files, until ctx ends. What it is has to be looked
// at; file systems that others write to, as network mounts, tell nothing of that.
func FileEvents(ctx context.Context, globs []string, log logrus.FieldLogger) (<-chan struct{}, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	events := make(chan struct{}, 1)
	d := watchedDirs{w, filepath.EvalSymlinks, nil}
	go func() {
		defer w.Close()
		d.watch(globs)
		anew := time.NewTicker(watchAnew)
		defer anew.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-anew.C:
				d.watch(globs)
				continue
			case err := <-w.Errors: // also events that were dropped: something happened
				log.WithError(err).Debug("watching the policy files")
			case e := <-w.Events:
				if e.Op&^(fsnotify.Write|fsnotify.Chmod) == 0 && !d.named[filepath.Base(e.Name)] {
					continue // as of a database that is beside them
				}
				settled(ctx, w.Events)
				d.watch(globs)
			}
			select {
			case events <- struct{}{}:
			default:
			}
		}
	}()
	return events, nil
}

// settled waits until an edit is over.
func settled(ctx context.Context, events <-chan fsnotify.Event) {
	late := time.After(editMost)
	for {
		select {
		case <-events:
		case <-time.After(editQuiet):
			return
		case <-late:
			return
		case <-ctx.Done():
			return
		}
	}
}

// watchedDirs are the directories whose events are heard.
type watchedDirs struct {
	*fsnotify.Watcher
	follow func(string) (string, error) // where a link leads to, each directory on the way included
	named  map[string]bool              // what the files are called: a directory may be watched by another of its names
}

// watch watches every directory in which a pattern may find a file, and those that files are linked from. One that is watched
// already, or is not there, changes nothing.
func (w *watchedDirs) watch(globs []string) {
	w.named = map[string]bool{}
	for _, g := range globs {
		for dir := filepath.Dir(g); ; dir = filepath.Dir(dir) {
			dirs, _ := filepath.Glob(dir)
			for _, d := range dirs {
				_ = w.Add(d)
				if dir == filepath.Dir(g) {
					w.files(d, filepath.Base(g))
				}
			}
			if !strings.ContainsAny(dir, `*?[`) {
				break
			}
		}
	}
}

// files notes what the files of a directory are called, and where they are: only links are followed, of ten thousand files.
func (w *watchedDirs) files(dir, pattern string) {
	if to, err := w.follow(dir); err == nil && to != dir {
		_ = w.Add(to)
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if fits, _ := filepath.Match(pattern, e.Name()); !fits {
			continue
		}
		w.named[e.Name()] = true
		if e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		if to, err := w.follow(filepath.Join(dir, e.Name())); err == nil {
			w.named[filepath.Base(to)] = true
			_ = w.Add(filepath.Dir(to))
		}
	}
}
