package docker

import (
	"context"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/canaryd/canaryd/internal/policy"
)

// A container's output shows no value of docker.env, also where it is quoted, or only a part of it is there.
func TestOutputShowsNoSecrets(t *testing.T) {
	key := "-----BEGIN KEY-----\nhunter2first\nhunter2second\n-----END KEY-----\n"
	want := Want{Spec: policy.Docker{Env: map[string]policy.Secret{
		"KEY": {Value: key}, "URL": {Value: "postgres://shop:hunter2%2Fpass@db:5432/shop"}, "QUOTED": {Value: `hunter2"and\more`}, "SPACED": {Value: "hunter2 & more"}, "SHORT": {Value: "info"},
	}}}
	for said, shows := range map[string]string{
		key:                                "",
		"hunter2second\n-----END KEY-----": "", // the end of an output
		": hunter2second":                  "",
		"connecting to postgres://shop:hunter2%2Fpass@db:5432/shop": "connecting to ",
		"no access for shop with hunter2/pass":                      "no access for shop with ",
		`{"secret": "hunter2\"and\\more"}`:                          `{"secret": "`,
		"GET /?q=hunter2+%26+more":                                  "GET /?q=",
		"log level info":                                            "log level info",
	} {
		if got := want.hiding(t.Context(), &files{}, said); strings.Contains(got, "hunter2") || !strings.Contains(got, shows) || shows != said && !strings.Contains(got, policy.Hidden) {
			t.Errorf("%q is shown as %q", said, got)
		}
	}
}

// A container says what it was started with, also when that is not what is written any more, or cannot be read.
func TestOutputShowsNoFormerSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	want := Want{Spec: policy.Docker{Env: map[string]policy.Secret{"A_KEY": {FromFile: file + "-is-gone"}, "KEY": {FromFile: file}, "PLAIN": {Value: "hunter3plain"}}}}
	if err := os.WriteFile(file, []byte("hunter2young"), 0o600); err != nil {
		t.Fatal(err)
	}
	in := container.InspectResponse{Config: &container.Config{Env: []string{"PATH=/usr/local/bin:/bin", "KEY=hunter1old", "A_KEY=hunter0gone", "PLAIN=hunter3plain"}}}
	said := "PATH=/usr/local/bin:/bin: no access with hunter1old, hunter0gone, hunter2young, hunter3plain"
	if got := want.hiding(t.Context(), &files{}, want.hidingOf(in, said)); strings.Contains(got, "hunter") || !strings.Contains(got, "/usr/local/bin:/bin: no access") {
		t.Error(got)
	}
}

// The file of a value may be on a file server that is away: nothing waits for it for ever.
func TestAValueThatHangsIsNotWaitedForForEver(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if f, err := os.OpenFile(pipe, os.O_RDWR|syscall.O_NONBLOCK, 0); err == nil {
			f.Close() // whoever still reads gets nothing
		}
	}()
	want := Want{Spec: policy.Docker{Env: map[string]policy.Secret{"A": {FromFile: pipe}, "B": {Value: "hunter2"}}}}
	var fs files
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := want.environment(ctx, &fs); err == nil || !strings.Contains(err.Error(), "docker.env.A: it was not read in time") {
		t.Error(err)
	}
	if got := want.hiding(ctx, &fs, "B is hunter2"); got != "B is "+policy.Hidden {
		t.Error(got)
	}
	threads := pprof.Lookup("threadcreate").Count()
	for range 200 {
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, _ = want.environment(short, &fs)
		cancel()
	}
	if more := pprof.Lookup("threadcreate").Count() - threads; more > 100 {
		t.Errorf("%d threads were made for 200 tries", more)
	}
}
