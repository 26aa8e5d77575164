package xds

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// benchmarkStreams measures from Publish to the ACK of every stream, over TCP on loopback; p99 is over
// the streams of all rounds. The clients share the cores.
func benchmarkStreams(b *testing.B, n int) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	hub := NewHub(log)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := NewServer(hub, NewLoads(time.Second, func(Report) {}), nil)
	go func() { _ = s.Serve(l) }()
	defer s.Stop()
	if err := hub.PublishTable(table(1, map[string]int{"v2": 1})); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	f := &fleet{got: make(chan time.Duration, n)}
	for i := range n {
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		f.join(b, ctx, conn, i)
	}
	f.round(n)
	var all []time.Duration
	b.ResetTimer()
	for i := range b.N {
		f.begin()
		if err := hub.PublishTable(table(uint64(i+2), map[string]int{"v2": 2 + i%9000})); err != nil {
			b.Fatal(err)
		}
		all = append(all, f.round(n)...)
	}
	b.StopTimer()
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
}

// fleet are clients that accept everything.
type fleet struct {
	mu    sync.Mutex
	since time.Time
	got   chan time.Duration
}

func (f *fleet) begin() {
	f.mu.Lock()
	f.since = time.Now()
	f.mu.Unlock()
}

func (f *fleet) join(b testing.TB, ctx context.Context, conn *grpc.ClientConn, i int) {
	st, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		b.Fatal(err)
	}
	if err := st.Send(&discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: fmt.Sprint("n", i), Cluster: "edge"}, TypeUrl: TypeRoute, ResourceNamesSubscribe: []string{"shop"}}); err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			r, err := st.Recv()
			if err != nil {
				return
			}
			if st.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}) != nil {
				return
			}
			f.mu.Lock()
			d := time.Since(f.since)
			f.mu.Unlock()
			f.got <- d
		}
	}()
}

func (f *fleet) round(n int) []time.Duration {
	var out []time.Duration
	for range n {
		out = append(out, <-f.got)
	}
	return out
}
