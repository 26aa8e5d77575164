package docker

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// crowd is a daemon with a container of each of n services, and the fleet that made them all.
type crowd struct {
	*Fleet
	wants []Want
	asked atomic.Int64 // for all containers
}

func newCrowd(tb testing.TB, n int) *crowd {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "docker.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	c := &crowd{}
	log := logrus.New()
	log.SetOutput(io.Discard)
	if c.Fleet, err = New(Options{Log: log, Store: stored(tb), Host: "unix://" + path}); err != nil {
		tb.Fatal(err)
	}
	all, _ := json.Marshal(c.containersOf(n)) // maps and strings
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.51")
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/containers/json") {
			c.asked.Add(1)
			_, _ = w.Write(all)
			return
		}
		_, _ = io.WriteString(w, `{"State": {"Running": true, "Status": "running"}, "HostConfig": {"NetworkMode": "host"}}`)
	})}
	go func() { _ = s.Serve(l) }()
	tb.Cleanup(func() { _ = s.Close() })
	return c
}

// containersOf makes the wants of n services, and what the daemon says of them.
func (c *crowd) containersOf(n int) (all []any) {
	for i := range n {
		want := Want{Service: fmt.Sprintf("shop%d", i), Spec: policy.Docker{Port: 80, Replicas: 1},
			Container: rollout.Container{Version: "v1", Attempt: 1, Image: "shop:v1", Goal: rollout.Start, Launched: true, Alone: true}}
		name, id := want.name(0), fmt.Sprint("id", i)
		c.owned.put(name, record{IDs: []string{id}})
		all = append(all, map[string]any{"Id": id, "Names": []string{"/" + name}, "State": "running", "Labels": c.configOf(want, nil, name).Labels})
		c.wants = append(c.wants, want)
	}
	return all
}

// served looks at a version as its worker does that told of its container before.
func (c *crowd) served(tb testing.TB, want Want) {
	tb.Helper()
	w := &worker{}
	w.told.Endpoints = []string{"127.0.0.1:80"}
	e, err := c.pass(tb.Context(), want, w)
	if err != nil || len(e.Endpoints) != 1 || e.Note != "" {
		tb.Fatalf("%s: %+v, %v", want.Service, e, err)
	}
}

// Versions that serve are looked at without a question to the daemon for each: it would tell of all containers every time.
func TestLookingAtOneVersionAsksNothingForOthers(t *testing.T) {
	c := newCrowd(t, 50)
	for _, want := range c.wants {
		c.served(t, want)
	}
	if n := c.asked.Load(); n > 2 { // one by right, and one for a machine that stood still
		t.Errorf("%d versions serve, and the daemon was asked for all containers %d times", len(c.wants), n)
	}
}

// Workers walk the containers of their own versions only: each walked those of all others, too.
func TestAWorkerWalksItsOwnContainers(t *testing.T) {
	c := newCrowd(t, 50)
	walked := 0
	for _, want := range c.wants {
		cs, err := c.containers(t.Context(), want)
		if walked += len(cs); err != nil {
			t.Fatal(err)
		}
	}
	if walked != len(c.wants) {
		t.Errorf("%d workers of a container each walk %d containers", len(c.wants), walked)
	}
}

// When something else is wanted of one service, only its wants are gone through for those that have no worker yet; and who is
// wanted again after its worker has ended gets another.
func TestWorkersAreBegunForWhatIsWantedAnew(t *testing.T) {
	c := newCrowd(t, 50)
	for _, want := range c.wants {
		c.Want(want.Service, []Want{want})
	}
	begun := c.begun()
	if len(begun) != 50 || len(c.begun()) > 0 {
		t.Errorf("%d workers of 50 versions", len(begun))
	}
	first := c.wants[0]
	again := first
	again.Attempt = 2
	c.Want(first.Service, []Want{first, again})
	if n := len(c.anew); n != 1 {
		t.Errorf("of one service something else is wanted, and %d are gone through", n)
	}
	if begun := c.begun(); len(begun) != 1 || begun[again.key()] == nil {
		t.Errorf("begun: %v", begun)
	}
	c.Want(first.Service, nil)
	if _, _, ok := c.wanted(t.Context(), first.key(), begun[first.key()]); ok {
		t.Error("a worker of which nothing is wanted goes on")
	}
	c.Want(first.Service, []Want{first})
	if begun := c.begun(); len(begun) != 1 || begun[first.key()] == nil {
		t.Errorf("begun when it is wanted again: %v", begun)
	}
}

// Something else is wanted of one of ten thousand services.
func BenchmarkWant(b *testing.B) {
	c := newCrowd(b, 10_000)
	for _, want := range c.wants {
		c.Want(want.Service, []Want{want})
	}
	c.begun()
	two := []Want{c.wants[0], c.wants[0]}
	two[1].Spec.Replicas = 2
	for i := 0; b.Loop(); i++ {
		c.Want(two[0].Service, two[i%2:i%2+1])
		c.begun()
	}
}

// None of ten thousand workers has removed anything.
func BenchmarkGone(b *testing.B) {
	c := newCrowd(b, 10_000)
	for b.Loop() {
		for range c.wants {
			c.owned.gone(b.Context(), nil, "")
		}
	}
}

// All of ten thousand workers find their containers, once.
func BenchmarkList(b *testing.B) {
	c := newCrowd(b, 10_000)
	for b.Loop() {
		for _, want := range c.wants {
			if mine, _, err := c.list(b.Context(), want); err != nil || len(mine) != 1 {
				b.Fatal(len(mine), err)
			}
		}
	}
	b.ReportMetric(float64(c.asked.Load())/float64(b.N), "questions/op")
}
