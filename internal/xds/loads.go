package xds

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/canaryd/canaryd/internal/analysis"
)

// Report is what one Envoy counted since its last report.
type Report struct {
	Node     string
	Client   bool      // a gRPC client: every status but OK is an error to it
	At       time.Time // its arrival: the end of the interval
	Clusters map[string]ClusterLoad
}

// ClusterLoad is one cluster's part of a report: attempts and failed attempts. Dropped are the requests that its
// circuit breakers dropped; those of max_requests are among the failed attempts as well.
type ClusterLoad struct {
	Interval  time.Duration
	Counts    analysis.Counts
	Dropped   float64
	Endpoints map[string]analysis.Counts
}

// Loads takes load reports in. Which clusters are reported, and how often, may change at any time.
type Loads struct {
	interval time.Duration
	deliver  func(Report)

	mu       sync.Mutex
	clusters []string
	streams  map[chan struct{}]string // wake-up: node
}

// NewLoads delivers reports to a function that must not block.
func NewLoads(interval time.Duration, deliver func(Report)) *Loads {
	return &Loads{interval: interval, deliver: deliver, streams: map[chan struct{}]string{}}
}

// Ask says which clusters are to be reported from now on.
func (l *Loads) Ask(clusters []string) {
	clusters = slices.Sorted(slices.Values(clusters))
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Equal(clusters, l.clusters) {
		return
	}
	l.clusters = clusters
	for wake := range l.streams {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

// Nodes are the Envoys that report at present.
func (l *Loads) Nodes() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Values(l.streams))
}

// StreamLoadStats serves one Envoy.
func (l *Loads) StreamLoadStats(ss loadstats.LoadReportingService_StreamLoadStatsServer) error {
	req, err := ss.Recv()
	if err != nil {
		return err
	}
	node := req.GetNode().GetId()
	client := strings.HasPrefix(req.GetNode().GetUserAgentName(), "gRPC")
	wake := make(chan struct{}, 1)
	wake <- struct{}{}
	l.mu.Lock()
	l.streams[wake] = node
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.streams, wake)
		l.mu.Unlock()
	}()
	go l.ask(ss, wake, client)
	for {
		if len(req.GetClusterStats()) > 0 {
			r := report(node, req.GetClusterStats())
			r.Client = client
			l.deliver(r)
		}
		if req, err = ss.Recv(); err != nil {
			return err
		}
	}
}

func (l *Loads) ask(ss loadstats.LoadReportingService_StreamLoadStatsServer, wake <-chan struct{}, client bool) {
	for {
		select {
		case <-ss.Context().Done():
			return
		case <-wake:
		}
		l.mu.Lock()
		r := &loadstats.LoadStatsResponse{
			Clusters: l.clusters, LoadReportingInterval: durationpb.New(l.interval), ReportEndpointGranularity: true,
		}
		l.mu.Unlock()
		if client { // grpc-go reads the first answer only, and knows no endpoints
			r.Clusters, r.SendAllClusters, r.ReportEndpointGranularity = nil, true, false
		}
		if ss.Send(r) != nil {
			return
		}
	}
}

func report(node string, stats []*endpoint.ClusterStats) Report {
	r := Report{Node: node, At: time.Now(), Clusters: map[string]ClusterLoad{}}
	for _, cs := range stats {
		load := ClusterLoad{Interval: cs.GetLoadReportInterval().AsDuration(), Dropped: float64(cs.GetTotalDroppedRequests()), Endpoints: map[string]analysis.Counts{}}
		for _, loc := range cs.GetUpstreamLocalityStats() {
			load.Counts = load.Counts.Add(counts(loc.GetTotalSuccessfulRequests(), loc.GetTotalErrorRequests()))
			for _, e := range loc.GetUpstreamEndpointStats() {
				a := e.GetAddress().GetSocketAddress()
				name := a.GetAddress() + ":" + strconv.Itoa(int(a.GetPortValue()))
				load.Endpoints[name] = load.Endpoints[name].Add(counts(e.GetTotalSuccessfulRequests(), e.GetTotalErrorRequests()))
			}
		}
		r.Clusters[cs.GetClusterName()] = load
	}
	return r
}

func counts(ok, failed uint64) analysis.Counts {
	return analysis.Counts{Requests: float64(ok + failed), Errors: float64(failed)}
}
