package docker

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/rollout"
)

// counted is a daemon without containers that counts how often it is asked for them, and may be slow to answer.
func counted(t *testing.T, slow <-chan struct{}) (f *Fleet, asked *atomic.Int64) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	asked = &atomic.Int64{}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.51")
		if !strings.HasSuffix(r.URL.Path, "/containers/json") {
			return
		}
		asked.Add(1)
		select {
		case <-slow:
		case <-r.Context().Done():
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "[]")
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	log := logrus.New()
	log.SetOutput(io.Discard)
	if f, err = New(Options{Log: log, Store: stored(t), Host: "unix://" + path}); err != nil {
		t.Fatal(err)
	}
	return f, asked
}

// However many versions are looked at, the daemon is asked once a sweep; but never is an answer to a question from before
// canaryd changed something taken for one after it: it would make a container twice.
func TestTheDaemonIsAskedOnceForAll(t *testing.T) {
	answer := make(chan struct{})
	f, asked := counted(t, answer)
	var wg sync.WaitGroup
	ask := func(n int) {
		for range n {
			wg.Go(func() {
				if _, err := f.containers(t.Context(), second); err != nil {
					t.Error(err)
				}
			})
		}
	}
	until := func(n int64) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); asked.Load() < n && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(50 * time.Millisecond)
		if got := asked.Load(); got != n {
			t.Errorf("it was asked %d times, want %d", got, n)
		}
	}
	ask(100)
	until(1)
	f.survey.changed()
	ask(100)
	until(2)
	dropped, drop := context.WithCancel(t.Context())
	drop()
	if _, err := f.containers(dropped, second); err == nil {
		t.Error("who asks no longer waits for an answer")
	}
	close(answer)
	wg.Wait()
	ask(100)
	wg.Wait()
	until(2)
	f.survey.changed()
	ask(1)
	until(3)
	wg.Wait()
}

// Of all that the daemon tells of, an attempt has what canaryd made for it, by name, and for earlier attempts of its version.
func TestWhatAnAttemptFinds(t *testing.T) {
	f, _ := counted(t, nil)
	of := func(service, version string, attempt, i int, change map[string]string) container.Summary {
		want := Want{Service: service, Container: rollout.Container{Version: version, Attempt: attempt}}
		name := want.name(i)
		c := container.Summary{ID: name, Names: []string{"/" + name}, Labels: f.configOf(want, nil, name).Labels}
		maps.Copy(c.Labels, change)
		return c
	}
	copied := of("shop", "v2", 2, 0, nil)
	copied.ID, copied.Names = "copied", []string{"/vigilant_bose"}
	f.survey.keep(time.Now(), 0, versionsOf([]container.Summary{
		of("shop", "v2", 2, 1, nil), of("shop", "v2", 1, 1, nil), of("shop", "v2", 2, 0, nil), of("shop", "v2", 1, 0, nil), of("shop", "v2", 3, 0, nil), copied,
		of("shop", "v1", 2, 0, nil), of("shop2", "v2", 2, 0, nil), of("shop", "v2", 2, 2, map[string]string{LabelManaged: "no"}),
		of("shop", "v2", 2, 3, map[string]string{LabelAttempt: "two"}), of("shop", "v2", 2, 4, map[string]string{LabelSeal: "another's"}),
	}))
	mine, older, err := f.list(t.Context(), second)
	if got := fmt.Sprint(names(mine), names(older)); err != nil || got != "[canaryd-shop.v2-2-0 canaryd-shop.v2-2-1] [canaryd-shop.v2-1-1 canaryd-shop.v2-1-0]" {
		t.Errorf("%s, %v", got, err)
	}
}

func names(cs []container.Summary) (out []string) {
	for _, c := range cs {
		out = append(out, nameOf(c))
	}
	return out
}

// A version rests when all of it runs and the daemon tells what becomes of it; it is looked at when that says something,
// something else is wanted, or the daemon tells no longer. One that failed has its time.
func TestAVersionThatServesRests(t *testing.T) {
	f, _ := counted(t, nil)
	want := Want{Service: "shop", Container: rollout.Container{Version: "v1", Attempt: 1, Goal: rollout.Start, Launched: true, Alone: true}}
	want.Spec.Replicas = 1
	f.Want("shop", []Want{want})
	w := &worker{poke: make(chan struct{}, 1), drop: func() {}}
	f.work[want.key()] = w
	serves := want.event()
	serves.Endpoints = []string{"10.0.0.2:80"}
	looked := func() bool {
		select {
		case <-w.poke:
			return true
		default:
			return false
		}
	}
	if f.rest(want, w, serves) != sweep {
		t.Error("it rests though nobody tells what becomes of it")
	}
	f.listening(true)
	w.stirred = false // another pass
	for what, e := range map[string]Event{"one that has a note": {Launched: rollout.Launched{Note: "restarts", Endpoints: serves.Endpoints}}, "one without a container": want.event()} {
		if f.rest(want, w, e) != sweep {
			t.Errorf("%s rests", what)
		}
	}
	two := want
	two.Spec.Replicas = 2
	for what, change := range map[string]func(){
		"its container ended":        func() { f.wakeUp(want.key()) },
		"more of it is wanted":       func() { f.Want("shop", []Want{two}); f.Want("shop", []Want{want}) },
		"the daemon tells no longer": func() { f.listening(false); f.listening(true) },
	} {
		if f.rest(want, w, serves) != restSweep || looked() {
			t.Errorf("before %s: it does not rest", what)
		}
		if change(); !looked() {
			t.Errorf("%s, and it is not looked at", what)
		}
		if f.rest(want, w, serves) != sweep {
			t.Errorf("%s while it was looked at, and it rests", what)
		}
		w.stirred = false
	}
	if f.rest(two, w, serves) != sweep {
		t.Error("it rests on something that is wanted no more")
	}
	w.resting = false
	if f.wakeUp(want.key()); looked() {
		t.Error("one that does not rest is tried before its time")
	}
}
