package controller

import (
	"context"
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
	go func() {
		defer w.Close()
		files := watchDirs(w, globs)
		anew := time.NewTicker(watchAnew)
		defer anew.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-anew.C:
				files = watchDirs(w, globs)
				continue
			case err := <-w.Errors: // also events that were dropped: something happened
				log.WithError(err).Debug("watching the policy files")
			case e := <-w.Events:
				if e.Op&^(fsnotify.Write|fsnotify.Chmod) == 0 && !files[filepath.Base(e.Name)] {
					continue // as of a database that is beside them
				}
				settled(ctx, w.Events)
				files = watchDirs(w, globs)
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

// watchDirs watches every directory in which a pattern may find a file, and those that files are linked from. One that is
// watched already, or is not there, changes nothing. It returns what the files are called: a directory may be watched by another of its names.
func watchDirs(w *fsnotify.Watcher, globs []string) map[string]bool {
	named := map[string]bool{}
	for _, g := range globs {
		for dir := filepath.Dir(g); ; dir = filepath.Dir(dir) {
			dirs, _ := filepath.Glob(dir)
			for _, d := range dirs {
				_ = w.Add(d)
			}
			if !strings.ContainsAny(dir, `*?[`) {
				break
			}
		}
		files, _ := filepath.Glob(g)
		for _, f := range files {
			named[filepath.Base(f)] = true
			if to, err := filepath.EvalSymlinks(f); err == nil && filepath.Dir(to) != filepath.Dir(f) {
				named[filepath.Base(to)] = true
				_ = w.Add(filepath.Dir(to))
			}
		}
	}
	return named
}
