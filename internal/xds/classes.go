package xds

import (
	"slices"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	template "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/canaryd/canaryd/internal/policy"
)

// byClass makes several of each route: one for each class, in order, that says which it is, and one for what is left. Who
// gets which version does not change by it. Where nothing is measured a route stays as it is.
func (b routeBuilder) byClass(routes []*route.Route) []*route.Route {
	if !measureOf(b.p).answers {
		return routes
	}
	var classes []policy.Class
	if !b.bare {
		classes = b.p.Route.Classes
	}
	out := make([]*route.Route, 0, len(routes)*(len(classes)+1))
	for _, r := range routes {
		for i := range classes {
			out = append(out, ofClass(r, classes[i].Name, narrowed(r.Match, &classes[i])))
		}
		out = append(out, ofClass(r, policy.Rest, r.Match))
	}
	return out
}

// ofClass is a route for one class. It shares what it has in common with others: a route is only written.
func ofClass(r *route.Route, class string, m *route.RouteMatch) *route.Route {
	return &route.Route{Match: m, Action: r.Action, ResponseHeadersToAdd: r.ResponseHeadersToAdd, Metadata: &core.Metadata{FilterMetadata: map[string]*structpb.Struct{
		metadataKey: {Fields: map[string]*structpb.Value{classKey: structpb.NewStringValue(class)}},
	}}}
}

// narrowed matches what a route matches, of one class only.
func narrowed(of *route.RouteMatch, c *policy.Class) *route.RouteMatch {
	m := &route.RouteMatch{Headers: slices.Clone(of.Headers)}
	if c.Method != "" {
		m.Headers = append(m.Headers, &route.HeaderMatcher{Name: ":method", HeaderMatchSpecifier: &route.HeaderMatcher_StringMatch{
			StringMatch: &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Exact{Exact: c.Method}},
		}})
	}
	switch {
	case c.GRPC != "":
		m.PathSpecifier = &route.RouteMatch_Path{Path: "/" + c.GRPC}
	case c.Path != "":
		m.PathSpecifier = &route.RouteMatch_Path{Path: c.Path}
	case c.Prefix != "":
		m.PathSpecifier = &route.RouteMatch_Prefix{Prefix: c.Prefix}
	case c.Template != "":
		m.PathSpecifier = &route.RouteMatch_PathMatchPolicy{PathMatchPolicy: &core.TypedExtensionConfig{
			Name: "envoy.path.match.uri_template.uri_template_matcher", TypedConfig: packed(&template.UriTemplateMatchConfig{PathTemplate: c.Template}),
		}}
	default:
		m.PathSpecifier = &route.RouteMatch_SafeRegex{SafeRegex: &matcher.RegexMatcher{Regex: c.Regex}}
	}
	return m
}
