package xds

import (
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
)

// Reason says why something was not taken in. It is a label of canaryd_xds_refused_total; those of limits are
// the keys of xds.limits.
type Reason string

// The reasons.
const (
	overStreams   Reason = "streams_per_peer"
	overFirst     Reason = "first_message"
	overTypes     Reason = "known_types"
	overNames     Reason = "names_per_type"
	overRequest   Reason = "request_bytes"
	overRefusal   Reason = "refusal_bytes"
	overReports   Reason = "reports_per_second"
	overEndpoints Reason = "endpoints_per_report"
	overMetrics   Reason = "metrics_per_report"
	overPeer      Reason = "names_per_peer"
	overBytes     Reason = "bytes_per_peer"
	overPace      Reason = "bytes_per_second"
	overPause     Reason = "pause" // who broke a limit is not let in at once
	overGone      Reason = "gone"  // too many nodes of one address that are away are remembered

	badNode        Reason = "node"        // no node.id, or a monstrous one
	notItsNode     Reason = "certificate" // it may not speak as that node
	unknownNode    Reason = "report_node" // no ADS stream of that node
	unknownCluster Reason = "report_cluster"
	badNumbers     Reason = "report_numbers"
)

func reasons() []Reason {
	return []Reason{overStreams, overFirst, overTypes, overNames, overRequest, overRefusal, overReports, overEndpoints, overMetrics, overPeer, overBytes, overPace, overPause, overGone,
		badNode, notItsNode, unknownNode, unknownCluster, badNumbers}
}

// quiet is how often the log says so: who is refused may try a thousand times a second.
const quiet = 10 * time.Second

// refusals counts what was not taken in, and says so now and then.
type refusals struct {
	log logrus.FieldLogger

	mu         sync.Mutex
	counts     map[Reason]int
	mismatches int // nodes that were admitted although their certificate names another one
	said       map[Reason]*rate.Sometimes
}

func newRefusals(log logrus.FieldLogger) *refusals {
	r := &refusals{log: log, counts: map[Reason]int{}, said: map[Reason]*rate.Sometimes{}}
	for _, reason := range reasons() { // counters that begin with their first event hide it from alerts
		r.counts[reason], r.said[reason] = 0, &rate.Sometimes{First: 1, Interval: quiet}
	}
	return r
}

// count notes one.
func (r *refusals) count(reason Reason, n Node, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[reason]++
	r.say(reason, n, format, args...)
}

// mismatch notes a node that is admitted all the same.
func (r *refusals) mismatch(n Node, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mismatches++
	r.say(notItsNode, n, "%s; admitted, because neither xds.nodes nor xds.strict_nodes is set", why)
}

func (r *refusals) say(reason Reason, n Node, format string, args ...any) {
	r.said[reason].Do(func() {
		r.log.WithFields(logrus.Fields{"node": n.ID, "peer": n.Peer, "reason": reason}).Warn(fmt.Sprintf(format, args...))
	})
}

func (r *refusals) figures() (counts map[Reason]int, mismatches int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts), r.mismatches
}
