package xds

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/canaryd/canaryd/internal/analysis"
)

func failing(status uint32, details string, flags *accesslog.ResponseFlags) *accesslog.HTTPAccessLogEntry {
	return &accesslog.HTTPAccessLogEntry{
		CommonProperties: &accesslog.AccessLogCommon{ResponseFlags: flags, CustomTags: map[string]string{classKey: "checkout"}},
		Response:         &accesslog.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(status), ResponseCodeDetails: details},
	}
}

// What load reports do not count as a failure of the version is no example of one.
func TestRecordsHaveTheKindsThatLoadReportsLack(t *testing.T) {
	for _, c := range []struct {
		want  string
		entry *accesslog.HTTPAccessLogEntry
	}{
		{"503", failing(503, "via_upstream", nil)},
		{"503", failing(503, "via_upstream", &accesslog.ResponseFlags{UpstreamRetryLimitExceeded: true})},
		{analysis.TimedOut, failing(504, "response_timeout", &accesslog.ResponseFlags{UpstreamRequestTimeout: true})},
		{analysis.Closed, failing(503, "upstream_reset_before_response_started{connection_termination}", &accesslog.ResponseFlags{UpstreamConnectionTermination: true})},
		{analysis.Refused, failing(503, "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}", &accesslog.ResponseFlags{UpstreamConnectionFailure: true})},
		{analysis.NotConnected, failing(503, "upstream_reset_before_response_started{connection_timeout}", &accesslog.ResponseFlags{UpstreamConnectionFailure: true})},
		{analysis.Reset, failing(503, "upstream_reset_before_response_started{remote_reset}", &accesslog.ResponseFlags{UpstreamRemoteReset: true})},
		{"", failing(503, "overflow", &accesslog.ResponseFlags{UpstreamOverflow: true})},
		{"", failing(503, "no_healthy_upstream", &accesslog.ResponseFlags{NoHealthyUpstream: true})},
		{"", failing(0, "downstream_remote_disconnect", &accesslog.ResponseFlags{DownstreamConnectionTermination: true})},
		{"", failing(503, "direct_response", nil)},
	} {
		if got := kindOf(c.entry); got != c.want {
			t.Errorf("%v: %q, want %q", c.entry, got, c.want)
		}
	}
}

// Examples are taken once, are forgotten when nobody takes them, and are bounded whatever an Envoy says.
func TestExamplesAreTakenOnceAndBounded(t *testing.T) {
	h := NewHub(quietLog())
	id, now := ClusterID{Service: "shop", Version: "v2", Role: Users}, h.now()
	for range 3 {
		h.records.fails(id, failing(503, "via_upstream", nil), now)
	}
	want := map[string][]analysis.Example{"v2": {{Class: "checkout", Kind: "503", N: 3}}}
	if got := h.TakeExamples("shop"); !reflect.DeepEqual(got, want) || h.TakeExamples("shop") != nil {
		t.Errorf("%+v", got)
	}
	h.records.fails(id, failing(503, "via_upstream", nil), now.Add(-time.Hour))
	if got := h.TakeExamples("shop"); got != nil {
		t.Errorf("after an hour there is %+v", got)
	}
	for i := range 1000 {
		e := failing(503, "via_upstream", nil)
		e.CommonProperties.CustomTags[classKey] = fmt.Sprintf("%d-%0100d", i, i)
		h.records.fails(id, e, now)
	}
	all := h.TakeExamples("shop")["v2"]
	if len(all) != examplesMost || len(all[0].Class) > classLetters {
		t.Errorf("%d examples", len(all))
	}
}
