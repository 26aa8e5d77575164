package xds

import (
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	mutation "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	header "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	upcodec "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	upstream "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/canaryd/canaryd/internal/policy"
)

// Envoy counts answers by class and status, and how long they took, when it is told so by a header of the answer: an open
// request cost aggregation (ORCA) report. Envoy writes that header itself, and takes it away before the client sees it.
const orca = "endpoint-load-metrics"

// Metrics are named metric+class+"."+status, and metric+millis+"."+whole milliseconds. A class is written as it is in the
// metadata of its routes.
const (
	metric     = "named_metrics."
	millis     = "ms"
	grpcPrefix = "g" // before a gRPC status

	metadataKey, classKey = "canaryd", "class"
)

// measure is what the Envoys write into their load reports of a service beside what they count anyway.
type measure struct{ answers, times bool }

func measureOf(p *policy.Policy) measure {
	slow := p.Judge.Slow != nil
	return measure{answers: len(p.Route.Classes) > 0 || slow, times: slow}
}

// withProtocol says what a cluster speaks, and what is measured there.
func withProtocol(pb *cluster.Cluster, p *policy.Policy) {
	m := measureOf(p)
	if !p.Route.GRPC() && !m.answers {
		return
	}
	c := &upstream.HttpProtocolOptions_ExplicitHttpConfig{ProtocolConfig: &upstream.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &core.Http1ProtocolOptions{}}}
	if p.Route.GRPC() {
		c.ProtocolConfig = &upstream.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &core.Http2ProtocolOptions{}}
	}
	o := &upstream.HttpProtocolOptions{UpstreamProtocolOptions: &upstream.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: c}}
	if m.answers {
		pb.LrsReportEndpointMetrics = []string{metric + "*"}
		o.HttpFilters = []*hcm.HttpFilter{
			filter("envoy.filters.http.header_mutation", &header.HeaderMutation{Mutations: m.mutations(p.Route.GRPC())}),
			filter("envoy.filters.http.upstream_codec", &upcodec.UpstreamCodec{}), // the last one
		}
	}
	pb.TypedExtensionProtocolOptions = map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(o)}
}

// mutations write the report. Of a gRPC call the status is in the trailers or, where it failed at once, in the headers. The
// first report of an answer that Envoy can read counts, and one whose value is no number it cannot: so of the two it reads
// the one with the status. What a metric's value is means nothing: its occurrences are counted.
func (m measure) mutations(grpc bool) *header.Mutations {
	if !grpc {
		return &header.Mutations{ResponseMutations: writes(m.report("%RESP(:status)%", "1"))}
	}
	const inHeaders, inTrailers = "%RESP(grpc-status)%", "%TRAILER(grpc-status)%"
	return &header.Mutations{
		ResponseMutations:         writes(m.report(grpcPrefix+inHeaders, inHeaders)),
		ResponseTrailersMutations: writes(m.report(grpcPrefix+inTrailers, "1")),
	}
}

func (m measure) report(status, value string) string {
	text := "TEXT " + metric + "%METADATA(ROUTE:" + metadataKey + ":" + classKey + ")%." + status + "=" + value
	if m.times {
		text += "," + metric + millis + ".%COMMON_DURATION(US_TX_BEG:US_RX_BEG:ms)%=1"
	}
	return text
}

func writes(report string) []*mutation.HeaderMutation {
	return []*mutation.HeaderMutation{{Action: &mutation.HeaderMutation_Append{Append: &core.HeaderValueOption{
		Header: &core.HeaderValue{Key: orca, Value: report}, AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}}}}
}
