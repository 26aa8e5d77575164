package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// nodeBytes is what the node of an Envoy 1.40 takes in each of its load reports.
const nodeBytes = 60_000

// realNode is a node with as many extensions as an Envoy has.
func realNode(i int) *core.Node {
	n := nodeNamed(i)
	n.UserAgentName = "envoy"
	n.UserAgentVersionType = &core.Node_UserAgentBuildVersion{}
	for k := 0; proto.Size(n) < nodeBytes; k++ {
		n.Extensions = append(n.Extensions, &core.Extension{Name: fmt.Sprintf("envoy.filters.http.extension_%04d", k), Category: "envoy.filters.http",
			TypeUrls: []string{fmt.Sprintf("envoy.extensions.filters.http.extension_%04d.v3.Config", k)}})
	}
	return n
}

// runReporters is the process of Envoys that take one service and report its load.
func runReporters(ctx context.Context, of fleetOf) error {
	ready := make(chan struct{}, of.Streams)
	for i := range of.Streams {
		go func() {
			if err := reporter(ctx, of, i, ready); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "a reporter:", err)
			}
		}()
	}
	for range of.Streams {
		select {
		case <-ready:
		case <-time.After(time.Minute):
			return fmt.Errorf("not all of %d reporters were asked for reports", of.Streams)
		}
	}
	(&crew{}).say(said{What: "joined"})
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func reporter(ctx context.Context, of fleetOf, i int, ready chan struct{}) error {
	node := realNode(i)
	var joined sync.Once
	has := make(chan struct{})
	cl := &client{address: of.Address, node: node, routes: []string{serviceName(0)}, edge: true, versions: map[string]string{},
		heard: func(*client, string, time.Time) { joined.Do(func() { close(has) }) }}
	go cl.run(ctx, nil)
	<-has
	conn, err := grpc.NewClient(of.Address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(light{})))
	if err != nil {
		return err
	}
	defer conn.Close()
	st, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, loadstats.LoadReportingService_StreamLoadStats_FullMethodName, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	head, err := proto.Marshal(&loadstats.LoadStatsRequest{Node: node})
	if err != nil {
		return err
	}
	if err := st.SendMsg(mem.BufferSlice{mem.SliceBuffer(head)}); err != nil {
		return err
	}
	asked := make(chan *loadstats.LoadStatsResponse, 1)
	go func() {
		for {
			r := &loadstats.LoadStatsResponse{}
			if st.RecvMsg(r) != nil {
				return
			}
			asked <- r
		}
	}()
	return send(ctx, st, head, asked, ready)
}

// send reports what it is asked for as often as it is asked.
func send(ctx context.Context, st grpc.ClientStream, head []byte, asked chan *loadstats.LoadStatsResponse, ready chan struct{}) error {
	var tail []byte
	t := time.NewTicker(time.Hour)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-asked:
			var err error
			if tail, err = proto.Marshal(&loadstats.LoadStatsRequest{ClusterStats: statsOf(r)}); err != nil {
				return err
			}
			if len(r.Clusters) > 1 { // the release too
				ready <- struct{}{}
			}
			t.Reset(r.LoadReportingInterval.AsDuration())
		case <-t.C:
			if err := st.SendMsg(mem.BufferSlice{mem.SliceBuffer(head), mem.SliceBuffer(tail)}); err != nil {
				return err
			}
		}
	}
}

// statsOf is one request of each cluster, and that was well.
func statsOf(r *loadstats.LoadStatsResponse) (out []*endpoint.ClusterStats) {
	for _, name := range r.Clusters {
		at := &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: "127.0.0.1", PortSpecifier: &core.SocketAddress_PortValue{PortValue: 9001}}}}
		out = append(out, &endpoint.ClusterStats{ClusterName: name, LoadReportInterval: durationpb.New(r.LoadReportingInterval.AsDuration()),
			UpstreamLocalityStats: []*endpoint.UpstreamLocalityStats{{Locality: &core.Locality{}, TotalSuccessfulRequests: 1, TotalIssuedRequests: 1,
				UpstreamEndpointStats: []*endpoint.UpstreamEndpointStats{{Address: at, TotalSuccessfulRequests: 1, TotalIssuedRequests: 1}}}}})
	}
	return out
}
