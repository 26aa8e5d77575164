package xds

import (
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	envoytype "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/canaryd/canaryd/internal/policy"
)

// withHealth adds active checks and outlier detection to a cluster, as far as the policy wants them.
// canaryd's own probe asks in the same way (probe.Of): a version must not be well for one and sick for the
// other.
func withHealth(pb *cluster.Cluster, p *policy.Policy) {
	r := &p.Route
	if h := r.HealthCheck; h != nil {
		pb.HealthChecks = []*core.HealthCheck{{
			Interval: durationpb.New(h.Interval.Std()), Timeout: durationpb.New(h.Timeout.Std()),
			// Envoy asks clusters without traffic once a minute by default: a canary's first second would be too late.
			NoTrafficInterval:  durationpb.New(h.Interval.Std()),
			UnhealthyThreshold: wrapperspb.UInt32(uint32(h.Unhealthy)), HealthyThreshold: wrapperspb.UInt32(uint32(h.Healthy)),
		}}
		switch c := pb.HealthChecks[0]; {
		case r.HealthPath != "":
			c.HealthChecker = &core.HealthCheck_HttpHealthCheck_{HttpHealthCheck: &core.HealthCheck_HttpHealthCheck{
				Path: r.HealthPath, Host: p.HealthHost(), ExpectedStatuses: []*envoytype.Int64Range{{Start: policy.HealthyFrom, End: policy.HealthyBelow}},
			}}
		case r.GRPC():
			c.HealthChecker = &core.HealthCheck_GrpcHealthCheck_{GrpcHealthCheck: &core.HealthCheck_GrpcHealthCheck{Authority: p.HealthHost()}}
		default:
			c.HealthChecker = &core.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &core.HealthCheck_TcpHealthCheck{}}
		}
	}
	if o := r.Outlier; o != nil {
		pb.OutlierDetection = &cluster.OutlierDetection{
			Consecutive_5Xx: wrapperspb.UInt32(uint32(o.Errors)), EnforcingConsecutive_5Xx: wrapperspb.UInt32(100),
			ConsecutiveGatewayFailure: wrapperspb.UInt32(uint32(o.Errors)), EnforcingConsecutiveGatewayFailure: wrapperspb.UInt32(100),
			EnforcingSuccessRate: wrapperspb.UInt32(0), // a statistic of Envoy's own; the judge has a better one
			BaseEjectionTime:     durationpb.New(o.EjectFor.Std()),
			MaxEjectionPercent:   wrapperspb.UInt32(uint32(float64(o.AtMost)*100 + 0.5)),
			Interval:             durationpb.New(outlierSweep),
		}
	}
}
