package xds

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// What there may be more of answers than of requests: both are read while requests go on, one after the other.
const (
	aheadShare = 1.1
	aheadMost  = 100
)

const (
	longestMillis = 24 * 60 * 60 * 1000 // what took longer took that long
	classLetters  = 32
)

// metrics takes in what the Envoy has written about the answers of a locality: that of its endpoints, and what is left where
// one of them is gone.
func (l *ClusterLoad) metrics(loc *endpoint.UpstreamLocalityStats) {
	all, known := 0.0, 0.0
	for _, m := range loc.GetLoadMetricStats() {
		all += float64(m.GetNumRequestsFinishedWithMetric())
	}
	for _, e := range loc.GetUpstreamEndpointStats() {
		at := ""
		for _, m := range e.GetLoadMetricStats() {
			if at == "" {
				at = addressOf(e)
			}
			n := float64(m.GetNumRequestsFinishedWithMetric())
			l.metric(at, m.GetMetricName(), n)
			known += n
		}
	}
	if all > known {
		l.left(loc)
	}
}

// left takes in what a locality has more than its endpoints.
func (l *ClusterLoad) left(loc *endpoint.UpstreamLocalityStats) {
	more := map[string]float64{}
	for _, e := range loc.GetUpstreamEndpointStats() {
		for _, m := range e.GetLoadMetricStats() {
			more[m.GetMetricName()] -= float64(m.GetNumRequestsFinishedWithMetric())
		}
	}
	for _, m := range loc.GetLoadMetricStats() {
		more[m.GetMetricName()] += float64(m.GetNumRequestsFinishedWithMetric())
	}
	for _, name := range slices.Sorted(maps.Keys(more)) {
		if n := more[name]; n > 0 {
			l.metric("", name, n)
		}
	}
}

// metric takes in how often one was written. What is none of canaryd's is left out.
func (l *ClusterLoad) metric(at, name string, n float64) {
	name, ours := strings.CutPrefix(name, metric)
	class, code, ok := strings.Cut(name, ".")
	if !ours || !ok || n == 0 {
		return
	}
	if class == millis {
		if ms, err := strconv.Atoi(code); err == nil && ms >= 0 {
			l.Took = append(l.Took, analysis.Took{Endpoint: at, Millis: min(ms, longestMillis), N: n})
		}
		return
	}
	if code, ok = codeOf(code); !ok {
		return
	}
	if class == "" || len(class) > classLetters {
		class = policy.Rest
	}
	l.Answers = append(l.Answers, analysis.Answered{Endpoint: at, Class: class, Code: code, N: n})
}

// codeOf reads how the status of an answer was written.
func codeOf(text string) (code string, ok bool) {
	text, grpc := strings.CutPrefix(text, grpcPrefix)
	n, err := strconv.Atoi(text)
	switch {
	case err != nil || strconv.Itoa(n) != text:
		return "", false
	case grpc:
		return "grpc-" + text, n >= 0 && n < 100
	}
	return text, n >= 100 && n < 1000
}

// believed says why answers cannot be as many, or as long.
func (l *ClusterLoad) believed() error {
	answers, times := 0.0, 0.0
	for _, a := range l.Answers {
		answers += a.N
	}
	for _, t := range l.Took {
		times += t.N
	}
	if most := l.Counts.Requests*aheadShare + aheadMost; max(answers, times) > most {
		return fmt.Errorf("%.0f answers, %.0f of them timed, to %.0f requests", answers, times, l.Counts.Requests)
	}
	return nil
}

func addressOf(e *endpoint.UpstreamEndpointStats) string {
	a := e.GetAddress().GetSocketAddress()
	return a.GetAddress() + ":" + strconv.Itoa(int(a.GetPortValue()))
}
