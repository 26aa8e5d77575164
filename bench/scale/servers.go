package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/canaryd/canaryd/internal/xds"
)

// contender is a control plane that serves the routes of many services.
type contender struct {
	name   string
	fill   func(services int) error
	change func(generation int) error // of the common service's weights
	serve  func(tlsConf *tls.Config) *grpc.Server

	quiet    func() time.Duration // for how long nothing has changed; nil: it does not say
	patience time.Duration        // with its clients' joining; 0: as long as it takes

	everywhere bool       // it listens on all addresses
	refused    func() int // requests and streams that it turned away; nil: it does not say
}

// listen serves until stop is called.
func (c contender) listen(tlsConf *tls.Config) (address string, stop func(), err error) {
	host := "127.0.0.1"
	if c.everywhere {
		host = ""
	}
	l, err := net.Listen("tcp4", host+":0")
	if err != nil {
		return "", nil, err
	}
	s := c.serve(tlsConf)
	go func() { _ = s.Serve(l) }() // ends with Stop
	return fmt.Sprintf("127.0.0.1:%d", l.Addr().(*net.TCPAddr).Port), s.Stop, nil
}

func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// canaryd is the hub, with everything that it serves: clusters, endpoints, routes, and one listener. Who has what is read from
// it as the daemon's loop does.
func canaryd(listener string) contender {
	h := xds.NewHub(quiet())
	var changed atomic.Int64
	return contender{name: "canaryd",
		quiet: func() time.Duration { return time.Since(time.Unix(0, changed.Load())) },
		refused: func() (n int) {
			for _, of := range h.Figures().Refused {
				n += int(of)
			}
			return n
		},
		fill: func(n int) error {
			var ps []xds.Prepared
			for i := range n {
				ps = append(ps, h.Prepare(tableOf(i, 1, 100, listener)))
			}
			for _, err := range h.Publish(ps...) {
				if err != nil {
					return err
				}
			}
			return nil
		},
		change: func(generation int) error {
			return h.PublishTable(tableOf(0, uint64(generation+1), 100+generation, listener))
		},
		serve: func(t *tls.Config) *grpc.Server {
			go func() { // until this process ends
				for range h.Changes() {
					if len(h.TakeChanges()) > 0 {
						changed.Store(time.Now().UnixNano())
					}
				}
			}()
			return xds.NewServer(h, xds.NewLoads(time.Second, func(xds.Report) {}), t)
		},
	}
}

// oneSnapshot makes all nodes one to the snapshot cache: they get the same.
type oneSnapshot struct{}

func (oneSnapshot) ID(*core.Node) string { return "edge" }

// hurried connects again to a server that is starting.
var hurried = grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1, MaxDelay: 20 * time.Millisecond}, MinConnectTimeout: time.Second}

// snapshots is go-control-plane's SnapshotCache with one snapshot for all nodes: the kindest use of it.
func snapshots() contender {
	c := cache.NewSnapshotCache(false, oneSnapshot{}, nil)
	var routes []types.Resource
	var version int
	set := func() error {
		version++
		s, err := cache.NewSnapshot(fmt.Sprint(version), map[string][]types.Resource{xds.TypeRoute: routes})
		if err != nil {
			return err
		}
		return c.SetSnapshot(context.Background(), "edge", s)
	}
	return contender{name: "SnapshotCache", serve: served(c), patience: joinPeerWithin,
		fill: func(n int) (err error) {
			routes, err = routesOfHub(n)
			if err != nil {
				return err
			}
			return set()
		},
		change: func(g int) error {
			routes[0] = heavier(routes[0], g)
			return set()
		},
	}
}

// linear is go-control-plane's LinearCache.
func linear() contender {
	c := cache.NewLinearCache(xds.TypeRoute)
	var common types.Resource
	return contender{name: "LinearCache", serve: served(c), patience: joinPeerWithin,
		fill: func(n int) error {
			routes, err := routesOfHub(n)
			if err != nil {
				return err
			}
			all := map[string]types.Resource{}
			for i, r := range routes {
				all[serviceName(i)] = r
			}
			common = routes[0]
			c.SetResources(all)
			return nil
		},
		change: func(g int) error {
			common = heavier(common, g)
			return c.UpdateResource(serviceName(0), common)
		},
	}
}

// served serves a cache as go-control-plane does.
func served(c cache.Cache) func(*tls.Config) *grpc.Server {
	return func(t *tls.Config) *grpc.Server {
		opts := []grpc.ServerOption{grpc.MaxRecvMsgSize(16 << 20)}
		if t != nil {
			opts = append(opts, grpc.Creds(credentials.NewTLS(t)))
		}
		s := grpc.NewServer(opts...)
		discovery.RegisterAggregatedDiscoveryServiceServer(s, peer{Server: delta.NewServer(context.Background(), c, silent{})})
		return s
	}
}

// peer is go-control-plane's delta server. Its package for all kinds of servers would need a module more.
type peer struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	delta.Server
}

func (p peer) DeltaAggregatedResources(ss discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return p.DeltaStreamHandler(ss, "")
}

// silent are no callbacks.
type silent struct{}

func (silent) OnDeltaStreamOpen(context.Context, int64, string) error             { return nil }
func (silent) OnDeltaStreamClosed(int64, *core.Node)                              {}
func (silent) OnStreamDeltaRequest(int64, *discovery.DeltaDiscoveryRequest) error { return nil }
func (silent) OnStreamDeltaResponse(int64, *discovery.DeltaDiscoveryRequest, *discovery.DeltaDiscoveryResponse) {
}

// heavier is a route with other weights: what a change of canaryd's is, with as many bytes.
func heavier(r types.Resource, by int) types.Resource {
	out := proto.Clone(r).(*route.RouteConfiguration)
	for _, vh := range out.VirtualHosts {
		for _, r := range vh.Routes {
			if w := r.GetRoute().GetWeightedClusters().GetClusters(); len(w) == 2 {
				w[0].Weight.Value, w[1].Weight.Value = uint32(9900-by), uint32(100+by)
			}
		}
	}
	return out
}

// routesOfHub are the routes that canaryd serves, so that its peers serve the same bytes.
func routesOfHub(n int) ([]types.Resource, error) {
	h := canaryd("")
	if err := h.fill(n); err != nil {
		return nil, err
	}
	address, stop, err := h.listen(nil)
	if err != nil {
		return nil, err
	}
	defer stop()
	got, err := fetch(address, n, time.Minute)
	if err != nil {
		return nil, err
	}
	out := make([]types.Resource, n)
	for i := range out {
		rc := &route.RouteConfiguration{}
		if err := proto.Unmarshal(got[serviceName(i)], rc); err != nil {
			return nil, err
		}
		out[i] = rc
	}
	return out, nil
}

// fetch waits until a server has given all routes, and returns them by service.
func fetch(address string, n int, most time.Duration) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(hurried), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(light{}), grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	st, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, discovery.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName, grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	names := make([]string, n)
	for i := range names {
		names[i] = serviceName(i)
	}
	if err := st.SendMsg(&discovery.DeltaDiscoveryRequest{Node: nodeNamed(0), TypeUrl: xds.TypeRoute, ResourceNamesSubscribe: names}); err != nil {
		return nil, err
	}
	got := map[string][]byte{}
	for len(got) < n {
		a := &answer{keep: true}
		if err := st.RecvMsg(a); err != nil {
			return nil, fmt.Errorf("%d of %d routes came: %w", len(got), n, err)
		}
		for _, r := range a.resources {
			got[r.name] = bytesOf(r.body)
		}
		if err := st.SendMsg(a.ack(nil)); err != nil {
			return nil, err
		}
	}
	return got, nil
}

// bytesOf is the value of an encoded Any.
func bytesOf(encoded []byte) (value []byte) {
	_ = fields(encoded, func(num protowire.Number, v []byte) error { // it was encoded by the server: else it has no value
		if num == 2 {
			value = v
		}
		return nil
	})
	return value
}
