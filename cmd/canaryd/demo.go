package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/config"
	"github.com/canaryd/canaryd/internal/rig"
	"github.com/canaryd/canaryd/internal/web"
)

// demo shows the main job on a real Envoy.
type demo struct {
	envoy, prometheus, source string
	rate                      int
	out                       io.Writer

	stage    *rig.Stage
	load     *rig.Load
	versions []*rig.Service
}

func demoCommand() *cobra.Command {
	d := &demo{}
	c := &cobra.Command{Use: "demo", Short: "Show a clean and a failing release, on a real Envoy", Example: `  canaryd demo --envoy=/usr/local/bin/envoy`}
	c.Flags().StringVar(&d.envoy, "envoy", "envoy", "Envoy's binary")
	c.Flags().StringVar(&d.prometheus, "prometheus", "prometheus", "Prometheus' binary, with --source=prometheus")
	c.Flags().StringVar(&d.source, "source", "envoy", "source of evidence: envoy or prometheus")
	c.Flags().IntVar(&d.rate, "rate", 500, "requests/s")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if d.source != "envoy" && d.source != "prometheus" {
			return usage("--source %q: write envoy or prometheus", d.source)
		}
		d.out = cmd.OutOrStdout()
		return d.run(cmd.Context())
	}
	return c
}

func (d *demo) run(ctx context.Context) error {
	for _, bin := range []*string{&d.envoy, &d.prometheus} {
		path, err := exec.LookPath(*bin)
		if err != nil && (bin == &d.envoy || d.source == "prometheus") {
			return fmt.Errorf("%s is not installed: `make demo` fetches Envoy; Prometheus is in Debian's package `prometheus`: %w", *bin, err)
		}
		if *bin, err = filepath.Abs(path); err != nil { // the programs run in a directory of their own
			return err
		}
	}
	dir, err := os.MkdirTemp("", "canaryd-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	front, err := d.raise(ctx, dir)
	if d.stage != nil {
		defer d.stage.Close()
	}
	if err != nil {
		return err
	}
	d.load = &rig.Load{URL: "http://" + front + "/", Rate: d.rate}
	d.load.Start(ctx)
	defer d.load.Stop()
	fmt.Fprintf(d.out, "Envoy serves %s, %d requests/s, all of them go to v1. Evidence: %s.\n\n", front, d.rate, d.source)
	if err := d.release(ctx, 1, 0, exitOK); err != nil {
		return err
	}
	if err := d.release(ctx, 2, 1, exitRolledBack); err != nil {
		return err
	}
	return d.table()
}

// raise starts the services, canaryd, Envoy, and Prometheus where it is the source.
func (d *demo) raise(ctx context.Context, dir string) (front string, err error) {
	for _, v := range []string{"v1", "v2", "v3"} {
		s, err := rig.NewService(v, "")
		if err != nil {
			return "", err
		}
		d.versions = append(d.versions, s)
	}
	front = rig.FreeAddress()
	text := strings.NewReplacer("127.0.0.1:10000", front, "127.0.0.1:10001", d.versions[0].Address).Replace(string(config.DemoPolicy))
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	extra, promAddr := "", rig.FreeAddress()
	if d.source == "prometheus" {
		extra = fmt.Sprintf("metrics: {source: prometheus, interval: 500ms, prometheus: {url: \"http://%s\"}}\n", promAddr)
	}
	if d.stage, err = rig.NewStage(dir, self, extra, map[string]string{"shop.yml": text}); err != nil {
		return "", err
	}
	d.stage.Envoy, d.stage.Prometheus = d.envoy, d.prometheus
	if err := d.stage.StartDaemon(ctx); err != nil {
		return "", err
	}
	_, admin, err := d.stage.StartEnvoy(ctx, "edge", "edge", nil)
	if err != nil {
		return "", err
	}
	if d.source == "prometheus" {
		if _, err := d.stage.StartPrometheusAt(ctx, promAddr, time.Second, admin); err != nil {
			return "", err
		}
	}
	return front, rig.WaitFor(ctx, 10*time.Second, "the first answer through Envoy", func() bool { return rig.Answers("http://" + front + "/") })
}

// release runs `canaryd deploy --wait` for a version and shows the rollout while it lasts.
func (d *demo) release(ctx context.Context, index int, errorRate float64, want int) error {
	s := d.versions[index]
	s.Fail(errorRate)
	what := "a clean release"
	if errorRate > 0 {
		what = fmt.Sprintf("a release that fails %.0f%% of its requests", errorRate*100)
	}
	fmt.Fprintf(d.out, "%s, %s: canaryd deploy shop %s --endpoint %s --wait\n", s.Version, what, s.Version, s.Address)
	type result struct {
		code        int
		out, errOut string
		err         error
	}
	done := make(chan result, 1)
	begin := time.Now()
	go func() {
		var r result
		r.code, r.out, r.errOut, r.err = d.stage.Run(ctx, "deploy", "shop", s.Version, "--endpoint", s.Address, "--wait", "--timeout", "5m")
		done <- r
	}()
	view := liveView{out: d.out}
	for {
		select {
		case r := <-done:
			view.end()
			if r.err != nil {
				return r.err
			}
			fmt.Fprintf(d.out, "  exit %d after %.1f s: %s\n", r.code, time.Since(begin).Seconds(), r.out)
			if r.code != want {
				return fmt.Errorf("%s: exit %d, expected %d: %s\n%s", s.Version, r.code, want, r.errOut, d.stage.Daemon().Tail())
			}
			return nil
		case <-time.After(200 * time.Millisecond):
			if svc, err := d.stage.Service("shop"); err == nil {
				view.show(svc, s.Version, time.Since(begin))
			}
		}
	}
}

// liveView is one moving line on a terminal, and one line per change elsewhere.
type liveView struct {
	out  io.Writer
	last string
}

func (l *liveView) show(s web.Service, version string, since time.Duration) {
	v := s.Find(version)
	if v == nil {
		return
	}
	if isTerminal(l.out) {
		fmt.Fprintf(l.out, "\r\033[K  %4.1f s  %s", since.Seconds(), progressLine(*v, s, terminalWidth(l.out)-len("  9999.9 s  ")-1))
		return
	}
	if key := fmt.Sprint(v.Phase, v.Weight); key != l.last {
		fmt.Fprintf(l.out, "  %4.1f s  %s\n", since.Seconds(), progressLine(*v, s, 0))
		l.last = key
	}
}

func (l *liveView) end() {
	if isTerminal(l.out) {
		fmt.Fprint(l.out, "\r\033[K")
	}
}

// table sums up what the load client and the services counted; canaryd has no part in it.
func (d *demo) table() error {
	sent := d.load.Stop()
	fmt.Fprintln(d.out, "Counted by the load client and by the services themselves:")
	t := tabwriter.NewWriter(d.out, 2, 4, 2, ' ', 0)
	fmt.Fprintln(t, "  version\trequests\tfailed\tfirst error to last request")
	fromVersions := 0
	for _, s := range d.versions {
		c := s.Count()
		zero := "-"
		if !c.Onset.IsZero() {
			zero = fmt.Sprintf("%.2f s", c.Last.Sub(c.Onset).Seconds())
		}
		fmt.Fprintf(t, "  %s\t%d\t%d\t%s\n", s.Version, c.Requests, c.Failed, zero)
		fromVersions += c.Failed
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  %d requests sent, %d failed for a user; %d of these were not answered by a failing version\n",
		sent.Requests, sent.Failed, sent.Failed-fromVersions)
	if sent.Failed != fromVersions {
		return fmt.Errorf("users saw %d failures but the versions made %d: %s", sent.Failed, fromVersions, sent)
	}
	return nil
}
