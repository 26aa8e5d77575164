package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"github.com/canaryd/canaryd/internal/rig"
)

// stage is a directory for a real daemon.
func (b *bench) stage(name, config, policies string) (*rig.Stage, error) {
	bin, err := filepath.Abs(b.canaryd)
	if err != nil {
		return nil, err
	}
	return rig.NewStage(filepath.Join(b.dir, name), bin, config, map[string]string{"all.yml": policies})
}

// begins starts the daemon and waits until a client has been given every route. It says what the daemon has worked for that.
func begins(ctx context.Context, s *rig.Stage, services int) (took, cpu time.Duration, err error) {
	begin := time.Now()
	got := make(chan error, 1)
	go func() {
		_, err := fetch(s.XDS, services, 5*time.Minute)
		took = time.Since(begin)
		got <- err
	}()
	if err := s.StartDaemon(ctx); err != nil {
		return 0, 0, err
	}
	if err := <-got; err != nil {
		return 0, 0, err
	}
	cpu, err = worked(s.Daemon().PID())
	return took, cpu, err
}

// start measures a daemon with all services on one listener from its process' start to rest, and what filling go-control-plane's
// caches with the same routes costs.
func (b *bench) start(ctx context.Context) error {
	s, err := b.stage("start", "", policies(b.services, "1h", "127.0.0.1:10000"))
	if err != nil {
		return err
	}
	defer s.Close()
	what := fmt.Sprintf("%d services on one shared listener: ", b.services)
	how := "`canaryd serve`, from its start until a client has been given every route"
	first, cpu, err := begins(ctx, s, b.services)
	if err != nil {
		return err
	}
	figure(what+"first start from YAML", "< 10 s", how, "%.1f s; CPU %.1f s", first.Seconds(), cpu.Seconds())
	time.Sleep(5 * time.Second)
	s.Daemon().Stop()
	again, cpu, err := begins(ctx, s, b.services)
	if err != nil {
		return err
	}
	figure(what+"restart from the store", "< 2 s", how, "%.1f s; CPU %.1f s", again.Seconds(), cpu.Seconds())
	if err := b.atRest(what, s.Daemon().PID()); err != nil || !b.peers {
		return err
	}
	for _, make := range b.contenders() {
		if err := b.filled(what, make); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) atRest(what string, pid int) error {
	time.Sleep(b.rest / 2)
	busy, err := busyShare(pid, b.rest/2)
	if err != nil {
		return err
	}
	rss, err := resident(pid)
	if err != nil {
		return err
	}
	figure(what+"resident after a time of rest", "< 400 MB", fmt.Sprintf("VmRSS %s after the restart, nobody connected", b.rest), "%.0f MB", rss/1e6)
	figure(what+"CPU at rest", "< 2 % of a core", fmt.Sprintf("of /proc/PID/stat over the second half of %s", b.rest), "%.1f %%", busy*100)
	return nil
}

// filled measures a contender in this process, without clients.
func (b *bench) filled(what string, make func() contender) error {
	before, begin := memoryNow(), time.Now()
	c := make()
	if err := c.fill(b.services); err != nil {
		return err
	}
	took := time.Since(begin)
	mem := memoryNow().since(before)
	var changed []time.Duration
	for i := range 50 {
		begin := time.Now()
		if err := c.change(i + 1); err != nil {
			return err
		}
		changed = append(changed, time.Since(begin))
	}
	runtime.KeepAlive(c)
	p50, _, worst := quantiles(changed)
	how := "in this process, without clients; canaryd makes and serves clusters, endpoints and a listener too"
	if c.name != "canaryd" {
		how = "the same routes and nothing else; the time has canaryd make them first"
	}
	figure(what+c.name+" filled, and a change of one service", "", how, "%.2f s, %.0f MB in use; a change p50 %.2f, worst %.2f ms", took.Seconds(), mem.used/1e6, p50, worst)
	return nil
}

// reports measures the daemon while Envoys with real nodes report.
func (b *bench) reports(ctx context.Context) error {
	for _, c := range []struct {
		envoys int
		every  time.Duration
	}{{min(1000, b.streams), time.Second}, {min(100, b.streams), 200 * time.Millisecond}} {
		if err := b.reportsOf(ctx, c.envoys, c.every); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) reportsOf(ctx context.Context, envoys int, every time.Duration) error {
	s, err := b.stage(fmt.Sprint("reports-", envoys), fmt.Sprintf("metrics: {source: envoy, interval: %s}\n", every), policies(1, "1h", ""))
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.StartDaemon(ctx); err != nil {
		return err
	}
	if code, _, stderr, err := s.Run(ctx, "deploy", serviceName(0), "v2", "--endpoint", "127.0.0.1:9002"); code != 0 || err != nil {
		return errors.Join(fmt.Errorf("deploy: %s", stderr), err)
	}
	f, err := startFleet(ctx, fleetOf{Address: s.XDS, Streams: envoys, Reporters: every})
	if err != nil {
		return err
	}
	defer f.close()
	if _, err := f.until("joined", time.Minute); err != nil {
		return err
	}
	time.Sleep(10 * time.Second)
	before := s.Version(serviceName(0), "v2").Requests
	const over = 20 * time.Second
	busy, err := busyShare(s.Daemon().PID(), over)
	if err != nil {
		return err
	}
	counted := s.Version(serviceName(0), "v2").Requests - before
	due := float64(envoys) * over.Seconds() / every.Seconds()
	if counted < due/2 {
		return fmt.Errorf("of %.0f requests that were reported of v2, %.0f were counted: this is not the load that was meant", due, counted)
	}
	figure(fmt.Sprintf("load reports of %d Envoys with nodes of 60 KB, every %s", envoys, every), "< 40 % of a core",
		fmt.Sprintf("CPU of `canaryd serve` over %s, one release under judgement; every report has one request of it", over), "%.0f %% (%.0f of %.0f reports counted)", busy*100, counted, due)
	return nil
}
