package controller

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

func underTest(version string, endpoints ...string) *rollout.State {
	p := policy.Default()
	p.Service, p.Route.HealthPath = "shop", "/healthz"
	return &rollout.State{Policy: p, Versions: []*rollout.Version{{Name: version, Phase: rollout.Warming, Endpoints: endpoints}}}
}

func runningProber(t *testing.T) (*prober, <-chan probed) {
	t.Helper()
	out := make(chan probed, 1000)
	p := newProber(out)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { p.run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return p, out
}

func answering(t *testing.T) (endpoint string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// hanging takes connections and never answers.
func hanging(t *testing.T) (endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// Versions whose endpoints hang hold up no other, also when they are more than are asked at once: the
// one that answers is found, and never told to be down because nobody had the time to ask it.
func TestVersionsThatHangHoldUpNobody(t *testing.T) {
	p, out := runningProber(t)
	slow, quick := hanging(t), answering(t)
	for i := range 2 * probeAtOnce {
		p.set(fmt.Sprint("slow", i), underTest("v2", slow))
	}
	time.Sleep(500 * time.Millisecond) // they are being asked
	p.set("shop", underTest("v2", quick))
	down, end := 0, time.After(time.Minute)
	for told := false; !told || down < 2*probeAtOnce; {
		select {
		case e := <-out:
			if e.service != "shop" {
				down++
				continue
			}
			if told || e.Version != "v2" || !e.Up || down == 2*probeAtOnce {
				t.Errorf("after %d of those that hang: %+v", down, e)
			}
			told = true
			s := underTest("v2", quick)
			s.Versions[0].Reachable = true
			p.set("shop", s)
		case <-end:
			t.Fatalf("the one that answers was told: %v; of %d that hang %d were told", told, 2*probeAtOnce, down)
		}
	}
}

// What former endpoints say does not count for the present ones.
func TestFormerEndpointsDoNotCount(t *testing.T) {
	out := make(chan probed, 1)
	p := newProber(out)
	at := answering(t)
	p.set("shop", underTest("v2", at))
	former := p.targets["shop"]["v2"]
	p.set("shop", underTest("v2", "192.0.2.1:80"))
	p.ask(t.Context(), "shop", "v2", former)
	if len(out) > 0 {
		t.Errorf("told %+v", <-out)
	}
}
