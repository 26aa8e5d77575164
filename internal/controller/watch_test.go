package controller

import (
	"os"
	"path/filepath"
	"testing"
	"time"

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
	must(os.Mkdir(filepath.Join(dir, "data-1"), 0o700))
	write(filepath.Join(dir, "data-1", "shop.yml"), "1")
	must(os.Symlink("data-1", filepath.Join(dir, "data")))
	must(os.Symlink("data/shop.yml", filepath.Join(dir, "shop.yml")))
	write(filepath.Join(far, "pay.yml"), "1")
	must(os.Symlink(filepath.Join(far, "pay.yml"), filepath.Join(dir, "pay.yml")))
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
	heard()
	write(filepath.Join(dir, "canaryd.db"), "2")
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
		"behind a link":      func() { write(filepath.Join(far, "pay.yml"), "2") },
		"in a linked folder": func() { write(filepath.Join(dir, "data-1", "shop.yml"), "2") },
		"a rename over it": func() {
			write(filepath.Join(dir, "x.tmp"), "3")
			must(os.Rename(filepath.Join(dir, "x.tmp"), filepath.Join(dir, "shop.yml")))
		},
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
