package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
	"github.com/canaryd/canaryd/internal/xds"
)

// plenty is a source with one cell of evidence for each release, whenever it is asked for a round.
type plenty struct {
	services int
	rounds   chan chan struct{} // closed when the loop has taken the round
}

func (p *plenty) Watch([]metrics.Target)           {}
func (p *plenty) Figures() metrics.Figures         { return metrics.Figures{} }
func (p *plenty) Dropped(string) []metrics.Dropped { return nil }
func (p *plenty) Run(ctx context.Context, deliver func([]metrics.Evidence)) error {
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case taken := <-p.rounds:
			now := time.Now()
			evs := make([]metrics.Evidence, p.services)
			for i := range evs {
				evs[i] = metrics.Evidence{Service: serviceName(i), Batch: time.Second, Cells: []rollout.Cell{{Slice: "edge", From: last, To: now,
					Counts: map[string]analysis.Counts{"v1": {Requests: 950, Errors: 1}, "v2": {Requests: 50}}}}}
			}
			last = now
			deliver(evs)
			close(taken)
		}
	}
}

// looped is a controller with its parts, in this process.
type looped struct {
	ctl    *controller.Controller
	source *plenty
	file   string
	thread string // says what CPU the loop's thread has taken

	mu     sync.Mutex
	routes map[string]time.Time // accepted by the one Envoy last
	wait   sync.WaitGroup
	cancel func()
	stop   func()
}

func (b *bench) loop(parent context.Context) (*looped, error) {
	ctx, cancel := context.WithCancel(parent)
	l := &looped{source: &plenty{b.rollouts, make(chan chan struct{})}, file: filepath.Join(b.dir, "loop.yml"), routes: map[string]time.Time{}, cancel: cancel}
	if err := os.WriteFile(l.file, []byte(policies(b.rollouts, "100h", "127.0.0.1:10000")), 0o600); err != nil {
		return nil, err
	}
	db, err := store.Open(filepath.Join(b.dir, "loop"))
	if err != nil {
		return nil, err
	}
	hub := xds.NewHub(quiet())
	if l.ctl, err = controller.New(controller.Options{Log: quiet(), Store: db, Hub: hub, Source: l.source, Policies: []string{l.file}}); err != nil {
		return nil, err
	}
	l.wait.Go(func() { _ = hub.Run(ctx) })
	thread := make(chan string)
	l.wait.Go(func() {
		runtime.LockOSThread() // nothing else runs on it
		thread <- fmt.Sprintf("/proc/self/task/%d/stat", syscall.Gettid())
		_ = l.ctl.Run(ctx) // until it is cancelled: the source does not end before
	})
	l.thread = <-thread
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := xds.NewServer(hub, xds.NewLoads(time.Second, func(xds.Report) {}), nil)
	go func() { _ = server.Serve(lis) }() // ends with Stop
	l.stop = func() { server.Stop(); cancel(); l.wait.Wait(); _ = db.Close() }
	names := make([]string, b.rollouts)
	for i := range names {
		names[i] = serviceName(i)
	}
	cl := &client{address: lis.Addr().String(), node: nodeNamed(0), routes: names, versions: map[string]string{}, heard: func(_ *client, name string, at time.Time) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.routes[name] = at
	}}
	l.wait.Go(func() { cl.run(ctx, nil) })
	return l, nil
}

// announce begins a release of every service, and waits until all are judged at their first weight.
func (l *looped) announce(ctx context.Context, n int) error {
	g, all := errgroup.WithContext(ctx)
	g.SetLimit(256)
	for i := range n {
		g.Go(func() error {
			_, _, err := l.ctl.Announce(all, serviceName(i), rollout.Announced{Version: "v2", Endpoints: []string{"127.0.0.1:9002"}, By: "bench"})
			if e := (*controller.NotStoredError)(nil); errors.As(err, &e) {
				return nil // it is stored later
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	deadline := time.Now().Add(3 * time.Minute)
	for {
		live := 0
		for s, err := range l.ctl.Services(ctx, "", nil) {
			if err != nil {
				return err
			}
			if v := s.State.Version("v2"); v != nil && v.Phase == rollout.Canary && s.State.InForce {
				live++
			}
		}
		if live == n {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("only %d of %d releases are live", live, n)
		}
		time.Sleep(time.Second)
	}
}

// tick measures the loop with live rollouts, and a cut while policies are reloaded.
func (b *bench) tick(ctx context.Context) error {
	l, err := b.loop(ctx)
	if err != nil {
		return err
	}
	defer func() { l.stop() }()
	begin := time.Now()
	if err := l.announce(ctx, b.rollouts); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "tick: %d releases were live after %.1f s\n", b.rollouts, time.Since(begin).Seconds())
	time.Sleep(6 * time.Second)
	if err := l.ticks(ctx, b.rollouts); err != nil {
		return err
	}
	return l.cutDuringReload(ctx, b.rollouts)
}

// ticks delivers rounds of evidence: at first nobody asks the loop for anything, and what a round takes of its thread is its work;
// then it is asked for something all the time, and how long it does not answer is how long it is busy.
func (l *looped) ticks(ctx context.Context, n int) error {
	const rounds = 15
	cpu, err := worked(os.Getpid())
	if err != nil {
		return err
	}
	loop, err := workedBy(l.thread)
	if err != nil {
		return err
	}
	l.deliver(rounds)
	after, err := worked(os.Getpid())
	if err != nil {
		return err
	}
	loopAfter, err := workedBy(l.thread)
	if err != nil {
		return err
	}
	figure(fmt.Sprintf("a tick of %d live rollouts, whole loop", n), "< 120 ms", fmt.Sprintf("%d rounds with one cell each, one a second, evidence, ticks and checkpoints; CPU time of the loop's thread for a round", rounds),
		"%.0f ms (CPU of all of canaryd: %.0f ms a second)", float64((loopAfter-loop).Milliseconds())/rounds, float64((after-cpu).Milliseconds())/rounds)
	answers := l.ask(ctx)
	l.deliver(rounds)
	total, longest := perSecond(answers())
	t50, _, tworst := quantiles(total)
	l50, l99, lworst := quantiles(longest)
	figure("the longest that the loop is busy at a time", "< 20 ms", fmt.Sprintf("of each of %d more seconds, in which it is asked for something all the time", len(longest)), "p50 %.0f, p99 %.0f, worst %.0f ms (all that it does not answer for more than 1 ms, in a second: p50 %.0f, worst %.0f ms)",
		l50, l99, lworst, t50, tworst)
	return nil
}

// deliver delivers so many rounds of evidence, one a second.
func (l *looped) deliver(rounds int) {
	for range rounds {
		next := time.After(time.Second)
		taken := make(chan struct{})
		l.source.rounds <- taken
		<-taken // when the one before is worked off
		<-next
	}
}

// asked is when the loop was asked for something, and how long it took.
type asked struct {
	at   time.Time
	took time.Duration
}

// ask asks the loop for something all the time, until the returned function is called.
func (l *looped) ask(ctx context.Context) (stop func() []asked) {
	ctx, cancel := context.WithCancel(ctx)
	out := make(chan []asked, 1)
	go func() {
		var all []asked
		for ctx.Err() == nil {
			begin := time.Now()
			if l.ctl.Ready(ctx) == nil {
				all = append(all, asked{begin, time.Since(begin)})
			}
			time.Sleep(200 * time.Microsecond)
		}
		out <- all
	}()
	return func() []asked { cancel(); return <-out }
}

// perSecond sums up how long the loop was busy, for more than a millisecond, in each second, and how long at a time.
func perSecond(all []asked) (total, longest []time.Duration) {
	for _, a := range all {
		s := int(a.at.Sub(all[0].at) / time.Second)
		for len(total) <= s {
			total, longest = append(total, 0), append(longest, 0)
		}
		if longest[s] = max(longest[s], a.took); a.took > time.Millisecond {
			total[s] += a.took
		}
	}
	return total, longest
}

// cutDuringReload gives all services another policy, and aborts releases one after the other while that is taken in.
func (l *looped) cutDuringReload(ctx context.Context, n int) error {
	if err := os.WriteFile(l.file, []byte(policies(n, "99h", "127.0.0.1:10000")), 0o600); err != nil {
		return err
	}
	var reloading atomic.Bool
	reloading.Store(true)
	begin, done, answers := time.Now(), make(chan error, 1), l.ask(ctx)
	go func() {
		err := l.ctl.Reload(ctx, "bench")
		if e := (*controller.NotStoredError)(nil); errors.As(err, &e) {
			err = nil // it is stored later
		}
		reloading.Store(false)
		done <- err
	}()
	var wait sync.WaitGroup
	var mu sync.Mutex
	var took []time.Duration
	for i := 0; i < n && reloading.Load(); i++ {
		wait.Go(func() {
			if d, ok := l.cut(ctx, serviceName(i)); ok {
				mu.Lock()
				defer mu.Unlock()
				took = append(took, d)
			}
		})
		time.Sleep(25 * time.Millisecond)
	}
	err := <-done
	reloaded := time.Since(begin)
	wait.Wait()
	if err != nil {
		return err
	}
	if len(took) == 0 {
		return errors.New("no cut was made while the policies were reloaded")
	}
	var loop []time.Duration
	for _, a := range answers() {
		loop = append(loop, a.took)
	}
	l50, l99, lworst := quantiles(loop)
	p50, p99, worst := quantiles(took)
	figure(fmt.Sprintf("a cut decided while a reload of %d policies is under way: out", n), "< 100 ms", fmt.Sprintf("%d aborts, one every 25 ms of a reload of %.1f s that changes all, from the call to the Envoy's ACK", len(took), reloaded.Seconds()),
		"p50 %.0f, p99 %.0f, worst %.0f ms (the loop answers after p50 %.1f, p99 %.0f, worst %.0f ms)", p50, p99, worst, l50, l99, lworst)
	return nil
}

// cut aborts a release, and says how long it took until the Envoy had a route after that.
func (l *looped) cut(ctx context.Context, service string) (time.Duration, bool) {
	begin := time.Now()
	go func() {
		_, _, _ = l.ctl.Command(ctx, service, rollout.Commanded{Verb: "abort", Version: "v2", By: "bench"})
	}() // the Envoy says how it went
	for time.Since(begin) < 30*time.Second {
		l.mu.Lock()
		at := l.routes[service]
		l.mu.Unlock()
		if at.After(begin) {
			return at.Sub(begin), true
		}
		time.Sleep(time.Millisecond)
	}
	return 30 * time.Second, true
}
