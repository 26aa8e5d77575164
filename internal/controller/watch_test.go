package controller

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/sirupsen/logrus"
)

// Whatever way a policy file is changed, somebody hears of it.
func TestEveryEditIsHeardOf(t *testing.T) {
	dir, far := t.TempDir(), t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(path, text string) {
		t.Helper()
		must(os.WriteFile(path, []byte(text), 0o600))
	}
	must(os.Mkdir(filepath.Join(dir, "eu"), 0o700))
	must(os.Mkdir(filepath.Join(dir, "asia"), 0o700))
	must(os.Mkdir(filepath.Join(dir, "data-1"), 0o700))
	write(filepath.Join(dir, "data-1", "shop.yml"), "1")
	must(os.Symlink("data-1", filepath.Join(dir, "data")))
	must(os.Symlink("data/shop.yml", filepath.Join(dir, "shop.yml")))
	write(filepath.Join(far, "pay.yml"), "1")
	must(os.Symlink(filepath.Join(far, "pay.yml"), filepath.Join(dir, "pay.yml")))
	write(filepath.Join(dir, "near.text"), "1")
	must(os.Symlink("near.text", filepath.Join(dir, "near.yml")))
	events, err := FileEvents(t.Context(), []string{filepath.Join(dir, "*.yml"), filepath.Join(dir, "*", "*.yaml")}, logrus.New())
	must(err)
	time.Sleep(100 * time.Millisecond)
	heard := func() bool {
		select {
		case <-events:
			return true
		case <-time.After(2 * time.Second):
			return false
		}
	}
	write(filepath.Join(dir, "canaryd.db"), "1")
	write(filepath.Join(dir, "eu", "canaryd.db"), "1")
	write(filepath.Join(dir, "canaryd.db"), "2")
	must(os.Rename(filepath.Join(dir, "canaryd.db"), filepath.Join(dir, "old.db")))
	must(os.Remove(filepath.Join(dir, "old.db")))
	if heard() {
		t.Error("a database beside the policies is taken for one")
	}
	for what, edit := range map[string]func(){
		"a new file":         func() { write(filepath.Join(dir, "new.yml"), "1") },
		"one in a directory": func() { write(filepath.Join(dir, "eu", "new.yaml"), "1") },
		"one in a new one": func() {
			must(os.Mkdir(filepath.Join(dir, "us"), 0o700))
			heard()
			write(filepath.Join(dir, "us", "new.yaml"), "1")
		},
		"behind a link":        func() { write(filepath.Join(far, "pay.yml"), "2") },
		"behind one beside it": func() { write(filepath.Join(dir, "near.text"), "2") },
		"in a linked folder":   func() { write(filepath.Join(dir, "data-1", "shop.yml"), "2") },
		"a rename over it": func() {
			write(filepath.Join(dir, "x.tmp"), "3")
			must(os.Rename(filepath.Join(dir, "x.tmp"), filepath.Join(dir, "shop.yml")))
		},
		"a linked file that is gone": func() { must(os.Remove(filepath.Join(dir, "near.text"))) },
		"a renamed directory":        func() { must(os.Rename(filepath.Join(dir, "asia"), filepath.Join(dir, "apac"))) },
		"a folder swapped out": func() {
			must(os.Mkdir(filepath.Join(dir, "data-2"), 0o700))
			heard()
			must(os.Symlink("data-2", filepath.Join(dir, "data.tmp")))
			must(os.Rename(filepath.Join(dir, "data.tmp"), filepath.Join(dir, "data")))
		},
	} {
		edit()
		if !heard() {
			t.Errorf("%s: nobody heard of it", what)
		}
		for time.Sleep(2 * editQuiet); len(events) > 0; time.Sleep(2 * editQuiet) {
			<-events
		}
	}
}

// Of what is beside policy files only that is looked at which may be one, or lead to one.
func TestWhatLeadsToNoPolicyIsNothing(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"eu", "us", "..rev1", "tmp.d"} {
		must(os.Mkdir(filepath.Join(dir, d), 0o700))
	}
	for _, f := range []string{"shop.yml", "..rev1/pay.yml", "shop.yml.tmp", "eu/policy", "eu/policy.tmp"} {
		must(os.WriteFile(filepath.Join(dir, f), nil, 0o600))
	}
	for link, to := range map[string]string{"pay.yml": "..data/pay.yml", "..data": "..now", "..now": "..rev1", "later.yml": "..later/text", "asia": "us"} {
		must(os.Symlink(to, filepath.Join(dir, link)))
	}
	flat, deep := []string{filepath.Join(dir, "*.yml")}, []string{filepath.Join(dir, "*", "policy")}
	watched := func(globs []string) *watchedDirs {
		w, err := fsnotify.NewWatcher()
		must(err)
		t.Cleanup(func() { _ = w.Close() })
		d := &watchedDirs{Watcher: w, follow: filepath.EvalSymlinks}
		d.watch(globs)
		return d
	}
	matter := func(globs []string, op fsnotify.Op, want bool, names ...string) {
		t.Helper()
		d := watched(globs)
		for _, name := range names {
			if got := d.matters(fsnotify.Event{Name: filepath.Join(dir, name), Op: op}, globs); got != want {
				t.Errorf("%s of %s: it matters is %v", op, name, got)
			}
		}
	}
	for _, op := range []fsnotify.Op{fsnotify.Create, fsnotify.Remove, fsnotify.Rename} {
		matter(flat, op, true, "shop.yml", "new.yml", "pay.yml", "..data", "..now", "..rev1", "..later", "text", ".")
		matter(flat, op, false, "shop.yml.tmp", "gone.tmp", "tmp.d", "canaryd.db")
		matter(deep, op, true, "eu/policy", "us/policy", "eu", "us", "asia", ".")
		matter(deep, op, false, "eu/policy.tmp", "eu/gone.tmp", "shop.yml", "gone.tmp")
	}
	d := watched(deep)
	must(os.Mkdir(filepath.Join(dir, "newer"), 0o700))
	must(os.Symlink("eu", filepath.Join(dir, "newest")))
	for name, want := range map[string]bool{"newer": true, "newest": true, "shop.yml.tmp": false} {
		if got := d.matters(fsnotify.Event{Name: filepath.Join(dir, name), Op: fsnotify.Create}, deep); got != want {
			t.Errorf("a new %s: it matters is %v", name, got)
		}
	}
	matter(flat, fsnotify.Write, true, "shop.yml", "pay.yml")
	matter(flat, fsnotify.Write, false, "..data", "new.yml", "shop.yml.tmp")
}

// Of many files only links are followed, and their directory once.
func TestOnlyLinksAreFollowed(t *testing.T) {
	dir, far := t.TempDir(), t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		must(os.WriteFile(filepath.Join(dir, fmt.Sprintf("s%02d.yml", i)), nil, 0o600))
	}
	must(os.WriteFile(filepath.Join(far, "far.text"), nil, 0o600))
	must(os.Symlink(filepath.Join(far, "far.text"), filepath.Join(dir, "link.yml")))
	w, err := fsnotify.NewWatcher()
	must(err)
	defer w.Close()
	followed := 0
	d := watchedDirs{Watcher: w, follow: func(path string) (string, error) { followed++; return filepath.EvalSymlinks(path) }}
	d.watch([]string{filepath.Join(dir, "*.yml")})
	if followed != 2 || len(d.named) != 22 || !d.named["far.text"] || !slices.Contains(w.WatchList(), far) {
		t.Errorf("%d followed; watched are %v in %v", followed, d.named, w.WatchList())
	}
}
