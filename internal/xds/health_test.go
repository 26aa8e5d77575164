package xds

import (
	"testing"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/probe"
)

// Envoy's check and canaryd's own probe ask alike, whatever the policy.
func TestEnvoyAsksAsTheProbeAsks(t *testing.T) {
	for _, c := range []struct {
		name    string
		domains []string
		path    string
		grpc    bool
		host    string
	}{
		{"a path and a domain", []string{"shop.example.com", "www.example.com"}, "/healthz?full=1", false, "shop.example.com"},
		{"a path and any domain", []string{"*"}, "/healthz", false, "shop"},
		{"a pattern is no host name", []string{"*.example.com", "shop.*", "shop.example.com"}, "/healthz", false, "shop.example.com"},
		{"gRPC", []string{"shop.example.com"}, "", true, "shop.example.com"},
		{"gRPC with a path", nil, "/healthz", true, "shop"},
		{"a connection", []string{"shop.example.com"}, "", false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := policy.Default()
			p.Service, p.Route.Domains, p.Route.HealthPath = "shop", c.domains, c.path
			p.Route.HealthCheck = &policy.HealthCheck{Interval: policy.Duration(time.Second), Timeout: policy.Duration(time.Second), Unhealthy: 1, Healthy: 1}
			if c.grpc {
				p.Route.Protocol = policy.ProtocolGRPC
			}
			pb := &cluster.Cluster{}
			withHealth(pb, &p)
			own := probe.Of(&p)
			h := pb.HealthChecks[0].GetHttpHealthCheck()
			g := pb.HealthChecks[0].GetGrpcHealthCheck()
			if h.GetPath() != own.Path || (g != nil) != (own.GRPC && own.Path == "") {
				t.Errorf("Envoy: %v, canaryd: %+v", pb.HealthChecks[0], own)
			}
			if host := h.GetHost() + g.GetAuthority(); host != c.host || c.host != "" && own.Host != c.host {
				t.Errorf("Envoy asks for %q, canaryd for %q, want %q", host, own.Host, c.host)
			}
			if r := h.GetExpectedStatuses(); h != nil && (len(r) != 1 || r[0].Start != policy.HealthyFrom || r[0].End != policy.HealthyBelow) {
				t.Errorf("Envoy takes %v for well", r)
			}
		})
	}
}

// Without checks in the policy nobody has promised that a gRPC server has the health service.
func TestWithoutChecksAGRPCServerIsConnectedTo(t *testing.T) {
	p := policy.Default()
	p.Service, p.Route.Protocol = "shop", policy.ProtocolGRPC
	if own := probe.Of(&p); own.GRPC || own.Path != "" {
		t.Errorf("%+v", own)
	}
	if p.Route.Probe = policy.ProbeOff; probe.Of(&p) != nil {
		t.Error("probe: off does ask")
	}
}
