package xds

import (
	"fmt"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslog "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
)

func recordsFor(cluster string, n int) (all []*accesslog.HTTPAccessLogEntry) {
	for i := range n {
		all = append(all, &accesslog.HTTPAccessLogEntry{
			CommonProperties: &accesslog.AccessLogCommon{UpstreamCluster: cluster},
			Request:          &accesslog.HTTPRequestProperties{RequestMethod: core.RequestMethod_GET, Path: fmt.Sprintf("/items/%d?user=alice", i)},
		})
	}
	return all
}

// Records count for nothing but what the Envoys that send them serve.
func TestRecordsAreOfWhatTheirEnvoyServes(t *testing.T) {
	h := NewHub(quietLog())
	r := recording{hub: h}
	r.take(Node{ID: "stranger", Peer: "10.0.0.9:1"}, recordsFor("shop/v1", 3), false, time.Now())
	if seen := h.Seen("shop"); seen.All() > 0 {
		t.Errorf("%g records of a stranger count", seen.All())
	}
	counted(t, h, unknownNode, 1)
}

// What is remembered is bounded, whoever sends what, and fades.
func TestRecordsAreBounded(t *testing.T) {
	var r records
	now := time.Now()
	for i := range 2 * recordedMost {
		r.add(fmt.Sprint("service-", i), "GET", "/", now)
	}
	if len(r.services) != recordedMost {
		t.Errorf("%d services", len(r.services))
	}
	r.add("service-1", "GET", "/", now.Add(24*time.Hour))
	if n := r.services["service-1"].All(); n < 1.49 || n > 1.51 {
		t.Errorf("%g are left of two, of which one is a day old", n)
	}
	r.add("service-1", "GET", "/", now.Add(-time.Hour)) // the clock was set back
	if n := r.services["service-1"].All(); n < 2.49 || n > 2.51 {
		t.Errorf("%g", n)
	}
}
