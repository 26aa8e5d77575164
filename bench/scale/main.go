// Scale measures canaryd with ten thousand services and ten thousand Envoys, beside go-control-plane's caches where these
// do the same work. Each row of its table ends by itself and cleans up.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/canaryd/canaryd/internal/cores"
)

// bench is what all rows share.
type bench struct {
	services, streams, rollouts int
	rest, within                time.Duration
	peers                       bool
	canaryd, envoy              string // programs
	dir                         string // for files; removed at the end
	profile                     string // directory for profiles; empty: none
}

// row measures some figures.
type row struct {
	name, what string
	run        func(*bench, context.Context) error
}

func rows() []row {
	return []row{
		{"start", "services on one shared listener: start, restart, rest", (*bench).start},
		{"weight", "one service's weights changed among all, one real Envoy with 1 000 of them", (*bench).weight},
		{"streams", "delta streams of ten routes: a change of a service that all have", (*bench).manyStreams},
		{"edge", "an edge with 1 000 services of 2 versions: memory per stream", (*bench).edges},
		{"storm", "all streams cut and back at once, and a cut of a version meanwhile", (*bench).storm},
		{"hostile", "a hostile client beside honest ones", (*bench).hostile},
		{"reports", "load reports with real nodes", (*bench).reports},
		{"tick", "live rollouts: a tick, and a cut during a reload", (*bench).tick},
	}
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run() error {
	b := &bench{}
	clients, foe := flag.String("fleet", "", ""), flag.String("hostile", "", "")
	which := flag.String("rows", "all", "of "+strings.Join(names(), ", "))
	flag.IntVar(&b.services, "services", 10_000, "services")
	flag.IntVar(&b.streams, "streams", 10_000, "delta streams")
	flag.IntVar(&b.rollouts, "rollouts", 10_000, "live rollouts")
	flag.DurationVar(&b.rest, "rest", time.Minute, "of rest before memory and CPU are read")
	flag.DurationVar(&b.within, "within", 0, "no row begins later than that; 0: all are measured")
	idle := flag.Float64("idle", 0, "wait, for three minutes at most, until the load of the machine is below that; 0: begin at once")
	flag.BoolVar(&b.peers, "peers", true, "measure go-control-plane's caches too")
	flag.StringVar(&b.canaryd, "canaryd", "bin/canaryd", "the daemon (make build)")
	flag.StringVar(&b.envoy, "envoy", ".tools/bin/envoy-newest", "a real Envoy (e2e/tools.sh envoy-newest)")
	flag.StringVar(&b.profile, "profile", "", "directory for CPU and heap profiles of this process")
	flag.Parse()
	if *clients != "" {
		return runFleet(*clients)
	}
	if *foe != "" {
		return runHostile(*foe)
	}
	cores.Share() // as `canaryd serve`
	if files := raiseFiles(); uint64(b.streams)+200 > files {
		b.streams = int(files) - 200
		fmt.Printf("%d files may be open: no more than %d streams\n", files, b.streams)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	settle(ctx, *idle)
	return b.all(ctx, strings.Split(*which, ","))
}

// settle waits for a machine that has nothing else to do.
func settle(ctx context.Context, idle float64) {
	deadline := time.Now().Add(3 * time.Minute)
	for idle > 0 && ctx.Err() == nil {
		busy, err := strconv.ParseFloat(load(), 64)
		if err != nil || busy < idle {
			return
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "the load of the machine is %s: times are longer than on one that has nothing else to do\n", load())
			return
		}
		time.Sleep(2 * time.Second)
	}
}

// all measures some rows, each in a process of its own: what one leaves behind in memory would be counted of the next.
func (b *bench) all(ctx context.Context, which []string) error {
	for _, name := range which {
		if name != "all" && !slices.Contains(names(), name) {
			return fmt.Errorf("no row %q: there are %s", name, strings.Join(names(), ", "))
		}
	}
	if !slices.Contains(which, "all") && len(which) == 1 {
		heads()
		return b.one(ctx, rows()[slices.Index(names(), which[0])])
	}
	heads()
	var errs []error
	begin := time.Now()
	for _, r := range rows() {
		if !slices.Contains(which, "all") && !slices.Contains(which, r.name) {
			continue
		}
		if b.within > 0 && time.Since(begin) > b.within {
			fmt.Printf("| %s | | not measured: there was no time left | |\n", r.what)
			continue
		}
		errs = append(errs, apart(ctx, r.name))
	}
	return errors.Join(errs...)
}

func heads() {
	if os.Getenv(apartEnv) == "" {
		fmt.Println("| figure | goal | measured | how |\n| --- | --- | --- | --- |")
	}
}

// apartEnv is set for a process that measures one of several rows.
const apartEnv = "CANARYD_SCALE_ROW"

// apart measures a row in a process of its own, which has the same flags.
func apart(ctx context.Context, name string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := exec.CommandContext(ctx, self, append(slices.Clone(os.Args[1:]), "-rows", name, "-idle", "0")...) // the last ones count
	c.Env = append(os.Environ(), apartEnv+"="+name)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) } // it cleans up
	c.WaitDelay = 10 * time.Second
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// one measures one row.
func (b *bench) one(ctx context.Context, r row) (err error) {
	if b.dir, err = os.MkdirTemp("", "canaryd-scale"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	defer context.AfterFunc(ctx, func() { // nothing outlives this process: clients see the end of their input, daemons are killed
		_ = os.RemoveAll(b.dir)
		os.Exit(1)
	})()
	before, begin := load(), time.Now()
	stop, err := b.profiling(r.name)
	if err == nil {
		err = r.run(b, ctx)
		stop()
	}
	if err != nil {
		fmt.Printf("| %s | | not measured: %v | |\n", r.what, err)
	}
	fmt.Fprintf(os.Stderr, "%s: load of the machine %s before, %s after, %.0f s\n", r.name, before, load(), time.Since(begin).Seconds())
	return err
}

func names() (out []string) {
	for _, r := range rows() {
		out = append(out, r.name)
	}
	return out
}

// figure prints one line of the table.
func figure(what, goal, how string, measured string, args ...any) {
	fmt.Printf("| %s | %s | %s | %s |\n", what, goal, fmt.Sprintf(measured, args...), how)
}

// quantiles of durations, in milliseconds, sorted as they come.
func quantiles(ds []time.Duration) (p50, p99, most float64) {
	if len(ds) == 0 {
		return
	}
	slices.Sort(ds)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return ms(ds[len(ds)/2]), ms(ds[len(ds)*99/100]), ms(ds[len(ds)-1])
}
