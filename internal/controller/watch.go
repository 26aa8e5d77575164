package controller

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
	d := watchedDirs{Watcher: w, follow: filepath.EvalSymlinks}
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
				if !d.matters(e, globs) {
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
	ways   ways                         // what is called so leads to files
}

// matters reports whether an event may be of a policy file, or of what leads to one.
func (w *watchedDirs) matters(e fsnotify.Event, globs []string) bool {
	name := filepath.Base(e.Name)
	if w.named[name] {
		return true
	}
	if e.Op&^(fsnotify.Write|fsnotify.Chmod) == 0 {
		return false
	}
	return w.ways.names[name] || slices.ContainsFunc(globs, func(g string) bool { return fits(filepath.Base(g), name) }) || w.leads(e.Name, globs)
}

// leads reports whether a path that was on the way to no file may be now: a directory, or a link to one. What has gone meanwhile has
// an event of its own.
func (w *watchedDirs) leads(path string, globs []string) bool {
	name := filepath.Base(path)
	if !slices.ContainsFunc(globs, func(g string) bool {
		return slices.ContainsFunc(wildDirs(g), func(dir string) bool { return fits(filepath.Base(dir), name) })
	}) {
		return false
	}
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&(fs.ModeDir|fs.ModeSymlink) != 0
}

// wildDirs are the directories of a pattern that are patterns themselves, the innermost first.
func wildDirs(glob string) (dirs []string) {
	for dir := filepath.Dir(glob); strings.ContainsAny(dir, `*?[`); dir = filepath.Dir(dir) {
		dirs = append(dirs, dir)
	}
	return dirs
}

func fits(pattern, name string) bool {
	is, _ := filepath.Match(pattern, name)
	return is
}

// watch watches every directory in which a pattern may find a file, and those that files are linked from. One that is watched
// already, or is not there, changes nothing.
func (w *watchedDirs) watch(globs []string) {
	w.named, w.ways = map[string]bool{}, newWays()
	for _, g := range globs {
		for dir := filepath.Dir(g); ; dir = filepath.Dir(dir) {
			dirs, _ := filepath.Glob(dir)
			for _, d := range dirs {
				w.ways.note(d)
				if info, err := os.Stat(d); err != nil || !info.IsDir() {
					continue
				}
				w.add(d)
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

// add watches a directory: what becomes of it is told by its own name.
func (w *watchedDirs) add(dir string) {
	_ = w.Add(dir)
	w.ways.names[filepath.Base(dir)] = true
}

// files notes what the files of a directory are called, and where they are: only links are followed, of ten thousand files.
func (w *watchedDirs) files(dir, pattern string) {
	real, err := w.follow(dir)
	if err != nil {
		real = dir
	}
	if real != dir {
		w.add(real)
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !fits(pattern, e.Name()) {
			continue
		}
		w.named[e.Name()] = true
		if e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		w.ways.note(filepath.Join(real, e.Name()))
		if to, err := w.follow(filepath.Join(dir, e.Name())); err == nil {
			w.named[filepath.Base(to)] = true
			w.add(filepath.Dir(to))
		}
	}
}
