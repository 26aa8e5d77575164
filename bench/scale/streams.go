package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"
)

// joinWithin is how long the clients have for their first routes.
const joinWithin, joinPeerWithin = 5 * time.Minute, 90 * time.Second

// profiling writes a CPU profile of this process while a row is measured.
func (b *bench) profiling(name string) (stop func(), err error) {
	if b.profile == "" {
		return func() {}, nil
	}
	f, err := os.Create(filepath.Join(b.profile, name+".prof"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() { pprof.StopCPUProfile(); _ = f.Close() }, nil
}

// heap writes what the memory is needed for.
func (b *bench) heap(name string) error {
	if b.profile == "" {
		return nil
	}
	f, err := os.Create(filepath.Join(b.profile, fmt.Sprintf("%s-%d.heap", name, time.Now().Unix())))
	if err != nil {
		return err
	}
	defer f.Close()
	return pprof.WriteHeapProfile(f)
}

// contenders are canaryd and its peers, each made when it is its turn.
func (b *bench) contenders() []func() contender {
	out := []func() contender{func() contender { return canaryd("") }}
	if b.peers {
		out = append(out, snapshots, linear)
	}
	return out
}

// each measures the contenders. A peer that does not do it in time is told, and nothing else.
func (b *bench) each(measure func(contender) error) error {
	for _, make := range b.contenders() {
		c := make()
		err := measure(c)
		if err != nil && c.patience == 0 {
			return err
		}
		if err != nil {
			figure(fmt.Sprintf("%s: %d streams", c.name, b.streams), "", "the clients have "+c.patience.String()+" to join", "did not do it: %v", err)
		}
	}
	return nil
}

// held is a contender with its clients.
type held struct {
	contender
	*fleet
	port string
	stop func()
	took time.Duration // for all clients to join
	mem  memory        // that they need
}

// cpu is what this process and the clients' have worked so far; 0 where there is no /proc.
func (h *held) cpu() (server, clients time.Duration) {
	server, _ = worked(os.Getpid())
	clients, _ = worked(h.cmd.Process.Pid)
	return server, clients
}

func (h *held) end() {
	h.close()
	h.stop()
}

// hold fills a contender and has clients join it.
func (b *bench) hold(ctx context.Context, c contender, of fleetOf, conf *tls.Config) (*held, error) {
	if err := c.fill(of.Services); err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	address, stop, err := c.listen(conf)
	if err != nil {
		return nil, err
	}
	before, begin := memoryNow(), time.Now()
	of.Address = address
	f, err := startFleet(ctx, of)
	if err != nil {
		stop()
		return nil, err
	}
	h := &held{contender: c, fleet: f, stop: stop}
	if _, h.port, err = net.SplitHostPort(address); err != nil {
		h.end()
		return nil, err
	}
	s, err := f.until("joined", cmp.Or(c.patience, joinWithin))
	if err == nil && s.Missing > 0 {
		err = fmt.Errorf("%s: %d of %d streams did not get their routes", c.name, s.Missing, of.Streams)
	}
	if err != nil {
		h.end()
		return nil, err
	}
	h.took = time.Since(begin)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); { // the last answers
		if time.Sleep(2 * time.Second); c.quiet == nil || c.quiet() > 2*time.Second {
			break
		}
	}
	h.mem = memoryNow().since(before)
	return h, b.heap(c.name)
}

// accepted changes the common service, and says when each client had accepted that.
func (h *held) accepted(generation int) (at []time.Duration, publish time.Duration, err error) {
	if err := h.tell("arm"); err != nil {
		return nil, 0, err
	}
	if _, err := h.until("armed", time.Minute); err != nil {
		return nil, 0, err
	}
	begin := time.Now()
	if err := h.change(generation); err != nil {
		return nil, 0, err
	}
	publish = time.Since(begin)
	s, err := h.until("accepted", 2*time.Minute)
	if err == nil && s.Missing > 0 {
		err = fmt.Errorf("%d streams did not get the change within a minute", s.Missing)
	}
	for _, t := range s.At {
		at = append(at, time.Duration(t-begin.UnixNano()))
	}
	return at, publish, err
}

const changes = 5

func (b *bench) manyStreams(ctx context.Context) error {
	dir := filepath.Join(b.dir, "tls")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	err := b.each(func(c contender) error { return b.streamsOf(ctx, c, "", nil) })
	if err != nil {
		return err
	}
	conf, err := makeTLS(dir)
	if err != nil {
		return err
	}
	return b.streamsOf(ctx, canaryd(""), dir, conf)
}

func (b *bench) streamsOf(ctx context.Context, c contender, tlsDir string, conf *tls.Config) error {
	h, err := b.hold(ctx, c, fleetOf{Streams: b.streams, Routes: 10, Services: b.services, TLSDir: tlsDir}, conf)
	if err != nil {
		return err
	}
	defer h.end()
	var all []time.Duration
	var publish []time.Duration
	serverBefore, clientsBefore := h.cpu()
	for i := range changes {
		at, took, err := h.accepted(i + 1)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		all, publish = append(all, at...), append(publish, took)
	}
	server, clients := h.cpu()
	name, goal, most := c.name, "p99 < 1 000 ms", "< 40 KiB"
	if conf != nil {
		name, most = name+" with mTLS", "< 70 KiB"
	} else if name != "canaryd" {
		goal, most = "", ""
	}
	p50, p99, worst := quantiles(all)
	_, _, pub := quantiles(publish)
	figure(fmt.Sprintf("%s: %d streams of 10 routes of %d, a service that all have changed: accepted by each", name, b.streams, b.services), goal,
		fmt.Sprintf("%d changes; from the publishing to the ACK sent, clients in a process of their own on the same cores", changes),
		"p50 %.0f, p99 %.0f, worst %.0f ms; publishing itself at most %.1f ms; CPU of a change %.0f ms, of the clients' %.0f ms; all had joined after %.1f s",
		p50, p99, worst, pub, (server-serverBefore).Seconds()*1000/changes, (clients-clientsBefore).Seconds()*1000/changes, h.took.Seconds())
	per := float64(b.streams) * 1024
	figure(name+": memory of a stream", most, "heap and stacks in use after a collection, and resident memory, divided by the streams; before the changes",
		"%.1f KiB in use, %.1f KiB resident", h.mem.used/per, h.mem.resident/per)
	return nil
}

// edgesAtOnce are enough to divide by.
const edgesAtOnce = 300

func (b *bench) edges(ctx context.Context) error {
	services, streams := min(1000, b.services), min(edgesAtOnce, b.streams)
	h, err := b.hold(ctx, canaryd("127.0.0.1:10000"), fleetOf{Streams: streams, Routes: services, Services: services, Edge: true}, nil)
	if err != nil {
		return err
	}
	defer h.end()
	per := float64(streams) * 1000
	figure(fmt.Sprintf("an edge with %d services of 2 versions: memory of a stream", services), "< 120 KB",
		fmt.Sprintf("%d streams with all clusters, endpoints, routes and the listener; as above", streams), "%.0f KB in use, %.0f KB resident", h.mem.used/per, h.mem.resident/per)
	return nil
}

func (b *bench) storm(ctx context.Context) error {
	return b.each(func(c contender) error { return b.stormOf(ctx, c) })
}

// stormOf cuts all connections, changes the common service while they come back, and once more afterwards.
func (b *bench) stormOf(ctx context.Context, c contender) error {
	h, err := b.hold(ctx, c, fleetOf{Streams: b.streams, Routes: 10, Services: b.services}, nil)
	if err != nil {
		return err
	}
	defer h.end()
	serverBefore, clientsBefore := h.cpu()
	for _, order := range []string{"arm", "cut"} {
		if err := h.tell(order); err != nil {
			return err
		}
		if _, err := h.until(map[string]string{"arm": "armed", "cut": "cut"}[order], time.Minute); err != nil {
			return err
		}
	}
	begin := time.Now()
	time.Sleep(time.Second)
	changed := time.Now()
	if err := h.change(1); err != nil {
		return err
	}
	events := map[string]said{}
	for len(events) < 2 {
		s, err := h.next(3 * time.Minute)
		if err != nil {
			return err
		}
		events[s.What] = s
	}
	server, clients := h.cpu()
	if n := events["back"].Missing + events["accepted"].Missing; n > 0 {
		return fmt.Errorf("%s: %d streams did not come back, or not to the change, within a minute", c.name, n)
	}
	var back, cut []time.Duration
	for _, t := range events["back"].At {
		back = append(back, time.Duration(t-begin.UnixNano()))
	}
	for i, t := range events["accepted"].At {
		cut = append(cut, time.Duration(t-max(changed.UnixNano(), events["accepted"].Opened[i])))
	}
	after, _, err := h.accepted(2)
	if err != nil {
		return err
	}
	goals := [2]string{"< 10 s", "p99 < 1 500 ms"}
	if c.name != "canaryd" {
		goals = [2]string{}
	}
	_, _, last := quantiles(back)
	p50, p99, worst := quantiles(cut)
	_, calm, _ := quantiles(after)
	figure(fmt.Sprintf("%s: storm, %d streams cut at once: all back", c.name, b.streams), goals[0], "until each has been answered for a route that it does not present; clients in a process of their own on the same cores",
		"%.1f s; CPU %.1f s, of the clients' %.1f s", last/1000, (server - serverBefore).Seconds(), (clients - clientsBefore).Seconds())
	figure(c.name+": a change one second into the storm: accepted", goals[1], "from the publishing, or from the opening of a stream that was not open yet, to the ACK sent",
		"p50 %.0f, p99 %.0f, worst %.0f ms; after the storm p99 %.0f ms", p50, p99, worst, calm)
	return nil
}
