package xds

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"

	"github.com/canaryd/canaryd/internal/analysis"
)

const (
	examplesMost = 64               // of a service: by version, class and kind
	examplesFor  = 10 * time.Second // what nobody asked for in time is of another release
)

// failures are records of failed requests of a service that nobody has asked for yet.
type failures struct {
	since time.Time
	n     map[exampleOf]float64
}

type exampleOf struct{ version, class, kind string }

// fails remembers a failure, if it is one that load reports count as such.
func (r *records) fails(c ClusterID, e *accesslog.HTTPAccessLogEntry, now time.Time) {
	kind := kindOf(e)
	if kind == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.of(c.Service, now)
	if s == nil {
		return
	}
	if f := &s.failed; f.n == nil || now.Before(f.since) || now.Sub(f.since) > examplesFor {
		*f = failures{now, map[exampleOf]float64{}}
	}
	class := e.GetCommonProperties().GetCustomTags()[classKey]
	of := exampleOf{c.Version, strings.Clone(class[:min(len(class), classLetters)]), kind}
	if _, has := s.failed.n[of]; has || len(s.failed.n) < examplesMost {
		s.failed.n[of]++
	}
}

// TakeExamples are the failed requests of a service that records showed since the last call, by version. They may be few of all
// that failed.
func (h *Hub) TakeExamples(service string) map[string][]analysis.Example {
	h.records.mu.Lock()
	defer h.records.mu.Unlock()
	s := h.records.services[service]
	if s == nil || len(s.failed.n) == 0 {
		return nil
	}
	f := s.failed
	if s.failed = (failures{}); h.now().Sub(f.since) > examplesFor {
		return nil
	}
	out := map[string][]analysis.Example{}
	for of, n := range f.n {
		out[of.version] = append(out[of.version], analysis.Example{Class: of.class, Kind: of.kind, N: n})
	}
	for _, all := range out {
		slices.SortFunc(all, func(a, b analysis.Example) int {
			return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Kind, b.Kind))
		})
	}
	return out
}

// kindOf is how a request failed at its endpoint: the status, or why there is none; empty: it was Envoy's own doing, or the client's,
// and load reports do not count it as a failure.
func kindOf(e *accesslog.HTTPAccessLogEntry) string {
	p := e.GetCommonProperties()
	details := e.GetResponse().GetResponseCodeDetails()
	switch f := p.GetResponseFlags(); {
	case f.GetUpstreamRequestTimeout():
		return analysis.TimedOut
	case f.GetUpstreamConnectionFailure() && strings.Contains(details+p.GetUpstreamTransportFailureReason(), "refused"):
		return analysis.Refused
	case f.GetUpstreamConnectionFailure():
		return analysis.NotConnected
	case f.GetUpstreamConnectionTermination():
		return analysis.Closed
	case f.GetUpstreamProtocolError():
		return analysis.BrokenProtocol
	case f.GetUpstreamRemoteReset(), f.GetLocalReset():
		return analysis.Reset
	}
	if status := e.GetResponse().GetResponseCode().GetValue(); details == "via_upstream" && status >= failsFrom && status < 600 {
		return strconv.Itoa(int(status))
	}
	return ""
}
