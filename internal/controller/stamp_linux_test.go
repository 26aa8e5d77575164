package controller

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// folder has policy files, and counts what is read of them.
type folder struct {
	t    *testing.T
	dir  string
	p    *policies
	read []string
}

func newFolder(t *testing.T, services ...string) *folder {
	f := &folder{t: t, dir: t.TempDir()}
	for _, s := range services {
		f.write(s, "1h")
	}
	f.p = newPolicies([]string{filepath.Join(f.dir, "*.yml")}, "envoy")
	f.p.readFile = func(file string) ([]byte, error) {
		f.read = append(f.read, strings.TrimSuffix(filepath.Base(file), ".yml"))
		return os.ReadFile(file)
	}
	return f
}

func (f *folder) file(service string) string { return filepath.Join(f.dir, service+".yml") }

func (f *folder) write(service, hold string) {
	f.t.Helper()
	text := fmt.Sprintf("service: %s\nroute: {probe: \"off\", domains: [%s.example.com]}\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\nramp: {hold: %s}\n", service, service, hold)
	if err := os.WriteFile(f.file(service), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// hidden writes a file as within one tick of its file system's clock: it looks as before.
func (f *folder) hidden(service, hold string) {
	f.t.Helper()
	f.write(service, hold)
	was := f.p.parsed[f.file(service)]
	was.stamp = stampOf(f.file(service))
	f.p.parsed[f.file(service)] = was
}

// reads checks which files are read by something.
func (f *folder) reads(what string, do func(), want ...string) {
	f.t.Helper()
	f.read = nil
	if do(); !slices.Equal(f.read, want) {
		f.t.Errorf("%s: read are %v, want %v", what, f.read, want)
	}
}

func (f *folder) changed(now time.Time, told, want bool) func() {
	return func() {
		f.t.Helper()
		if got := f.p.changed(now, told); got != want {
			f.t.Errorf("changed is %v", got)
		}
	}
}

// says checks what the files say, as holds in the order of their names, or a part of what is wrong with them.
func (f *folder) says(now time.Time, want string) func() {
	return func() {
		f.t.Helper()
		set, err := f.p.readAt(now)
		var holds []string
		for _, d := range set.docs {
			holds = append(holds, d.Policy.Ramp.Hold.String())
		}
		if got := strings.Join(holds, " "); got != want && (err == nil || !strings.Contains(err.Error(), want)) {
			f.t.Errorf("read is %q (%v), want %q", got, err, want)
		}
	}
}

// Of many files those are read that changed. What is wrong in the others is still wrong.
func TestOnlyFilesThatChangedAreRead(t *testing.T) {
	f := newFolder(t, "api", "pay", "shop")
	later := time.Now().Add(5 * time.Minute)
	f.reads("the first time", f.says(later, "1h 1h 1h"), "api", "pay", "shop")
	f.reads("a look", f.changed(later, false, false))
	f.reads("an event", f.changed(later, true, false))
	f.write("pay", "2h")
	f.reads("a look after an edit", f.changed(later, false, true))
	f.reads("after an edit", f.says(later, "1h 2h 1h"), "pay")
	f.write("pay", "soon")
	f.reads("after a mistake", f.says(later, `pay.yml`), "pay")
	f.write("shop", "3h")
	f.reads("after another edit", f.says(later, `pay.yml`), "shop")
	f.reads("a look at a mistake", f.changed(later, true, false))
	f.write("pay", "4h")
	f.reads("after it is mended", f.says(later, "1h 4h 3h"), "pay")
	if err := os.Remove(f.file("api")); err != nil {
		t.Fatal(err)
	}
	f.reads("a look after a removal", f.changed(later, false, true))
	f.reads("after a removal", f.says(later, "4h 3h"))
}

// A file may change twice within a tick of its file system's clock, and be read in between.
func TestAFileThatHasJustChangedIsReadAgain(t *testing.T) {
	begin := time.Now()
	f := newFolder(t, "pay", "shop")
	f.reads("just written", f.says(begin, "1h 1h"), "pay", "shop")
	f.hidden("pay", "2h")
	f.reads("an event", f.changed(begin, true, true), "pay", "shop")
	f.reads("then", f.says(begin, "2h 1h"), "pay", "shop")
	later := begin.Add(time.Minute)
	f.reads("an event later", f.changed(later, true, false), "pay", "shop")
	f.reads("the next one", f.changed(later, true, false))
	f.reads("a reload", f.says(later, "2h 1h"))
}

// The time of a file can be set, as archives and copies do.
func TestAFileWithItsOldTimeIsReadAgain(t *testing.T) {
	f := newFolder(t, "pay", "shop")
	later := time.Now().Add(time.Minute)
	f.says(later, "1h 1h")()
	info, err := os.Stat(f.file("pay"))
	if err != nil {
		t.Fatal(err)
	}
	f.write("pay", "2h")
	if err := os.Chtimes(f.file("pay"), info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	f.reads("a look", f.changed(later, false, true))
	f.reads("then", f.says(later, "2h 1h"), "pay")
}

// A file system whose times are wrong may hide any change: every ten minutes all files are read.
func TestAllFilesAreReadOnceInAWhile(t *testing.T) {
	f := newFolder(t, "api", "pay", "shop")
	later := time.Now().Add(5 * time.Minute)
	f.says(later, "1h 1h 1h")()
	f.hidden("api", "2h")
	f.hidden("pay", "3h")
	f.reads("an event", f.changed(later, true, false))
	later = later.Add(readAnyway)
	f.reads("a look ten minutes later", f.changed(later, false, true), "api", "pay", "shop")
	f.reads("then", f.says(later, "2h 3h 1h"), "api", "pay")
	f.reads("the next look", f.changed(later, false, false))
}
