package xds

import (
	"slices"
	"strings"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
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

// listenerOf is what a listener is made of.
type listenerOf struct {
	plain string   // its only service, which has every host: there are no scopes
	grpc  bool     // a service of it is for gRPC
	nodes []string // node clusters that may have it; none: all
}

func everyHost(r policy.Route) bool { return slices.Equal(r.Domains, []string{"*"}) }

// buildListener makes a listener, and says how it is made with an access log: whether an Envoy takes that is not known.
func buildListener(address string, of listenerOf) (*Resource, error) {
	r, err := listenerWith(address, of, nil)
	if err != nil {
		return nil, err
	}
	r.withLog = func() (*Resource, error) { return listenerWith(address, of, failureLog()) }
	return r, nil
}

func listenerWith(address string, of listenerOf, log *accesslog.AccessLog) (*Resource, error) {
	addr, err := socketAddress(address)
	if err != nil {
		return nil, err
	}
	m := manager(address, of)
	if log != nil {
		m.AccessLog = []*accesslog.AccessLog{log}
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
	r.Nodes = of.nodes
	return r, nil
}

func manager(address string, of listenerOf) *hcm.HttpConnectionManager {
	m := &hcm.HttpConnectionManager{
		StatPrefix:     "canaryd",
		UpgradeConfigs: []*hcm.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		HttpFilters:    []*hcm.HttpFilter{filter("envoy.filters.http.router", &router.Router{})},
	}
	harden(m)
	if of.grpc {
		m.HttpFilters = slices.Insert(m.HttpFilters, 0, filter("envoy.filters.http.grpc_stats", &grpcstats.FilterConfig{
			PerMethodStatSpecifier: &grpcstats.FilterConfig_StatsForAllMethods{StatsForAllMethods: wrapperspb.Bool(false)},
		}))
	}
	if of.plain != "" {
		m.RouteSpecifier = &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{ConfigSource: ads(), RouteConfigName: of.plain}}
	} else {
		m.RouteSpecifier = &hcm.HttpConnectionManager_ScopedRoutes{ScopedRoutes: scoped(address)}
	}
	return m
}

func filter(name string, config proto.Message) *hcm.HttpFilter {
	return &hcm.HttpFilter{Name: name, ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: packed(config)}}
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
