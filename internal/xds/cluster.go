package xds

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// outlierSweep is how often Envoy looks whether an ejected endpoint may come back.
const outlierSweep = time.Second

func ads() *core.ConfigSource {
	return &core.ConfigSource{
		ResourceApiVersion:    core.ApiVersion_V3,
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
		InitialFetchTimeout:   durationpb.New(30 * time.Second),
	}
}

// buildCluster makes the cluster of a version, and its endpoints unless Envoy resolves them itself.
func buildCluster(p *policy.Policy, service string, c rollout.Cluster) ([]*Resource, error) {
	rs, err := namedCluster(p, ClusterID{Service: service, Version: c.Version}, c)
	if err != nil || p.Route.Testers == nil {
		return rs, err
	}
	more, err := namedCluster(p, ClusterID{service, c.Version, Testers}, c)
	return append(rs, more...), err
}

func namedCluster(p *policy.Policy, id ClusterID, c rollout.Cluster) ([]*Resource, error) {
	name := id.String()
	cla, err := assignment(name, c.Endpoints)
	if err != nil {
		return nil, err
	}
	pb := &cluster.Cluster{
		Name: name, AltStatName: policy.WireName(name),
		ConnectTimeout: durationpb.New(2 * time.Second),
	}
	withHealth(pb, p)
	withLimits(pb, p)
	withProtocol(pb, p)
	byDNS := slices.ContainsFunc(c.Endpoints, policy.ByName)
	if byDNS {
		pb.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_STRICT_DNS}
		pb.LoadAssignment = cla
	} else {
		pb.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_EDS}
		pb.EdsClusterConfig = &cluster.Cluster_EdsClusterConfig{EdsConfig: ads()}
	}
	cds, err := newResource(TypeCluster, name, pb)
	if err != nil {
		return nil, err
	}
	cds.byDNS, cds.attempts = byDNS, []rollout.Attempt{c.Attempt}
	if byDNS {
		return []*Resource{cds}, nil
	}
	eds, err := newResource(TypeEndpoint, name, cla)
	if err != nil {
		return nil, err
	}
	eds.attempts = cds.attempts
	return []*Resource{cds, eds}, nil
}

func assignment(name string, endpoints []string) (*endpoint.ClusterLoadAssignment, error) {
	var lbs []*endpoint.LbEndpoint
	for _, e := range endpoints {
		addr, err := socketAddress(e)
		if err != nil {
			return nil, err
		}
		lbs = append(lbs, &endpoint.LbEndpoint{HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: addr}}})
	}
	return &endpoint.ClusterLoadAssignment{
		ClusterName: name,
		Endpoints:   []*endpoint.LocalityLbEndpoints{{LbEndpoints: lbs, LoadBalancingWeight: wrapperspb.UInt32(1)}},
	}, nil
}

func socketAddress(hostPort string) (*core.Address, error) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", hostPort, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", hostPort, err)
	}
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: host, PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(n)},
	}}}, nil
}
