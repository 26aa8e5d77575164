package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/rollout"
)

// runs is how often a figure is measured: FIGURES times, or once where the test only guards the goal.
func runs() int {
	if n, err := strconv.Atoi(os.Getenv("FIGURES")); err == nil && n > 0 {
		return n
	}
	return 1
}

// A release at 5 % of 500 requests/s that fails totally, at once or after a time of health: seconds
// from the first error to the last request at it, and failed requests. The goals are for the median.
func TestFigureTotalFailure(t *testing.T) {
	late := 10 * time.Second
	if runs() > 1 {
		late = 2 * time.Minute
	}
	for _, c := range []struct {
		source  string
		healthy time.Duration
		goal    time.Duration
	}{
		{"envoy", 0, 3 * time.Second}, {"envoy", late, 3 * time.Second},
		{"prometheus", 0, 12 * time.Second}, {"prometheus", late, 12 * time.Second},
	} {
		t.Run(fmt.Sprintf("%s after %s", c.source, c.healthy), func(t *testing.T) {
			if runs() == 1 {
				t.Parallel() // a guard against defects, no measurement
			}
			var mu sync.Mutex
			var took []time.Duration
			var failed []int
			t.Run("runs", func(t *testing.T) {
				for i := range runs() {
					t.Run(strconv.Itoa(i), func(t *testing.T) {
						if c.healthy > 0 {
							t.Parallel() // waiting for the onset need not be done one after the other
						}
						d, n := totalFailure(t, c.source, c.healthy)
						mu.Lock()
						defer mu.Unlock()
						took, failed = append(took, d), append(failed, n)
					})
				}
			})
			if len(took) != runs() {
				t.Fatalf("%d of %d runs gave a figure", len(took), runs())
			}
			slices.Sort(took)
			slices.Sort(failed)
			mid := len(took) / 2
			t.Logf("FIGURE total failure, source %s, after %s of health, %d runs: first error to last request median %.2f s, worst %.2f s; failed requests median %d, worst %d",
				c.source, c.healthy, len(took), took[mid].Seconds(), took[len(took)-1].Seconds(), failed[mid], failed[len(failed)-1])
			within(t, "the median cut", took[mid], c.goal)
		})
	}
}

func totalFailure(t *testing.T, source string, healthy time.Duration) (time.Duration, int) {
	s := newScene(t, setting{source: source, scrape: 5 * time.Second, ramp: "ramp: {steps: [5%, 50%, 100%], hold: 1h}\n"})
	s.load(500)
	v2 := s.version("v2")
	if healthy == 0 {
		v2.Fail(1)
	}
	if source == "prometheus" { // it was there before the release: the first scrape of an Envoy is only a reference. At any phase
		time.Sleep(10*time.Second + time.Duration(rand.IntN(5000))*time.Millisecond)
	}
	s.run(0, s.deploy(v2)...)
	if healthy > 0 {
		s.until(20*time.Second, "v2 to be served", func() bool { return v2.Count().Requests > 0 })
		time.Sleep(healthy + time.Duration(rand.IntN(5000))*time.Millisecond) // at any phase of the scrapes
		v2.Fail(1)
	}
	v := s.phase("v2", 60*time.Second, rollout.Failed)
	s.until(10*time.Second, "the cut in force", func() bool { return s.Version("shop", "v1").InForce })
	time.Sleep(300 * time.Millisecond)
	c := v2.Count()
	if c.Requests == 0 || v.Weight != 0 {
		t.Fatalf("nothing was measured: %+v", c)
	}
	return c.Last.Sub(c.Onset), c.Failed
}

// The same with reports as often as is worth it, of a canary at 5 % of 400 requests/s: two instances cannot hiccup together,
// so they are cut at once; one is given the length of a hiccup.
func TestFigureTotalFailureByInstances(t *testing.T) {
	for _, c := range []struct {
		instances int
		goal      time.Duration
	}{{2, 500 * time.Millisecond}, {1, time.Second}} {
		t.Run(fmt.Sprintf("%d", c.instances), func(t *testing.T) {
			if runs() == 1 {
				t.Parallel() // a guard against defects, no measurement
			}
			var took []time.Duration
			var failed []int
			for range 2 * runs() {
				d, n := failureOf(t, c.instances)
				took, failed = append(took, d), append(failed, n)
			}
			slices.Sort(took)
			slices.Sort(failed)
			mid := len(took) / 2
			t.Logf("FIGURE total failure at 5 %% of 400 requests/s, %d instances, interval auto, %d runs: first error to last request median %.2f s, worst %.2f s; failed requests median %d, worst %d",
				c.instances, len(took), took[mid].Seconds(), took[len(took)-1].Seconds(), failed[mid], failed[len(failed)-1])
			within(t, "the median cut", took[mid], c.goal)
		})
	}
}

// failureOf lets a canary of some instances be well for a while, and then fail everything.
func failureOf(t *testing.T, instances int) (took time.Duration, failed int) {
	s := newScene(t, setting{ramp: "ramp: {steps: [5%, 50%, 100%], hold: 1h}\njudge: {clump: 1}\n"})
	defer s.Close()
	load := s.load(400)
	defer load.Stop()
	args := []string{"deploy", "shop", "v2"}
	var all []*rig.Service
	for range instances {
		v := s.version("v2")
		all, args = append(all, v), append(args, "--endpoint", v.Address)
	}
	s.run(0, args...)
	s.until(20*time.Second, "every instance to be served", func() bool {
		return !slices.ContainsFunc(all, func(v *rig.Service) bool { return v.Count().Requests == 0 })
	})
	time.Sleep(5*time.Second + time.Duration(rand.IntN(1000))*time.Millisecond)
	for _, v := range all {
		v.Fail(1)
	}
	s.phase("v2", 60*time.Second, rollout.Failed)
	s.until(10*time.Second, "the cut in force", func() bool { return s.Version("shop", "v1").InForce })
	time.Sleep(300 * time.Millisecond)
	onset, last := time.Time{}, time.Time{}
	for _, v := range all {
		c := v.Count()
		if failed += c.Failed; c.Failed > 0 && (onset.IsZero() || c.Onset.Before(onset)) {
			onset = c.Onset
		}
		if c.Last.After(last) {
			last = c.Last
		}
	}
	if failed == 0 {
		t.Fatal("nothing was measured")
	}
	return last.Sub(onset), failed
}

// Start to serving, size and idle memory of the binary.
func TestFigureFootprint(t *testing.T) {
	bin := part(t, "canaryd")
	info, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	stage, err := rig.NewStage(t.TempDir(), bin, "", map[string]string{"shop.yml": "service: shop\n"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stage.Close)
	begin := time.Now()
	if err := stage.StartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	start := time.Since(begin)
	time.Sleep(2 * time.Second)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", stage.Daemon().PID()))
	if err != nil {
		t.Fatal(err)
	}
	rss := 0.0
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.Fields(v)[0])
			if err != nil {
				t.Fatal(err)
			}
			rss = float64(kb) / 1024
		}
	}
	size := float64(info.Size()) / 1e6
	t.Logf("FIGURE start to serving %.0f ms, binary %.1f MB, idle memory %.1f MB", float64(start.Milliseconds()), size, rss)
	within(t, "the start", start, time.Second)
	if size > 45 || rss > 60 || rss == 0 {
		t.Errorf("goals: < 45 MB, < 60 MB")
	}
}

func checkMetrics(t *testing.T, promtool, body string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(body)
	out, err := cmd.CombinedOutput()
	if err != nil || len(strings.TrimSpace(string(out))) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}
