package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
)

// ailing is a version of which one path fails, in its way, from some moment on.
type ailing struct {
	path  string
	how   http.HandlerFunc
	fails atomic.Bool
	asked atomic.Int64
}

func (a *ailing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if a.asked.Add(1); a.fails.Load() && strings.HasPrefix(r.URL.Path, a.path) {
		a.how(w, r)
		return
	}
	w.Header().Set("X-Version", "v2")
}

// listen serves it on another port.
func (a *ailing) listen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: a}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return l.Addr().String()
}

// A real Envoy's counts name what fails, on all endpoints or on one: in the verdict, the history, and what a job shows.
func TestTheCauseOfACutIsNamed(t *testing.T) {
	t.Parallel()
	bad := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
	hangUp := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for _, c := range []struct {
		envoy, path string
		how         http.HandlerFunc
		sick        int // endpoints
		kind        string
		said, where string
	}{
		{"envoy-newest", "/checkout", bad, 3, "502", "; /checkout answers 502", " on all 3 endpoints; stable: never"},
		{"envoy-oldest", "/checkout", bad, 3, "502", "; /checkout answers 502", " on all 3 endpoints; stable: never"},
		{"envoy-newest", "/checkout", bad, 1, "502", "; /checkout answers 502 to ", ", one of its 3 endpoints: perhaps one bad instance, not the release; stable: never"},
		{"envoy-newest", "/", hangUp, 1, analysis.Closed, "; it gives no answer (connection closed)", ", one of its 3 endpoints: perhaps one bad instance, not the release; stable: never"}, // a total failure is cut before records tell why
	} {
		t.Run(fmt.Sprint(c.envoy, " ", c.kind, " on ", c.sick), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, setting{envoy: c.envoy, route: "classes: [{name: checkout, path: /checkout}, {name: item, template: /items/*}]", ramp: "ramp: {steps: [50%, 100%], hold: 1m}\njudge: {clump: 1, budget: 100000}\n"})
			for _, path := range []string{"checkout?card=4111", "items/7", ""} {
				l := &rig.Load{URL: "http://" + s.front + "/" + path, Rate: 60}
				l.Start(context.WithoutCancel(t.Context()))
				t.Cleanup(func() { l.Stop() })
			}
			sick, well := &ailing{path: c.path, how: c.how}, &ailing{}
			deploy := []string{"deploy", "shop", "v2"}
			var addresses []string
			for i := range 3 {
				of := well
				if i < c.sick {
					of = sick
				}
				addresses = append(addresses, of.listen(t))
				deploy = append(deploy, "--endpoint", addresses[i])
			}
			s.run(0, deploy...)
			s.until(20*time.Second, "v2 in force", func() bool { return s.Version("shop", "v2").InForce && sick.asked.Load() > 100 })
			sick.fails.Store(true)
			s.phase("v2", 40*time.Second, rollout.Failed)
			v := s.Version("shop", "v2").Verdict
			if !strings.Contains(v.Reason, c.said) || !strings.HasSuffix(v.Reason, c.where) || len(v.Cause) != 1 || v.Cause[0].Kind != c.kind || len(v.Cause[0].Endpoints) != c.sick || v.Cause[0].StableShare != 0 {
				t.Fatalf("%s: %+v", v.Reason, v.Cause)
			}
			if c.sick == 1 && v.Cause[0].Endpoints[0] != addresses[0] {
				t.Errorf("not %s but %s", addresses[0], v.Cause[0].Endpoints)
			}
			s.until(20*time.Second, "the cut, which does not wait for the disk, in the history", func() bool { return strings.Contains(s.run(0, "history", "shop"), v.Reason) })
			for _, shown := range []string{s.run(0, "explain", "shop", "v2"), s.run(0, "history", "shop")} {
				if !strings.Contains(shown, v.Reason) || strings.Contains(shown, "4111") {
					t.Error(shown)
				}
			}
			t.Log(v.Reason)
		})
	}
}
