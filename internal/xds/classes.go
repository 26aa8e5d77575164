package xds

import (
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	template "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/canaryd/canaryd/internal/policy"
)

// Fields of Envoy's messages.
const (
	hostRoutes = protowire.Number(3) // of a virtual host
	routeMatch = protowire.Number(1) // of a route
)

// written are routes as a virtual host has them, encoded. Where answers are measured each is there several times: once for each class, in
// order, and once for what is left, and says which it is. Who gets which version does not change by it. What such routes have in common is
// encoded once: a cut waits for its table.
func (b routeBuilder) written(routes []*route.Route) ([]byte, error) {
	var w wire
	if len(b.t.Slots) == 0 || !measureOf(b.p).answers {
		var all []byte
		for _, r := range routes {
			all = appendField(all, hostRoutes, w.encode(r))
		}
		return all, w.err
	}
	var classes []policy.Class
	if !b.bare {
		classes = b.p.Route.Classes
	}
	own, of := w.classes(classes), w.routes(routes)
	size := 0
	for i := range of {
		for k := range own {
			size += of[i].size() + own[k].size() + 16 // the tags and lengths
		}
	}
	all, scratch := make([]byte, 0, size), [2][]byte{}
	for i := range of {
		for k := range own {
			all = of[i].appendOf(all, &own[k], &scratch)
		}
	}
	return all, w.err
}

// wire encodes messages, as newResource does, and remembers the first error.
type wire struct{ err error }

func (w *wire) encode(m proto.Message) []byte {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if w.err == nil {
		w.err = err
	}
	return raw
}

func appendField(to []byte, n protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(to, n, protowire.BytesType), value)
}

// classPart is what the routes of one class have in common, encoded: what of a request matches, and what they say of it.
type classPart struct{ path, method, metadata []byte }

func (c *classPart) size() int { return len(c.path) + len(c.method) + len(c.metadata) }

// classes are those of a table, and the rest, which matches what a route matches.
func (w *wire) classes(all []policy.Class) []classPart {
	parts := make([]classPart, 0, len(all)+1)
	for i := range all {
		m := narrowed(&all[i])
		parts = append(parts, classPart{w.encode(&route.RouteMatch{PathSpecifier: m.PathSpecifier}), w.encode(&route.RouteMatch{Headers: m.Headers}), w.encode(&route.Route{Metadata: ofClass(all[i].Name)})})
	}
	return append(parts, classPart{metadata: w.encode(&route.Route{Metadata: ofClass(policy.Rest)})})
}

// routePart is what a route has in common for all classes, encoded.
type routePart struct{ path, headers, action, more []byte }

func (r *routePart) size() int { return len(r.path) + len(r.headers) + len(r.action) + len(r.more) }

func (w *wire) routes(all []*route.Route) []routePart {
	parts := make([]routePart, len(all))
	for i, r := range all {
		parts[i] = routePart{w.encode(&route.RouteMatch{PathSpecifier: r.Match.PathSpecifier}), w.encode(&route.RouteMatch{Headers: r.Match.Headers}),
			w.encode(&route.Route{Action: r.Action}), w.encode(&route.Route{ResponseHeadersToAdd: r.ResponseHeadersToAdd})}
	}
	return parts
}

// appendOf appends the route of one class, its fields in the order in which the library writes them: what is one of several comes last.
func (r *routePart) appendOf(to []byte, c *classPart, scratch *[2][]byte) []byte {
	path := c.path
	if len(path) == 0 {
		path = r.path
	}
	match := append(append(append(scratch[0][:0], r.headers...), c.method...), path...)
	one := append(append(append(appendField(scratch[1][:0], routeMatch, match), c.metadata...), r.more...), r.action...)
	*scratch = [2][]byte{match, one}
	return appendField(to, hostRoutes, one)
}

// ofClass says of which class a route is.
func ofClass(name string) *core.Metadata {
	return &core.Metadata{FilterMetadata: map[string]*structpb.Struct{metadataKey: {Fields: map[string]*structpb.Value{classKey: structpb.NewStringValue(name)}}}}
}

// narrowed matches the requests of a class.
func narrowed(c *policy.Class) *route.RouteMatch {
	m := &route.RouteMatch{}
	if c.Method != "" {
		m.Headers = []*route.HeaderMatcher{{Name: ":method", HeaderMatchSpecifier: &route.HeaderMatcher_StringMatch{
			StringMatch: &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Exact{Exact: c.Method}},
		}}}
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
