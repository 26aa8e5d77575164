package xds

import (
	"context"
	"fmt"
	"slices"
	"time"

	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/canaryd/canaryd/internal/analysis"
)

// Report is what one Envoy counted since its last report, as far as it is believed.
type Report struct {
	Node     string
	Stream   uint64    // that it came on: two Envoys may have one node.id
	Client   bool      // a gRPC client: every status but OK is an error to it
	At       time.Time // its arrival: the end of the interval
	Clusters map[string]ClusterLoad
	Served   map[string]Served // by service, what this Envoy served at that moment; where that is known
}

// ClusterLoad is one cluster's part of a report: attempts and failed attempts.
type ClusterLoad struct {
	Interval  time.Duration
	Counts    analysis.Counts
	Dropped   float64 // by its circuit breakers; those of max_requests are among the failed attempts as well
	Issued    float64 // attempts that began, answered or not
	Active    float64 // attempts that are open at the end of the interval
	Endpoints map[string]analysis.Counts
	Answers   []analysis.Answered // of the attempts; nil: nothing is known of them, or it is not measured. One kind may be there several times
	Took      []analysis.Took     // the same
}

const (
	longestInterval = 5 * time.Minute
	mostPerSecond   = 10_000_000 // requests: no Envoy answers as many
	mostActive      = 10_000_000 // nor has as many open
)

// take reads a report, unless it is not believed.
func (s *reporter) take(ctx context.Context, stats []*endpoint.ClusterStats) (Report, bool) {
	r := Report{Node: s.node.ID, Stream: s.id, Client: s.client, At: time.Now(), Clusters: map[string]ClusterLoad{}}
	if !s.pace.Allow() {
		s.hub.refusals.count(overReports, s.node, "more than %d load reports in a second", s.pace.Burst())
		s.slow(ctx)
		return r, false
	}
	v, known := s.hub.vouch(s.node, s.clusters(stats))
	if !known {
		s.hub.refusals.count(unknownNode, s.node, "a load report is ignored: its node has no ADS stream with the same certificate, or node.id and IP address")
		return r, false
	}
	r.Served = v.served
	for _, cs := range stats {
		if has, looked := v.has[cs.GetClusterName()]; !looked {
			continue // there are too many
		} else if !has {
			s.hub.refusals.count(unknownCluster, s.node, "load of a cluster that the node has not accepted is ignored: %s", bounded(cs.GetClusterName(), nameBytes))
			continue
		}
		load, err := read(cs, r.Clusters[cs.GetClusterName()])
		if err != nil {
			s.hub.refusals.count(badNumbers, s.node, "a load report is ignored: cluster %s: %v", cs.GetClusterName(), err)
			return r, false
		}
		if err := load.believed(); err != nil {
			s.hub.refusals.count(badNumbers, s.node, "what a load report says of answers is ignored: cluster %s: %v", cs.GetClusterName(), err)
			load.Answers, load.Took = nil, nil
		}
		r.Clusters[cs.GetClusterName()] = load
	}
	s.hub.used(s.node, r.Clusters)
	return r, len(r.Clusters) > 0
}

// clusters are those of a report, each once, by name. Of too many the last services are left out: what is counted of one is compared, so
// none is read in part.
func (s *reporter) clusters(stats []*endpoint.ClusterStats) []string {
	names := make([]string, 0, len(stats))
	for _, cs := range stats {
		names = append(names, cs.GetClusterName())
	}
	slices.Sort(names)
	names = slices.Compact(names)
	all, most := len(names), s.hub.Admission.Limits.NamesPerType
	if all <= most {
		return names
	}
	beyond, _ := ParseCluster(names[most])
	for names = names[:most]; len(names) > 0; names = names[:len(names)-1] {
		if last, _ := ParseCluster(names[len(names)-1]); last.Service != beyond.Service {
			break
		}
	}
	s.hub.refusals.count(overNames, s.node, "of a load report of %d clusters the first %d by name are read"+seeNames, all, len(names))
	return names
}

// skipped counts what of a report was not read.
func (s *reporter) skipped(r *reported) {
	limits := s.hub.Admission.Limits
	if r.metrics > 0 {
		s.hub.refusals.count(overMetrics, s.node, "of a load report with %d metrics (at most %d) none is read: its requests count, their classes and durations do not", r.metrics, limits.MetricsPerReport)
	}
	if r.endpoints > 0 {
		s.hub.refusals.count(overEndpoints, s.node, "of a load report with %d endpoints (at most %d) only the sums are read", r.endpoints, limits.EndpointsPerReport)
	}
}

// read adds a cluster's load to what the same report said of it before.
func read(cs *endpoint.ClusterStats, load ClusterLoad) (ClusterLoad, error) {
	interval := cs.GetLoadReportInterval().AsDuration()
	if interval < 0 || interval > longestInterval {
		return load, fmt.Errorf("an interval of %s", interval)
	}
	load.Interval = max(load.Interval, interval)
	if load.Endpoints == nil {
		load.Endpoints = map[string]analysis.Counts{}
	}
	most := max(1, load.Interval.Seconds()) * mostPerSecond
	var err error
	add := func(to analysis.Counts, ok, failed uint64) analysis.Counts {
		to = to.Add(analysis.Counts{Requests: float64(ok) + float64(failed), Errors: float64(failed)})
		if to.Requests > most {
			err = fmt.Errorf("%.0f requests in %s", to.Requests, load.Interval)
		}
		return to
	}
	for _, loc := range cs.GetUpstreamLocalityStats() {
		load.Counts = add(load.Counts, loc.GetTotalSuccessfulRequests(), loc.GetTotalErrorRequests())
		load.metrics(loc)
		if load.Issued += float64(loc.GetTotalIssuedRequests()); load.Issued > most {
			err = fmt.Errorf("%.0f requests begun in %s", load.Issued, load.Interval)
		}
		if load.Active += float64(loc.GetTotalRequestsInProgress()); load.Active > mostActive {
			err = fmt.Errorf("%.0f requests that are open", load.Active)
		}
		for _, e := range loc.GetUpstreamEndpointStats() {
			name := addressOf(e)
			load.Endpoints[name] = add(load.Endpoints[name], e.GetTotalSuccessfulRequests(), e.GetTotalErrorRequests())
		}
	}
	if load.Dropped += float64(cs.GetTotalDroppedRequests()); load.Dropped > most {
		err = fmt.Errorf("%.0f dropped requests in %s", load.Dropped, load.Interval)
	}
	for name, n := range load.Endpoints {
		if n.Requests > load.Counts.Requests || n.Errors > load.Counts.Errors {
			return load, fmt.Errorf("%.0f errors in %.0f requests of %s, more than of the cluster", n.Errors, n.Requests, bounded(name, nameBytes))
		}
	}
	return load, err
}
