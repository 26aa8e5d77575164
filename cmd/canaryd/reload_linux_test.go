package main

import (
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/store"
	"github.com/canaryd/canaryd/internal/xds"
)

// desk is a daemon that reads its files again, and serves nothing.
type desk struct {
	t *testing.T
	daemon
	dir string
}

func newDesk(t *testing.T) *desk {
	d := &desk{t: t, dir: t.TempDir()}
	log := logrus.New()
	log.SetOutput(&paper{})
	db, err := store.Open(filepath.Join(d.dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	src := metrics.NewEnvoy(func() time.Duration { return time.Second }, func() []string { return nil })
	d.write("canaryd.yml", "web: {tokens_file: tokens.yml, access: [{token: ci, role: admin}]}\n")
	d.daemon = daemon{cfg: defaultServerConfig(), log: log, file: d.at("canaryd.yml"), access: access.NewKeeper(access.Config{Rules: []access.Rule{{Token: "ci", Role: access.Admin}}}, nil)}
	if d.ctl, err = controller.New(controller.Options{Log: log, Store: db, Hub: xds.NewHub(log), Source: src, Policies: []string{d.at("*.policy")}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { _ = d.ctl.Run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended; _ = db.Close() })
	return d
}

func (d *desk) at(name string) string { return filepath.Join(d.dir, name) }

func (d *desk) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(d.at(name), []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// hangs makes a file that answers nobody, as one on a file server that is away. What is returned waits for who reads it, and lets it answer.
func (d *desk) hangs(name string) (reader func() (answer func(text string))) {
	d.t.Helper()
	path := d.at(name)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		if f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0); err == nil {
			f.Close() // whoever still reads gets nothing
		}
	})
	return func() func(string) {
		var pen *os.File
		d.waits("nobody reads "+name, func() (opened bool) {
			var err error
			pen, err = os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
			return err == nil
		})
		return func(text string) {
			if _, err := pen.WriteString(text); err != nil {
				d.t.Error(err)
			}
			pen.Close()
		}
	}
}

// admits reports whether a token opens anything.
func (d *desk) admits(token string) bool {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	who, err := d.access.Identify(r)
	return err == nil && who.May(access.Admin, "")
}

func (d *desk) waits(what string, until func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(time.Minute); !until(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Fatalf("in vain: %s", what)
		}
	}
}

func newToken(t *testing.T, name string) (token, line string) {
	t.Helper()
	token, line, err := access.NewToken(name)
	if err != nil {
		t.Fatal(err)
	}
	return token, line
}

// A token is taken away although the policies are on a file server that is away, at the second hangup too; and whoever asks for a reload is told.
func TestPoliciesThatHangKeepNoTokenAlive(t *testing.T) {
	d := newDesk(t)
	hangup := make(chan os.Signal)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = d.hangups(ctx, hangup) }()
	d.hangs("shop.policy")
	for range 3 {
		token, line := newToken(t, "ci")
		d.write("tokens.yml", line+"\n")
		select {
		case hangup <- syscall.SIGHUP:
		case <-time.After(time.Minute):
			t.Fatal("the hangup is not heard")
		}
		d.waits("the token before is still the one", func() bool { return d.admits(token) })
	}
	asked, done := context.WithTimeout(ctx, 50*time.Millisecond)
	defer done()
	if err := d.reload(asked, "somebody"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "the policies are still being read") || strings.Contains(err.Error(), "who may do what") {
		t.Error(err)
	}
}

// Of two reloads at once, the files that were read last are in force: a token that was taken away does not come back.
func TestAnOlderReadingDoesNotComeLast(t *testing.T) {
	d := newDesk(t)
	old, oldLine := newToken(t, "ci")
	young, youngLine := newToken(t, "ci")
	reader := d.hangs("tokens.yml")
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- d.reload(t.Context(), "first") }()
	answer := reader()
	d.write("young.yml", youngLine+"\n")
	if err := os.Rename(d.at("young.yml"), d.at("tokens.yml")); err != nil {
		t.Fatal(err)
	}
	go func() { second <- d.reload(t.Context(), "second") }()
	select {
	case err := <-second:
		t.Errorf("the second reload did not wait for the first: %v", err)
		second <- err
	case <-time.After(100 * time.Millisecond):
	}
	answer(oldLine + "\n")
	for _, ended := range []chan error{first, second} {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if d.admits(old) || !d.admits(young) {
		t.Errorf("the token that was taken away opens canaryd: %v; the new one: %v", d.admits(old), d.admits(young))
	}
}

// A reading that does not end is in the metric of the alert, as one that failed.
func TestAReadingThatHangsCountsAsFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rereading
		hung := make(chan struct{})
		go func() { _ = r.reading(func() error { <-hung; return nil }) }()
		time.Sleep(reloadWithin - time.Second)
		if r.failed() {
			t.Error("too early")
		}
		time.Sleep(2 * time.Second)
		if !r.failed() {
			t.Error("nobody is told")
		}
		close(hung)
		synctest.Wait()
		if r.failed() {
			t.Error("it was read")
		}
		if err := r.reading(func() error { return errors.New("wrong") }); err == nil || !r.failed() {
			t.Error("what is wrong in the files is not told")
		}
	})
}

// Policies on a file server that is away do not keep canaryd from stopping.
func TestPoliciesThatHangDoNotKeepCanarydFromStopping(t *testing.T) {
	d := newDesk(t)
	reader := d.hangs("shop.policy")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- watchFiles(ctx, d.ctl, []string{d.at("*.policy")}, d.log) }()
	read := make(chan func(string), 1)
	go func() { read <- reader() }()
	var answer func(string)
	for i := 0; answer == nil; i++ {
		d.write("other.policy", strings.Repeat("\n", i%2)+"service: other\n") // an event, as soon as the directory is watched
		select {
		case answer = <-read:
		case <-time.After(200 * time.Millisecond):
		}
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("it does not stop")
	}
	answer("")
}
