package xds

import (
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/canaryd/canaryd/internal/policy"
)

// bufferLimit is how much Envoy reads ahead of who is slow, on each connection, in both directions.
const bufferLimit = 32 << 10

// withLimits sets the circuit breakers of a cluster, and what its connections may cost.
func withLimits(pb *cluster.Cluster, p *policy.Policy) {
	pb.CircuitBreakers = breakers(p)
	pb.PerConnectionBufferLimitBytes = wrapperspb.UInt32(bufferLimit)
	// A firewall that forgets an idle connection tells nobody: the next request would wait for its timeout, and
	// count as an error of the version.
	pb.UpstreamConnectionOptions = &cluster.UpstreamConnectionOptions{TcpKeepalive: &core.TcpKeepalive{
		KeepaliveTime: wrapperspb.UInt32(60), KeepaliveInterval: wrapperspb.UInt32(10), KeepaliveProbes: wrapperspb.UInt32(3),
	}}
}

// breakers are the limits as Envoy writes them. Of them gRPC clients keep to requests, by default 1 024 as well.
func breakers(p *policy.Policy) *cluster.CircuitBreakers {
	l := p.Route.Thresholds()
	return &cluster.CircuitBreakers{Thresholds: []*cluster.CircuitBreakers_Thresholds{{
		MaxConnections: number(l.Connections), MaxPendingRequests: number(l.Pending), MaxRequests: number(l.Requests), MaxRetries: number(l.Retries),
	}}}
}

func number(n int) *wrapperspb.UInt32Value { return wrapperspb.UInt32(uint32(n)) }
