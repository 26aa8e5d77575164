package xds

import (
	"slices"
	"strings"

	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	grpcstats "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/canaryd/canaryd/internal/policy"
)

// plainRDS reports whether a listener needs no scopes: its only service has every host.
func plainRDS(ps []*policy.Policy) bool {
	return len(ps) == 1 && slices.Equal(ps[0].Route.Domains, []string{"*"})
}

func buildListener(address string, ps []*policy.Policy) (*Resource, error) {
	m := &hcm.HttpConnectionManager{
		StatPrefix:     "canaryd",
		UpgradeConfigs: []*hcm.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		HttpFilters:    []*hcm.HttpFilter{filter("envoy.filters.http.router", &router.Router{})},
	}
	harden(m)
	if slices.ContainsFunc(ps, func(p *policy.Policy) bool { return p.Route.GRPC() }) {
		m.HttpFilters = slices.Insert(m.HttpFilters, 0, filter("envoy.filters.http.grpc_stats", &grpcstats.FilterConfig{
			PerMethodStatSpecifier: &grpcstats.FilterConfig_StatsForAllMethods{StatsForAllMethods: wrapperspb.Bool(false)},
		}))
	}
	if plainRDS(ps) {
		m.RouteSpecifier = &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{ConfigSource: ads(), RouteConfigName: ps[0].Service}}
	} else {
		m.RouteSpecifier = &hcm.HttpConnectionManager_ScopedRoutes{ScopedRoutes: scoped(address)}
	}
	addr, err := socketAddress(address)
	if err != nil {
		return nil, err
	}
	r, err := newResource(TypeListener, address, &listener.Listener{
		Name: address, Address: addr, PerConnectionBufferLimitBytes: wrapperspb.UInt32(bufferLimit),
		FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listener.Filter_TypedConfig{TypedConfig: packed(m)},
		}}}},
	})
	if err != nil {
		return nil, err
	}
	r.Nodes = nodesOf(ps)
	for _, p := range ps {
		r.services = append(r.services, p.Service)
	}
	return r, nil
}

func filter(name string, config proto.Message) *hcm.HttpFilter {
	return &hcm.HttpFilter{Name: name, ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: packed(config)}}
}

// nodesOf are the node clusters of all services on a listener; none when one of them goes to all.
func nodesOf(ps []*policy.Policy) []string {
	var nodes []string
	for _, p := range ps {
		if len(p.Route.Nodes) == 0 {
			return nil
		}
		nodes = append(nodes, p.Route.Nodes...)
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

// scoped chooses the service by the host, without its port. Each listener has scopes of its own.
func scoped(address string) *hcm.ScopedRoutes {
	return &hcm.ScopedRoutes{
		Name: address, RdsConfigSource: ads(),
		ScopeKeyBuilder: &hcm.ScopedRoutes_ScopeKeyBuilder{Fragments: []*hcm.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder{
			{Type: &hcm.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_{
				HeaderValueExtractor: &hcm.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor{
					Name: ":authority", ElementSeparator: ":",
					ExtractType: &hcm.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_Index{Index: 0},
				}}}}},
		ConfigSpecifier: &hcm.ScopedRoutes_ScopedRds{ScopedRds: &hcm.ScopedRds{ScopedRdsConfigSource: ads()}},
	}
}

func buildScopes(p *policy.Policy) ([]*Resource, error) {
	var out []*Resource
	for _, host := range p.Route.Domains {
		host = strings.ToLower(host)
		r, err := newResource(TypeScope, "host/"+host, &route.ScopedRouteConfiguration{
			Name: "host/" + host, RouteConfigurationName: p.Service,
			Key: &route.ScopedRouteConfiguration_Key{Fragments: []*route.ScopedRouteConfiguration_Key_Fragment{
				{Type: &route.ScopedRouteConfiguration_Key_Fragment_StringKey{StringKey: host}},
			}},
		})
		if err != nil {
			return nil, err
		}
		r.Nodes, r.services = p.Route.Nodes, []string{p.Service}
		out = append(out, r)
	}
	return out, nil
}

func packed(m proto.Message) *anypb.Any {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil { // a message built from literals always encodes
		panic(err)
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: b}
}
