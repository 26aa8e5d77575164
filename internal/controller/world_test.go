package controller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
	"github.com/canaryd/canaryd/internal/world"
	"github.com/canaryd/canaryd/internal/xds"
)

// bubble is the whole daemon, less HTTP, with an Envoy fleet under fake time.
type bubble struct {
	t      *testing.T
	dir    string
	fleet  []*world.Envoy
	daemon *Controller
	db     *store.Bolt
	disk   *disk
	stop   func()
	dialer *dialer
	join   func()                             // has another Envoy begin
	run    func(e *world.Envoy) (stop func()) // has one begin, or come back
	stops  []func()                           // end the connections of the fleet
}

// inLoop does something as the loop does it, and waits until it is done.
func (b *bubble) inLoop(f func()) {
	b.t.Helper()
	if err := b.daemon.do(b.t.Context(), f); err != nil {
		b.t.Fatal(err)
	}
}

// dialer leads to whichever daemon runs at present.
type dialer struct {
	l atomic.Pointer[bufconn.Listener]
}

func (d *dialer) dial(ctx context.Context, _ string) (net.Conn, error) {
	l := d.l.Load()
	if l == nil {
		return nil, errors.New("no daemon runs")
	}
	return l.DialContext(ctx)
}

func newBubble(t *testing.T, policyText string, envoys int, traffic world.Traffic) *bubble {
	b := &bubble{t: t, dir: t.TempDir(), dialer: &dialer{}, disk: &disk{}}
	b.write(policyText)
	b.start()
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := grpc.NewClient("passthrough:///hub", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(b.dialer.dial))
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	b.run = func(e *world.Envoy) func() {
		ctx, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		running.Go(func() { e.Run(ctx, conn); close(ended) })
		return func() { stop(); <-ended }
	}
	b.join = func() {
		n := len(b.fleet)
		e := world.NewEnvoy(fmt.Sprintf("edge-%d", n), uint64(n), traffic)
		b.fleet = append(b.fleet, e)
		b.stops = append(b.stops, b.run(e))
	}
	for range envoys {
		b.join()
	}
	t.Cleanup(func() {
		b.stop()
		cancel()
		running.Wait()
		_ = conn.Close()
		synctest.Wait()
	})
	return b
}

func (b *bubble) write(policyText string) {
	if err := os.WriteFile(filepath.Join(b.dir, "shop.yml"), []byte(policyText), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// start runs a daemon on the directory.
func (b *bubble) start() {
	b.t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	db, err := store.Open(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	hub := xds.NewHub(log)
	var src *metrics.Envoy
	loads := xds.NewLoads(time.Second, func(r xds.Report) { src.Add(reportOf(r)) })
	src = metrics.NewEnvoy(loads.Often, loads.Nodes)
	b.disk.Bolt = db
	houses, err := docker.New(docker.Options{Log: log, Store: db, Host: "unix:///nowhere.sock"}) // it never runs: tests say what becomes of containers
	if err != nil {
		b.t.Fatal(err)
	}
	c, err := New(Options{Log: log, Store: b.disk, Hub: hub, Source: src, Ask: loads.Ask, Fleet: houses, Policies: []string{filepath.Join(b.dir, "*.yml")},
		Limits: store.Limits{Retention: 30 * 24 * time.Hour, MaxBytes: 1 << 30, Pack: journal.Pack}})
	if err != nil {
		b.t.Fatal(err)
	}
	l := bufconn.Listen(1 << 20)
	srv := xds.NewServer(hub, loads, nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 3)
	go func() { _ = srv.Serve(l); done <- struct{}{} }()
	go func() { _ = c.Run(ctx); done <- struct{}{} }()
	go func() { _ = hub.Run(ctx); done <- struct{}{} }()
	b.daemon, b.db = c, db
	b.dialer.l.Store(l)
	b.stop = func() {
		b.dialer.l.Store(nil)
		srv.Stop()
		cancel()
		for range 3 {
			<-done
		}
		if err := db.Close(); err != nil {
			b.t.Error(err)
		}
	}
}

func reportOf(r xds.Report) metrics.Report {
	out := metrics.Report{Node: r.Node, Stream: r.Stream, To: r.At, From: r.At, Counts: map[string]map[string]analysis.Counts{"shop": {}},
		Served: map[string]metrics.Served{"shop": metrics.Served(r.Served["shop"])}}
	for name, load := range r.Clusters {
		id, _ := xds.ParseCluster(name)
		version := id.Version
		out.Counts["shop"][version] = load.Counts
		out.From = r.At.Add(-load.Interval)
	}
	return out
}

func (b *bubble) announce(version string) {
	b.t.Helper()
	_, _, err := b.daemon.Announce(b.t.Context(), "shop", rollout.Announced{Version: version, Endpoints: []string{"10.0.0.9:80"}, By: "ci"})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bubble) version(name string) *rollout.Version {
	b.t.Helper()
	s, err := b.daemon.Service(b.t.Context(), "shop")
	if err != nil {
		b.t.Fatal(err)
	}
	v := s.State.Version(name)
	if v == nil {
		b.t.Fatalf("no version %s", name)
	}
	return v
}

// until lets fake time pass until the version is in a phase.
func (b *bubble) until(name string, want rollout.Phase, most time.Duration) time.Duration {
	b.t.Helper()
	begin := time.Now()
	for time.Since(begin) < most {
		if b.version(name).Phase == want {
			return time.Since(begin)
		}
		time.Sleep(100 * time.Millisecond)
	}
	v := b.version(name)
	b.t.Fatalf("%s is %s after %s, want %s: %+v", name, v.Phase, most, want, v.Verdict)
	return 0
}

const bubblePolicy = `service: shop
route: {probe: "off"}
versions: [{version: v1, endpoints: ["10.0.0.1:80"], stable: true}]
`

func steady(rates map[string]float64) func(string, time.Time) float64 {
	return func(v string, _ time.Time) float64 { return rates[v] }
}

// Half an hour and more of a rollout with the defaults, steps: auto, on five Envoys.
func TestACleanReleaseIsPromotedAndABadOneCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 5, world.Traffic{Service: "shop", PerSecond: 100,
			ErrorRate: steady(map[string]float64{"v1": 0.001, "v2": 0.001, "v3": 0.02})})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		took := b.until("v2", rollout.Stable, 3*time.Hour)
		t.Logf("promoted after %s", took)
		b.until("v1", rollout.Retired, time.Hour)
		b.announce("v3")
		took = b.until("v3", rollout.Failed, time.Hour)
		time.Sleep(time.Second)
		failed := 0.0
		for _, e := range b.fleet {
			if w := e.Weights(); len(w) != 1 || w["v2"] != 10000 {
				t.Errorf("an Envoy serves %v", w)
			}
			_, x := e.Served("v3")
			failed += x
		}
		t.Logf("a release at 2 %% against 0.1 %% was cut after %s and %.0f failed requests", took, failed)
	})
}

// One of the Envoys refuses every table with more than 1 % of v2: the ramp stops there.
func TestARefusalStopsTheRamp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy+"ramp: {steps: [1%, 10%, 50%, 100%], hold: 5s}\n", 3, world.Traffic{Service: "shop", PerSecond: 300,
			ErrorRate: steady(nil), Refuse: func(w map[string]uint32) string {
				if w["shop/v2"] > 100 {
					return "too much"
				}
				return ""
			}})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(5 * time.Minute)
		v := b.version("v2")
		if v.Verdict.Code != analysis.Nack || v.Phase != rollout.Canary {
			t.Errorf("v2 is %s: %+v", v.Phase, v.Verdict)
		}
		for _, e := range b.fleet {
			if w := e.Weights(); w["v2"] != 100 || w["v1"] != 9900 {
				t.Errorf("an Envoy serves %v", w)
			}
		}
	})
}

// The daemon is stopped and started again at every second of a rollout: it goes on where it was, the
// Envoys never see anything but a table that was decided, and the release is promoted in the end.
func TestRestartsAtAnyMomentLoseNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy+"ramp: {steps: [10%, 50%, 100%], hold: 20s}\njudge: {clump: 1, promote_within: {ratio: 2, margin: 1%}}\n", 2,
			world.Traffic{Service: "shop", PerSecond: 500, ErrorRate: steady(nil)})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		for i := range 12 {
			time.Sleep(10*time.Second + time.Duration(i)*137*time.Millisecond)
			before := b.version("v2")
			if before.Phase == rollout.Stable {
				break
			}
			b.stop()
			for _, e := range b.fleet {
				if w := e.Weights(); w["v2"] != 1000 && w["v2"] != 5000 && w["v2"] != 10000 {
					t.Errorf("an Envoy serves %v while the daemon is away", w)
				}
			}
			time.Sleep(time.Duration(i) * time.Second)
			b.start()
			after := b.version("v2")
			same := after.Judge.Updates == before.Judge.Updates && after.Judge.Relative.E == before.Judge.Relative.E
			if after.Phase != before.Phase || !same && after.Judge.Updates <= before.Judge.Updates {
				t.Errorf("restart %d: %s with %d updates became %s with %d", i, before.Phase, before.Judge.Updates, after.Phase, after.Judge.Updates)
			}
		}
		b.until("v2", rollout.Stable, 5*time.Minute)
	})
}

// The store fails: what raises a weight is not told to any Envoy, a cut is, cutPatience later.
func TestOnlyACutGoesOutUnstored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failing atomic.Bool
		b := newBubble(t, bubblePolicy+"ramp: {steps: [10%, 50%, 100%], hold: 10s}\njudge: {clump: 1}\n", 2, world.Traffic{Service: "shop", PerSecond: 500,
			ErrorRate: func(v string, _ time.Time) float64 {
				if v == "v2" && failing.Load() {
					return 1
				}
				return 0
			}})
		time.Sleep(3 * time.Second)
		b.announce("v2")
		time.Sleep(3 * time.Second)
		if err := b.db.Close(); err != nil { // from now on every write fails
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		s, err := b.daemon.Service(t.Context(), "shop")
		if err != nil || s.Storing == nil {
			t.Fatalf("the failing store is not told: %v", err)
		}
		if s.State.Weight("v2") != 5000 {
			t.Fatalf("no raise was decided, so none could be held back: %d", s.State.Weight("v2"))
		}
		for _, e := range b.fleet {
			if w := e.Weights(); w["v2"] != 1000 {
				t.Errorf("an Envoy was told %v, which is not stored", w)
			}
		}
		failing.Store(true)
		b.until("v2", rollout.Failed, 5*time.Second)
		time.Sleep(cutPatience + 5*time.Millisecond)
		for _, e := range b.fleet {
			if w := e.Weights(); len(w) != 1 || w["v1"] != 10000 {
				t.Errorf("an Envoy still serves %v", w)
			}
		}
	})
}

// A release that was clean for an hour turns bad, with the defaults and low traffic per Envoy.
func TestALateOnsetIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		onset := time.Now().Add(time.Hour)
		b := newBubble(t, bubblePolicy+"ramp: {steps: [5%, 100%], hold: 12h}\n", 4, world.Traffic{Service: "shop", PerSecond: 50,
			ErrorRate: func(v string, at time.Time) float64 {
				if v == "v2" && at.After(onset) {
					return 0.5
				}
				return 0.001
			}})
		time.Sleep(time.Second)
		b.announce("v2")
		time.Sleep(time.Until(onset))
		took := b.until("v2", rollout.Failed, 5*time.Minute)
		t.Logf("cut %s after the onset", took)
		if took > time.Minute {
			t.Errorf("that is too long")
		}
	})
}

// A service at rest is learnt from as well: when a release comes, canaryd knows the traffic and how
// stable's errors usually fall, also after a restart.
func TestAServiceAtRestIsLearntFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 3, world.Traffic{Service: "shop", PerSecond: 100, ErrorRate: steady(map[string]float64{"v1": 0.01})})
		known := func() (m, rate float64) {
			s, err := b.daemon.Service(t.Context(), "shop")
			if err != nil {
				t.Fatal(err)
			}
			return s.State.Dispersion.Bound(), s.State.Rate.PerSecond()
		}
		time.Sleep(time.Hour)
		m, rate := known()
		if m > 2.5 || rate < 250 || rate > 350 {
			t.Errorf("after an hour m = %.2f and %.0f requests/s are known, want about 2, as of one endpoint (nothing known: 4), and 300", m, rate)
		}
		b.stop()
		b.start()
		if again, _ := known(); again > 2.5 {
			t.Errorf("after a restart m = %.2f, it was %.2f", again, m)
		}
	})
}
