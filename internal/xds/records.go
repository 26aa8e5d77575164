package xds

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslog "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	als "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"golang.org/x/time/rate"

	"github.com/canaryd/canaryd/internal/paths"
)

const (
	recordsPerSecond = 200 // of one stream, an Envoy has one for each worker; more are not read, and Envoy drops what it cannot send
	recordedMost     = 200 // services of which requests are remembered
	recordedHalf     = 24 * time.Hour
)

// records are what access log records say that a service is asked for. They are examples: Envoy drops them when they are too many, and when
// canaryd is away, so nothing is counted by them. No queries are kept, and nothing else of a user.
type records struct {
	mu       sync.Mutex
	services map[string]*recorded
}

type recorded struct {
	paths.Tally
	at     time.Time // it faded last
	failed failures  // since somebody asked
}

// Seen are the requests of a service that sampled access log records showed lately.
func (h *Hub) Seen(service string) paths.Tally {
	h.records.mu.Lock()
	defer h.records.mu.Unlock()
	if r := h.records.services[service]; r != nil {
		return r.Clone()
	}
	return paths.Tally{}
}

// add remembers a request. Whose service it is was vouched for.
func (r *records) add(service, method, path string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.of(service, now)
	if s == nil {
		return
	}
	if since := now.Sub(s.at); since >= time.Hour {
		s.Fade(math.Exp2(-float64(since) / float64(recordedHalf)))
		s.at = now
	}
	s.Add(method, path, 1)
}

// of is what is remembered of a service; nil: there is no room for more services.
func (r *records) of(service string, now time.Time) *recorded {
	s := r.services[service]
	if s == nil && len(r.services) < recordedMost {
		if r.services == nil {
			r.services = map[string]*recorded{}
		}
		s = &recorded{at: now}
		r.services[service] = s
	}
	return s
}

// recording takes access log records in.
type recording struct {
	als.UnimplementedAccessLogServiceServer
	hub *Hub
}

// StreamAccessLogs serves one worker of an Envoy. What comes too fast is left where it is: Envoy keeps some megabytes and drops the rest, and its
// users and its other streams feel nothing.
func (r recording) StreamAccessLogs(ss als.AccessLogService_StreamAccessLogsServer) error {
	m, err := ss.Recv()
	if err != nil {
		return err
	}
	node, err := r.speaker(ss.Context(), m.GetIdentifier().GetNode())
	if err != nil {
		return err
	}
	own := m.GetIdentifier().GetLogName() == ownLog
	pace := rate.NewLimiter(recordsPerSecond, recordsPerSecond)
	for {
		entries := m.GetHttpLogs().GetLogEntry()
		r.take(node, entries, own, time.Now())
		if err := pace.WaitN(ss.Context(), min(max(len(entries), 1), recordsPerSecond)); err != nil {
			return err
		}
		if m, err = ss.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// speaker is who sends records: only their first message says it, and not where that of other streams does.
func (r recording) speaker(ctx context.Context, said *core.Node) (Node, error) {
	v, ok := ctx.Value(visitorKey{}).(*visitor)
	if !ok {
		return nodeOf(said, peerOf(ctx)), nil
	}
	node, err := r.hub.admit(ctx, said)
	v.node = node
	return node, v.fails(err)
}

// take remembers the requests of clusters that the node has accepted. Of a large message it looks at the first records: the others are as good.
// Failures that a listener of canaryd's own sends are all, while its successes are a sample: they say nothing of what is asked for. Nor do those
// of a version under test: it may be asked for what stable does not serve, and be gone tomorrow.
func (r recording) take(node Node, entries []*accesslog.HTTPAccessLogEntry, own bool, now time.Time) {
	entries = entries[:min(len(entries), recordsPerSecond)]
	var names []string
	for _, e := range entries {
		names = append(names, e.GetCommonProperties().GetUpstreamCluster())
	}
	vouched, known := r.hub.vouch(node, slices.Compact(slices.Sorted(slices.Values(names))))
	if !known {
		r.hub.refusals.count(unknownNode, node, "access log records are ignored: their node has no ADS stream with the same certificate, or node.id and IP address")
		return
	}
	stable := r.hub.stables(names)
	for i, e := range entries {
		c, is := ParseCluster(names[i])
		if !is || c.Role != Users || !vouched.has[names[i]] {
			continue
		}
		if own && failed(e) {
			r.hub.records.fails(c, e, now)
			continue
		}
		if stable[c.Service] != c.Version {
			continue
		}
		path, _, _ := strings.Cut(e.GetRequest().GetPath(), "?")
		r.hub.records.add(c.Service, e.GetRequest().GetRequestMethod().String(), path, now)
	}
}

// stables are the stable versions of the services that some clusters are of.
func (h *Hub) stables(clusters []string) map[string]string {
	h.enter()
	defer h.exit()
	all := map[string]string{}
	for _, name := range clusters {
		id, is := ParseCluster(name)
		if s := h.services[id.Service]; is && s != nil {
			all[id.Service] = s.edition.forms.table.Stable
		}
	}
	return all
}

// failed reports whether a request was not served.
func failed(e *accesslog.HTTPAccessLogEntry) bool {
	return e.GetResponse().GetResponseCode().GetValue() >= failsFrom || e.GetCommonProperties().GetResponseFlags() != nil
}
