package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
	"github.com/canaryd/canaryd/internal/xds"
)

// Only here the disk of a whole daemon is really full: a cut still goes out, nothing is raised, and the status says why.
func TestACutGoesOutWhenTheDiskIsFull(t *testing.T) {
	t.Parallel()
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatalf("mount a small disk (the test needs root): %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	s := newScene(t, setting{ramp: "ramp: {steps: [10%, 20%, 100%], hold: 5s}\n", extra: fmt.Sprintf("storage: {path: %q}\n", disk)})
	s.load(300)
	v2 := s.version("v2")
	s.run(0, s.deploy(v2)...)
	s.until(10*time.Second, "v2 in force", func() bool { return s.Version("shop", "v2").InForce && v2.Count().Requests > 0 })
	fill(t, disk)
	unstored := func() bool {
		svc, err := s.Service("shop")
		return err == nil && strings.Contains(strings.Join(svc.Warnings, "\n"), "history is not being written")
	}
	// The database may still have free pages of its own, so it is written to until it has none.
	for n := 0; !unstored(); n++ {
		if n == 300 {
			t.Fatal("300 commands were stored on a full disk")
		}
		for _, verb := range []string{"pause", "resume"} { // refused with 1 as soon as nothing is stored
			if code, _, errOut, err := s.Run(t.Context(), verb, "shop"); err != nil || code != 0 && !strings.Contains(errOut, "not stored yet") {
				t.Fatalf("%s: exit %d, %v: %s", verb, code, err, errOut)
			}
		}
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) { // a step up is due
		v := s.Version("shop", "v2")
		if v.InForce && v.Weight > 0.1 && !strings.Contains(s.run(0, "history", "shop"), "advanced") {
			t.Fatal("v2 was raised although that is not stored")
		}
	}
	v2.Fail(1)
	s.phase("v2", 15*time.Second, rollout.Failed)
	s.until(15*time.Second, "v2 to get nothing more", func() bool { // what is not stored is not told to be in force
		n := v2.Count().Requests
		time.Sleep(time.Second)
		return v2.Count().Requests == n
	})
	if !unstored() && !strings.Contains(s.run(0, "history", "shop"), "rolled_back") {
		t.Error("the cut is not stored, and the status does not say so")
	}
	if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
		t.Fatal(err)
	}
	s.until(10*time.Second, "the history to be written again", func() bool {
		svc, err := s.Service("shop")
		return err == nil && len(svc.Warnings) == 0 && strings.Contains(s.run(0, "history", "shop"), "rolled_back")
	})
}

// fill takes what room there is.
func fill(t *testing.T, disk string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(disk, "filler"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{1 << 16, 1 << 12, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, n))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// hubWithEnvoy serves a hub of the test's own to a real Envoy.
func hubWithEnvoy(t *testing.T, tables ...rollout.Table) (*xds.Hub, *scene) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	hub := xds.NewHub(log)
	for _, tab := range tables {
		if err := hub.PublishTable(tab); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := xds.NewServer(hub, xds.NewLoads(time.Second, func(xds.Report) {}), nil)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	s := &scene{t: t, versions: map[string]*rig.Service{}, Stage: &rig.Stage{Dir: t.TempDir(), Envoy: part(t, "envoy-newest"), XDS: l.Addr().String()}}
	t.Cleanup(s.Close)
	if _, s.admin, err = s.StartEnvoy(t.Context(), "edge-1", "edge", nil); err != nil {
		t.Fatal(err)
	}
	return hub, s
}

func tableOf(service, listener, host string, generation uint64, v2 int, endpoints ...string) rollout.Table {
	p := policy.Default()
	p.Service, p.Route.Listener, p.Route.Domains = service, listener, []string{host}
	t := rollout.Table{Service: service, Generation: generation, Policy: &p, Stable: "v1", Slots: []rollout.Run{{Version: "v1", Count: 10000 - v2}}}
	if v2 > 0 {
		t.Slots = append(t.Slots, rollout.Run{Version: "v2", Count: v2})
	}
	for i, e := range endpoints {
		t.Clusters = append(t.Clusters, rollout.Cluster{Version: fmt.Sprintf("v%d", i+1), Endpoints: []string{e}})
	}
	return t
}

func settled(hub *xds.Hub, service string, generation uint64, most time.Duration) (xds.Status, bool) {
	deadline := time.After(patience * most)
	for {
		for _, st := range hub.TakeChanges() {
			if st.Service == service && st.Generation == generation && (st.InForce || len(st.Refusals) > 0) {
				return st, true
			}
		}
		select {
		case <-hub.Changes():
		case <-deadline:
			return xds.Status{}, false
		}
	}
}

// A real Envoy refuses a route: the refusal names the node and its reason, users keep the old one,
// and a good one is taken again.
func TestARealEnvoyRefusesARoute(t *testing.T) {
	t.Parallel()
	v1, err := rig.NewService("v1", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v1.Close)
	front := rig.FreeAddress()
	good := tableOf("shop", front, "*", 1, 0, v1.Address)
	hub, _ := hubWithEnvoy(t, good)
	if st, ok := settled(hub, "shop", 1, 20*time.Second); !ok || !st.InForce {
		t.Fatalf("%+v", st)
	}
	bad := good
	bad.Generation, bad.Slots = 2, []rollout.Run{{Version: "v1", Count: 0}}
	if err := hub.PublishTable(bad); err != nil {
		t.Fatal(err)
	}
	st, ok := settled(hub, "shop", 2, 10*time.Second)
	if !ok || st.InForce || len(st.Refusals) != 1 || st.Refusals[0].Node != "edge-1" || !strings.Contains(st.Refusals[0].Message, "weight") {
		t.Fatalf("%+v", st)
	}
	t.Logf("Envoy says: %s", st.Refusals[0].Message)
	if !rig.Answers("http://" + front + "/") {
		t.Error("users lost the old route")
	}
	good.Generation = 3
	if err := hub.PublishTable(good); err != nil {
		t.Fatal(err)
	}
	if st, ok := settled(hub, "shop", 3, 10*time.Second); !ok || !st.InForce {
		t.Errorf("%+v", st)
	}
}

// A weight change on one Envoy that knows 1 000 services, from the end of the durable write to in
// force, with the write beside it: in turns without a part of the journal, and with one of half a minute.
func TestFigureWeightInForceWith1000Services(t *testing.T) {
	v1, err := rig.NewService("v1", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v1.Close)
	front := rig.FreeAddress()
	var tables []rollout.Table
	for i := range 1000 {
		name := fmt.Sprintf("svc-%04d", i)
		tables = append(tables, tableOf(name, front, name+".example.com", 1, 0, v1.Address, v1.Address))
	}
	hub, _ := hubWithEnvoy(t, tables...)
	if _, ok := settled(hub, "svc-0500", 1, 40*time.Second); !ok {
		t.Fatal("never in force")
	}
	db, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var took, wrote [2][]time.Duration
	for i := range 600 {
		with := i % 2
		w := store.Write{Service: "svc-0500", State: make([]byte, 8000), Records: [][]byte{make([]byte, 800)}}
		if with == 1 {
			w.Parts = []store.Part{{Begin: uint64(1 + i/200), Number: uint32(i % 200), Data: make([]byte, 3000)}}
		}
		begin := time.Now()
		if _, err := db.Save([]store.Write{w}); err != nil {
			t.Fatal(err)
		}
		stored := time.Now()
		wrote[with] = append(wrote[with], stored.Sub(begin))
		if err := hub.PublishTable(tableOf("svc-0500", front, "svc-0500.example.com", uint64(i+2), 1+i*5, v1.Address, v1.Address)); err != nil {
			t.Fatal(err)
		}
		if st, ok := settled(hub, "svc-0500", uint64(i+2), 5*time.Second); !ok || !st.InForce {
			t.Fatalf("%+v", st)
		}
		took[with] = append(took[with], time.Since(stored))
		time.Sleep(5 * time.Millisecond)
	}
	for with, what := range []string{"without the journal", "with it"} {
		took, wrote := took[with], wrote[with]
		slices.Sort(took)
		slices.Sort(wrote)
		t.Logf("FIGURE weight to in force, one Envoy with 1 000 services, %s, %d changes: p50 %.2f ms, p99 %.2f ms, max %.2f ms (durable write before it: p50 %.2f ms, max %.2f ms)", what, len(took),
			ms(took[len(took)/2]), ms(took[len(took)*99/100]), ms(took[len(took)-1]), ms(wrote[len(wrote)/2]), ms(wrote[len(wrote)-1]))
	}
	within(t, "the median change", took[1][len(took[1])/2], 3*time.Millisecond)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// A wrong policy is refused with its position, by the reload too, and the running one is untouched.
func TestAWrongReloadChangesNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t, setting{ramp: quickRamp})
	before, err := s.Service("shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WritePolicy("shop.yml", "service: shop\nramp: {steps: [10%, 5%, 100%]}\n"); err != nil {
		t.Fatal(err)
	}
	code, body := post(t, "http://"+s.Web+"/-/reload")
	if code != 422 || !strings.Contains(body, "shop.yml:2:21: steps must rise") {
		t.Errorf("reload answered %d: %s", code, body)
	}
	after, err := s.Service("shop")
	if err != nil || after.Policy != before.Policy {
		t.Errorf("the policy went from %s to %s (%v)", before.Policy, after.Policy, err)
	}
	if _, m := get(t, "http://"+s.Web+"/metrics"); !strings.Contains(m, "canaryd_config_last_reload_successful 0") {
		t.Error("the metric does not say that the reload failed")
	}
	s.run(1, "deploy", "nosuch", "v2", "--endpoint", "127.0.0.1:1")
	s.run(1, "promote", "shop", "v9")
	s.run(1, "deploy", "shop", "v2") // no endpoints
	s.run(1, "deploy", "shop", "v2", "--endpoint", "no-such-host.invalid:80")
	s.run(1, "deploy", "shop", "v2", "--endpoint", "127.0.0.1:1,127.0.0.1:1")
	s.run(2, "deploy", "shop")
	out := s.run(11, "deploy", "shop", "v2", "--endpoint", "127.0.0.1:1", "--wait", "--timeout", "3s")
	if !strings.Contains(out, "undecided") {
		t.Errorf("it says %s", out)
	}
	s.run(0, "abort", "shop")
	s.run(12, "wait", "shop", "v2")
}
