// Package world is an in-memory Envoy fleet for whole-rollout tests: each Envoy speaks real delta ADS
// and load reporting over a given connection, obeys the weights it is sent, and produces the counts
// that such weights would.
package world

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	typeCluster  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	typeEndpoint = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	typeRoute    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
)

// Traffic is what the users do and how the versions behave.
type Traffic struct {
	Service   string
	PerSecond float64                                         // requests, on each Envoy
	ErrorRate func(version string, at time.Time) float64      // of a version
	Refuse    func(weights map[string]uint32) (reason string) // what this fleet NACKs; nil: nothing
}

// Envoy is one proxy of the fleet.
type Envoy struct {
	id      string
	traffic Traffic
	rand    *rand.Rand

	has map[string]map[string]string // type, name: version of what it accepted

	mu      sync.Mutex
	weights map[string]uint32 // by cluster, what it serves
	served  map[string][2]float64
	total   map[string][2]float64
}

// NewEnvoy makes a proxy; the seed fixes its dice.
func NewEnvoy(id string, seed uint64, t Traffic) *Envoy {
	return &Envoy{id: id, traffic: t, rand: rand.New(rand.NewPCG(seed, 17)), has: map[string]map[string]string{}, weights: map[string]uint32{},
		served: map[string][2]float64{}, total: map[string][2]float64{}}
}

// Run connects, and reconnects a second after each loss, until ctx ends.
func (e *Envoy) Run(ctx context.Context, conn grpc.ClientConnInterface) {
	go e.serve(ctx)
	go e.retry(ctx, func() error { return e.report(ctx, conn) })
	e.retry(ctx, func() error { return e.follow(ctx, conn) })
}

func (e *Envoy) retry(ctx context.Context, f func() error) {
	for ctx.Err() == nil {
		_ = f() // the end of a stream: connect again
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// follow speaks ADS and obeys.
func (e *Envoy) follow(ctx context.Context, conn grpc.ClientConnInterface) error {
	st, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	asked, err := e.present(st)
	if err != nil {
		return err
	}
	for {
		r, err := st.Recv()
		if err != nil {
			return err
		}
		ack := &discovery.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}
		switch r.GetTypeUrl() {
		case typeCluster:
			if err := st.Send(e.endpoints(r)); err != nil {
				return err
			}
		case typeRoute:
			if reason := e.obey(r); reason != "" {
				ack.ErrorDetail = &rpcstatus.Status{Code: 13, Message: reason}
			}
		}
		if ack.ErrorDetail == nil {
			e.keep(r)
		}
		if err := st.Send(ack); err != nil {
			return err
		}
		if !asked {
			asked = true
			if err := st.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeRoute, ResourceNamesSubscribe: []string{e.traffic.Service}}); err != nil {
				return err
			}
		}
	}
}

// present begins a stream. Who comes back says what it has of all types before it answers anything; asked reports
// whether the route was among them.
func (e *Envoy) present(st discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient) (asked bool, err error) {
	reqs := []*discovery.DeltaDiscoveryRequest{{Node: &core.Node{Id: e.id, Cluster: "edge"}, TypeUrl: typeCluster, InitialResourceVersions: e.has[typeCluster]}}
	if asked = len(e.has[typeRoute]) > 0; asked {
		reqs = append(reqs,
			&discovery.DeltaDiscoveryRequest{TypeUrl: typeEndpoint, ResourceNamesSubscribe: slices.Sorted(maps.Keys(e.has[typeCluster])), InitialResourceVersions: e.has[typeEndpoint]},
			&discovery.DeltaDiscoveryRequest{TypeUrl: typeRoute, ResourceNamesSubscribe: []string{e.traffic.Service}, InitialResourceVersions: e.has[typeRoute]})
	}
	for _, req := range reqs {
		if err := st.Send(req); err != nil {
			return false, err
		}
	}
	return asked, nil
}

// endpoints asks for those of clusters that come, and unsubscribes from those of clusters that go.
func (e *Envoy) endpoints(r *discovery.DeltaDiscoveryResponse) *discovery.DeltaDiscoveryRequest {
	req := &discovery.DeltaDiscoveryRequest{TypeUrl: typeEndpoint, ResourceNamesUnsubscribe: r.GetRemovedResources()}
	for _, x := range r.GetResources() {
		req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, x.GetName())
	}
	for _, name := range r.GetRemovedResources() {
		delete(e.has[typeEndpoint], name)
	}
	return req
}

// keep notes what it has accepted.
func (e *Envoy) keep(r *discovery.DeltaDiscoveryResponse) {
	has := e.has[r.GetTypeUrl()]
	if has == nil {
		has = map[string]string{}
		e.has[r.GetTypeUrl()] = has
	}
	for _, x := range r.GetResources() {
		has[x.GetName()] = x.GetVersion()
	}
	for _, name := range r.GetRemovedResources() {
		delete(has, name)
	}
}

func (e *Envoy) obey(r *discovery.DeltaDiscoveryResponse) string {
	if len(r.GetRemovedResources()) > 0 {
		e.mu.Lock()
		e.weights = map[string]uint32{}
		e.mu.Unlock()
	}
	for _, x := range r.GetResources() {
		rc := &route.RouteConfiguration{}
		if err := x.GetResource().UnmarshalTo(rc); err != nil {
			return err.Error()
		}
		weights := map[string]uint32{}
		routes := rc.GetVirtualHosts()[0].GetRoutes()
		for _, c := range routes[len(routes)-1].GetRoute().GetWeightedClusters().GetClusters() {
			weights[c.GetName()] += c.GetWeight().GetValue()
		}
		if e.traffic.Refuse != nil {
			if reason := e.traffic.Refuse(weights); reason != "" {
				return reason
			}
		}
		e.mu.Lock()
		e.weights = weights
		e.mu.Unlock()
	}
	return ""
}

// serve spends the traffic in slices of 100 ms.
func (e *Envoy) serve(ctx context.Context) {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			e.slice(now)
		}
	}
}

func (e *Envoy) slice(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for cluster, w := range e.weights {
		n := poisson(e.rand, e.traffic.PerSecond/10*float64(w)/10000)
		version := cluster[len(e.traffic.Service)+1:]
		x := min(n, poisson(e.rand, n*e.traffic.ErrorRate(version, now)))
		for _, m := range []map[string][2]float64{e.served, e.total} {
			c := m[cluster]
			m[cluster] = [2]float64{c[0] + n, c[1] + x}
		}
	}
}

// report sends load reports as asked.
func (e *Envoy) report(ctx context.Context, conn grpc.ClientConnInterface) error {
	st, err := loadstats.NewLoadReportingServiceClient(conn).StreamLoadStats(ctx)
	if err != nil {
		return err
	}
	if err := st.Send(&loadstats.LoadStatsRequest{Node: &core.Node{Id: e.id}}); err != nil {
		return err
	}
	asked := make(chan *loadstats.LoadStatsResponse, 1)
	failed := make(chan error, 1)
	go func() {
		for {
			r, err := st.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case asked <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	var list []string
	tick := time.NewTimer(time.Hour)
	interval, last := time.Hour, time.Now()
	for {
		select {
		case err := <-failed:
			return err
		case r := <-asked:
			list, interval = r.GetClusters(), r.GetLoadReportingInterval().AsDuration()
			tick.Reset(interval)
		case now := <-tick.C:
			if err := st.Send(&loadstats.LoadStatsRequest{ClusterStats: e.take(list, now.Sub(last))}); err != nil {
				return fmt.Errorf("report: %w", err)
			}
			last = now
			tick.Reset(interval)
		}
	}
}

func (e *Envoy) take(list []string, interval time.Duration) []*endpoint.ClusterStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []*endpoint.ClusterStats
	for _, name := range list {
		c := e.served[name]
		out = append(out, &endpoint.ClusterStats{ClusterName: name, LoadReportInterval: durationpb.New(interval),
			UpstreamLocalityStats: []*endpoint.UpstreamLocalityStats{{TotalSuccessfulRequests: uint64(c[0] - c[1]), TotalErrorRequests: uint64(c[1])}}})
	}
	clear(e.served)
	return out
}

// Served is what a version answered on this Envoy since the beginning: requests and errors.
func (e *Envoy) Served(version string) (requests, errors float64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.total[e.traffic.Service+"/"+version]
	return c[0], c[1]
}

// Weights is what this Envoy serves at present, in parts of 10 000.
func (e *Envoy) Weights() map[string]uint32 {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string]uint32{}
	for cluster, w := range e.weights {
		out[cluster[len(e.traffic.Service)+1:]] = w
	}
	return out
}
