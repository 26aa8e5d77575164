package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/canaryd/canaryd/internal/xds"
)

const (
	honest       = 1000
	hostileTurns = 4
	changesMost  = 60              // in a turn: of fewer than a hundred in all, one decides what p99 is
	changesFor   = 8 * time.Second // and for no longer than about that
)

// hostile measures how long a change takes to a thousand honest streams, beside a hostile client and without it, in turns.
func (b *bench) hostile(ctx context.Context) error {
	c := canaryd("0.0.0.0:10000")
	c.everywhere = true
	streams := min(honest, b.streams)
	h, err := b.hold(ctx, c, fleetOf{Streams: streams, Routes: 10, Services: b.services}, nil)
	if err != nil {
		return err
	}
	defer h.end()
	from, where := elsewhere()
	var calm, rough []time.Duration
	generation, peak, before := 0, 0.0, memoryNow().used
	changes := func(into *[]time.Duration) error {
		at, last, most, err := h.changes(generation)
		*into, generation, peak = append(*into, at...), last, max(peak, most-before)
		return err
	}
	var cost time.Duration
	for range hostileTurns {
		if err := changes(&calm); err != nil {
			return err
		}
		stop, err := startHostile(ctx, from, net.JoinHostPort(from, h.port))
		if err != nil {
			return err
		}
		time.Sleep(time.Second)
		err = changes(&rough)
		cost += stop()
		if err != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond)
	}
	refused := c.refused()
	if refused == 0 {
		return errors.New("nothing of the hostile client was turned away: this is not the client that was meant")
	}
	c50, c99, _ := quantiles(calm)
	r50, r99, _ := quantiles(rough)
	figure(fmt.Sprintf("a hostile client %s beside %d honest streams: a change accepted by each, beside it : without it", where, streams), "p99 < 1.5 x",
		fmt.Sprintf("%d and %d changes, in %d turns; it asks for 500 000 names and 20 000 types, sends reports of 16 MB and of a million empty parts, reads nothing, refuses the listener of all services, opens streams that never speak, and begins again: %d times something of it was turned away; its CPU: %.1f s", len(rough)/streams, len(calm)/streams, hostileTurns, refused, cost.Seconds()),
		"p50 %.0f : %.0f ms, p99 %.0f : %.0f ms (%.2f x); memory at most %.0f MB more, garbage included", r50, c50, r99, c99, r99/max(c99, 0.001), peak/1e6)
	return nil
}

// changes has one change after the other accepted, from the one after a generation on. It returns when each stream had each, the last
// generation, and how much memory was used at most.
func (h *held) changes(after int) (at []time.Duration, last int, peak float64, err error) {
	last = after
	for begun := time.Now(); last < after+changesMost && time.Since(begun) <= changesFor; {
		last++
		one, _, err := h.accepted(last)
		if err != nil {
			return nil, last, peak, err
		}
		at = append(at, one...)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, float64(m.HeapInuse+m.StackInuse))
	}
	return at, last, peak, nil
}

// elsewhere is an address of this machine that is not loopback: what comes from loopback has no account.
func elsewhere() (address, where string) {
	addrs, _ := net.InterfaceAddrs() // none: loopback
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			return ip.IP.String(), "from an address of its own"
		}
	}
	return "127.0.0.1", "on the same machine, where nothing is counted,"
}

// startHostile runs the hostile client in a process of its own, and says in the end what it has worked.
func startHostile(ctx context.Context, from, to string) (stop func() time.Duration, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := exec.CommandContext(ctx, self, "-hostile", from+" "+to)
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	return func() time.Duration {
		_ = in.Close()
		_ = c.Process.Kill()
		_ = c.Wait()
		return c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	}, nil
}

// runHostile does everything that is not done, again and again, until its standard input ends.
func runHostile(text string) error {
	var from, to string
	if _, err := fmt.Sscan(text, &from, &to); err != nil {
		return err
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	for _, attack := range attacks() {
		go func() {
			for {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				conn, err := grpc.NewClient("passthrough:///"+to, grpc.WithTransportCredentials(insecure.NewCredentials()),
					grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }))
				if err == nil {
					attack(ctx, conn)
					_ = conn.Close()
				}
				cancel()
				time.Sleep(10 * time.Millisecond)
			}
		}()
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // until it ends
	return nil
}

// attacks are what the hostile client does.
func attacks() []func(context.Context, *grpc.ClientConn) {
	many := make([]string, 500_000)
	for i := range many {
		many[i] = fmt.Sprintf("no-such-route-%07d", i)
	}
	reports := []*loadstats.LoadStatsRequest{bigReport(), hollowReport()}
	return []func(context.Context, *grpc.ClientConn){
		func(ctx context.Context, c *grpc.ClientConn) { // names: over the limit, and as many as are allowed
			for _, n := range []int{len(many), 90_000} {
				st := hostileStream(ctx, c, "names")
				_ = st.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.TypeRoute, ResourceNamesSubscribe: many[:n]})
				heedless(st)
			}
		},
		func(ctx context.Context, c *grpc.ClientConn) { // types
			st := hostileStream(ctx, c, "types")
			for i := range 20_000 {
				if st.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: fmt.Sprint("type.googleapis.com/evil.v1.T", i), ResourceNamesSubscribe: []string{"a"}}) != nil {
					break
				}
			}
			heedless(st)
		},
		func(ctx context.Context, c *grpc.ClientConn) { // streams that ask for everything and are never read, and such that never speak
			for range 40 {
				hostileStream(ctx, c, "deaf")
				hostileStream(ctx, c, "")
			}
			<-ctx.Done()
		},
		func(ctx context.Context, c *grpc.ClientConn) { // streams that refuse the listener of all services
			for i := range 40 {
				refusesListener(ctx, c, fmt.Sprint("refuses-", i))
			}
			<-ctx.Done()
		},
		func(ctx context.Context, c *grpc.ClientConn) { // reports
			st, err := loadstats.NewLoadReportingServiceClient(c).StreamLoadStats(ctx)
			if err != nil {
				return
			}
			for i := 0; st.Send(reports[i%len(reports)]) == nil && ctx.Err() == nil; i++ {
			}
		},
	}
}

type deltaStream = discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient

// broken stands for a stream that was not opened.
type broken struct{ deltaStream }

func (broken) Send(*discovery.DeltaDiscoveryRequest) error { return net.ErrClosed }
func (broken) RecvMsg(any) error                           { return net.ErrClosed }
func (broken) CloseSend() error                            { return nil }

// hostileStream opens a stream, and asks for all clusters where it says who it is.
func hostileStream(ctx context.Context, c *grpc.ClientConn, node string) deltaStream {
	st, err := discovery.NewAggregatedDiscoveryServiceClient(c).DeltaAggregatedResources(ctx)
	if err != nil {
		return broken{}
	}
	if node != "" {
		_ = st.Send(&discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: node, Cluster: "edge"}, TypeUrl: xds.TypeCluster, ResourceNamesSubscribe: []string{"*"}})
	}
	return st
}

// refusesListener opens a stream that refuses the listener which it is sent.
func refusesListener(ctx context.Context, c *grpc.ClientConn, node string) {
	st, err := discovery.NewAggregatedDiscoveryServiceClient(c).DeltaAggregatedResources(ctx)
	if err != nil {
		return
	}
	_ = st.Send(&discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: node, Cluster: "edge"}, TypeUrl: xds.TypeListener})
	if r, err := st.Recv(); err == nil {
		_ = st.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.TypeListener, ResponseNonce: r.GetNonce(), ErrorDetail: &rpcstatus.Status{Message: "no"}})
	}
}

// heedless waits for the end of a stream.
func heedless(st deltaStream) {
	_ = st.CloseSend()
	for st.RecvMsg(&discovery.DeltaDiscoveryResponse{}) == nil {
	}
}

// bigReport takes nearly 16 MiB.
func bigReport() *loadstats.LoadStatsRequest {
	s := &endpoint.ClusterStats{ClusterName: serviceName(0) + "/v1", UpstreamLocalityStats: []*endpoint.UpstreamLocalityStats{{Locality: &core.Locality{}, TotalSuccessfulRequests: 1 << 40}}}
	for i := range 400_000 {
		at := &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: fmt.Sprintf("10.0.%06d", i), PortSpecifier: &core.SocketAddress_PortValue{PortValue: 80}}}}
		s.UpstreamLocalityStats[0].UpstreamEndpointStats = append(s.UpstreamLocalityStats[0].UpstreamEndpointStats, &endpoint.UpstreamEndpointStats{Address: at, TotalErrorRequests: uint64(i)})
	}
	return &loadstats.LoadStatsRequest{Node: &core.Node{Id: "big"}, ClusterStats: []*endpoint.ClusterStats{s}}
}

// hollowReport takes 2 MiB, and a hundred once it is decoded.
func hollowReport() *loadstats.LoadStatsRequest {
	r := &loadstats.LoadStatsRequest{Node: &core.Node{Id: "hollow"}}
	for range 1 << 20 {
		r.ClusterStats = append(r.ClusterStats, &endpoint.ClusterStats{})
	}
	return r
}
