package xds

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	hostileTo   = "CANARYD_HOSTILE_TO"   // where the hostile process goes
	hostileFrom = "CANARYD_HOSTILE_FROM" // its own address
)

// How long a cut takes to a hundred honest streams, beside a hostile client and without one. That is a process of its
// own, as nice as this one, which does all it can for as long as it is measured; it shares the machine's cores with the
// server and the honest ones. Calm and rough stretches take turns. FIGURES is how many; without it one shows that all get it.
func TestFigureHostile(t *testing.T) {
	if to := os.Getenv(hostileTo); to != "" {
		hostile(t.Context(), func() *grpc.ClientConn { return dialFrom(t, os.Getenv(hostileFrom), to) })
		select {} // until it is killed
	}
	rounds, err := strconv.Atoi(os.Getenv("FIGURES"))
	if err != nil {
		rounds = 1
	}
	h := NewHub(quietLog())
	l, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(h, NewLoads(time.Second, func(Report) {}), nil)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	publish(t, h, table(1, map[string]int{"v2": 100}))
	port := l.Addr().(*net.TCPAddr).Port
	f := &fleet{got: make(chan time.Duration, 100)}
	for i := range 100 {
		f.join(t, t.Context(), dialFrom(t, "127.0.0.1", fmt.Sprintf("127.0.0.1:%d", port)), i)
	}
	f.round(100)
	generation := uint64(1)
	cuts := func() (all, last []time.Duration) { // of two seconds
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			generation += 2
			publish(t, h, table(generation-1, map[string]int{"v2": 5000}))
			f.round(100)
			f.begin()
			publish(t, h, table(generation, map[string]int{"v2": 0}, "v2"))
			took := f.round(100)
			all, last = append(all, took...), append(last, slices.Max(took))
		}
		return all, last
	}
	for _, from := range append(reachable(t), "127.0.0.1") { // an address of its own; and that of this machine, of which nothing is counted
		var calm, rough [2][]time.Duration
		for range rounds {
			all, last := cuts()
			calm[0], calm[1] = append(calm[0], all...), append(calm[1], last...)
			stop := runHostile(t, from, fmt.Sprintf("%s:%d", from, port))
			time.Sleep(time.Second)
			all, last = cuts()
			rough[0], rough[1] = append(rough[0], all...), append(rough[1], last...)
			stop()
			time.Sleep(500 * time.Millisecond)
		}
		for i, what := range []string{"a stream has the cut", "the last of 100 has it"} {
			t.Logf("hostile from %s, %s: alone %s; beside it %s; ratio %.2f and %.2f; %d and %d", from, what, spread(calm[i]), spread(rough[i]),
				ratio(rough[i], calm[i], 50), ratio(rough[i], calm[i], 95), len(calm[i]), len(rough[i]))
		}
		t.Logf("refused so far: %v", h.Figures().Refused)
	}
}

// reachable is an address of this machine that is not loopback, if it has one.
func reachable(t *testing.T) []string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			return []string{ip.IP.String()}
		}
	}
	t.Log("this machine has no address but loopback: beside a client from elsewhere nothing was measured")
	return nil
}

func spread(ds []time.Duration) string {
	return fmt.Sprintf("p50 %s, p95 %s, max %s", percentile(ds, 50), percentile(ds, 95), percentile(ds, 100))
}

func ratio(a, b []time.Duration, p int) float64 {
	return float64(percentile(a, p)) / float64(percentile(b, p))
}

func percentile(ds []time.Duration, p int) time.Duration {
	slices.Sort(ds)
	return ds[min(len(ds)*p/100, len(ds)-1)].Round(10 * time.Microsecond)
}

// dialFrom connects from an address of loopback.
func dialFrom(t *testing.T, from, to string) *grpc.ClientConn {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := grpc.NewClient("passthrough:///"+to, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// runHostile runs the hostile client in a process of its own until it is stopped.
func runHostile(t *testing.T, from, to string) (stop func()) {
	c := exec.Command(os.Args[0], "-test.run=^TestFigureHostile$", "-test.timeout=1m")
	c.Env = append(os.Environ(), hostileTo+"="+to, hostileFrom+"="+from)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		t.Logf("the hostile process used %s", c.ProcessState.UserTime()+c.ProcessState.SystemTime())
	}
	t.Cleanup(func() { _ = c.Process.Kill() })
	return stop
}

// What the names of the worst peer that is let in cost: a million of its own, none of which there is. Without FIGURES they
// are fewer, to show that there are no more.
func TestFigureWorstPeer(t *testing.T) {
	each := 100_000
	if os.Getenv("FIGURES") == "" {
		each = 1000
	}
	h, _, _, dial := reports(t, func(a *Admission) { a.Limits.NamesPerPeer = 10 * each })
	publish(t, h, table(1, nil))
	h.penalties.address = 0
	before := heapInUse()
	for i := range 12 { // the last ones are refused
		names := invented(each)
		for n := range names {
			names[n] += fmt.Sprint("-", i)
		}
		connect(t, dial(), fmt.Sprint("worst-", i), 40).subscribe(TypeRoute, names...)
	}
	for asked, deadline := 0, time.Now().Add(5*time.Minute); asked < h.Admission.Limits.NamesPerPeer; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("only %d names were taken in", asked)
		}
		asked = 0
		h.mu.Lock()
		for _, s := range h.sessions {
			asked += s.asked
		}
		h.mu.Unlock()
	}
	t.Logf("%d names cost %d MiB, refused: %d", h.Admission.Limits.NamesPerPeer, (heapInUse()-before)>>20, h.Figures().Refused[overPeer])
}
