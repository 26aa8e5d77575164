package xds

import (
	"slices"
	"time"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	grpclog "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	metadata "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	tracing "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	percent "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

// canaryd's own listeners send canaryd records of failed requests: for the Envoys that say in their node's metadata that they have the
// cluster that these go to, because a listener that names a cluster which is not in the bootstrap is refused. All others have
// the listener without.
const (
	ownLog      = "canaryd-failures" // its name: whose successes are a sample, and whose failures are all
	recordsTo   = "canaryd"          // cluster of `canaryd bootstrap`
	recordsAt   = 200 * time.Millisecond
	failsFrom   = 500
	statusKey   = "canaryd.als.status" // runtime keys
	sampleKey   = "canaryd.als.sample"
	recordsSaid = "access_log" // in node.metadata.canaryd
)

// failureFlags are Envoy's response flags of requests that were not served. A client that went away is none.
func failureFlags() []string {
	return []string{"UH", "UF", "UO", "LR", "UR", "UC", "UT", "UPE", "URX", "SI", "NR", "NC", "OM"}
}

// failureLog is the access log of failures, and of a sample of all requests that is empty until a runtime key says otherwise.
func failureLog() *accesslog.AccessLog {
	fails := &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_OrFilter{OrFilter: &accesslog.OrFilter{Filters: []*accesslog.AccessLogFilter{
		{FilterSpecifier: &accesslog.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslog.StatusCodeFilter{Comparison: &accesslog.ComparisonFilter{
			Op: accesslog.ComparisonFilter_GE, Value: &core.RuntimeUInt32{DefaultValue: failsFrom, RuntimeKey: statusKey},
		}}}},
		{FilterSpecifier: &accesslog.AccessLogFilter_ResponseFlagFilter{ResponseFlagFilter: &accesslog.ResponseFlagFilter{Flags: failureFlags()}}},
		{FilterSpecifier: &accesslog.AccessLogFilter_RuntimeFilter{RuntimeFilter: &accesslog.RuntimeFilter{
			RuntimeKey: sampleKey, PercentSampled: &percent.FractionalPercent{Denominator: percent.FractionalPercent_TEN_THOUSAND}, UseIndependentRandomness: true,
		}}},
	}}}}
	return &accesslog.AccessLog{Name: "canaryd", Filter: fails, ConfigType: &accesslog.AccessLog_TypedConfig{TypedConfig: packed(&grpclog.HttpGrpcAccessLogConfig{
		CommonConfig: &grpclog.CommonGrpcAccessLogConfig{
			LogName: ownLog, TransportApiVersion: core.ApiVersion_V3, BufferFlushInterval: durationpb.New(recordsAt),
			GrpcService: &core.GrpcService{TargetSpecifier: &core.GrpcService_EnvoyGrpc_{EnvoyGrpc: &core.GrpcService_EnvoyGrpc{ClusterName: recordsTo}}},
			CustomTags:  []*tracing.CustomTag{classTag()},
		},
	})}}
}

// classTag has the class of the route that a request took.
func classTag() *tracing.CustomTag {
	return &tracing.CustomTag{Tag: classKey, Type: &tracing.CustomTag_Metadata_{Metadata: &tracing.CustomTag_Metadata{
		Kind:        &metadata.MetadataKind{Kind: &metadata.MetadataKind_Route_{Route: &metadata.MetadataKind_Route{}}},
		MetadataKey: &metadata.MetadataKey{Key: metadataKey, Path: []*metadata.MetadataKey_PathSegment{{Segment: &metadata.MetadataKey_PathSegment_Key{Key: classKey}}}},
	}}}
}

// fitting is the form of a listener that an Envoy has: the one with the access log, unless it has refused that.
func (r *Resource) fitting(it *item, n *Node) *Resource {
	logged := r.loggedFor(n)
	if logged == nil || slices.ContainsFunc(it.refused, func(v string) bool { return sameVersion(v, logged.Version) }) {
		return r
	}
	return logged
}

// loggedFor is a listener with the access log; nil: the Envoy does not have what that goes to. It is made for the first that has.
func (r *Resource) loggedFor(n *Node) *Resource {
	if !n.Records || r.withLog == nil {
		return nil
	}
	if r.logged == nil {
		logged, err := r.withLog()
		if err != nil { // what it is made of encodes without the log
			return nil
		}
		logged.services = r.services
		r.logged = logged
	}
	return r.logged
}
