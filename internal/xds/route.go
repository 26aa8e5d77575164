package xds

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// buildRoute makes the one resource that changes in a rollout, in its forms.
func buildRoute(t rollout.Table, key Key) (*forms, error) {
	rb := routeBuilder{t: t, p: t.Policy, key: key}
	f := &forms{table: t, key: key, parts: map[string]*Resource{}, older: map[string]*Resource{}}
	var err error
	if f.whole, err = rb.whole(); err != nil {
		return nil, err
	}
	if len(t.Policy.Route.Classes) > 0 && len(t.Slots) > 0 {
		rb.bare = true
		if f.bare, err = rb.whole(); err != nil {
			return nil, err
		}
	}
	for _, v := range t.Cut {
		f.whole.cut = append(f.whole.cut, ClusterID{t.Service, v, Users}, ClusterID{t.Service, v, Testers})
	}
	if t.Stable != "" {
		f.minimal, err = rb.minimal()
	}
	return f, err
}

// whole is the table as it stands.
func (b routeBuilder) whole() (*Resource, error) {
	r, err := b.resource(b.routes(), b.clusters())
	if err != nil {
		return nil, err
	}
	r.user = b.p.Ramp.Per == policy.PerUser
	return r, nil
}

// minimal is stable only, no pins.
func (b routeBuilder) minimal() (*Resource, error) {
	b.t.Slots = []rollout.Run{{Version: b.t.Stable, Count: policy.FullWeight}}
	b.bare = true
	return b.resource([]*route.Route{b.plainRoute()}, []ClusterID{{b.t.Service, b.t.Stable, Users}})
}

// clusters are those that the route names, in order.
func (b routeBuilder) clusters() []ClusterID {
	seen := map[ClusterID]bool{}
	for _, run := range b.t.Slots {
		seen[ClusterID{b.t.Service, run.Version, Users}] = true
	}
	for _, c := range b.t.Clusters {
		if c.Pinned {
			seen[ClusterID{b.t.Service, c.Version, Users}] = true
		}
		if b.p.Route.Testers != nil {
			seen[ClusterID{b.t.Service, c.Version, Testers}] = true
		}
	}
	if len(b.t.Slots) == 0 { // no version: nothing is routed
		return nil
	}
	return slices.SortedFunc(maps.Keys(seen), ClusterID.compare)
}

type routeBuilder struct {
	t    rollout.Table
	p    *policy.Policy
	key  Key
	bare bool // classes are not told apart
}

func (b routeBuilder) resource(routes []*route.Route, clusters []ClusterID) (*Resource, error) {
	attempts := b.attempts(clusters)
	seal := func(hash string) string { return b.key.seal(b.t.Service, hash, b.t.Unstored) }
	host := &route.VirtualHost{Name: b.t.Service, Domains: []string{"*"}}
	encoded, err := b.written(routes)
	if err != nil {
		return nil, fmt.Errorf("encode routes of %s: %w", b.t.Service, err)
	}
	host.ProtoReflect().SetUnknown(encoded) // fields that are encoded already
	pb := &route.RouteConfiguration{
		Name:             b.t.Service,
		ValidateClusters: wrapperspb.Bool(true),
		VirtualHosts:     []*route.VirtualHost{host},
		Metadata:         b.named(attempts),
	}
	if measureOf(b.p).answers {
		pb.ResponseHeadersToRemove = []string{orca}
	}
	r, err := newResourceTold(TypeRoute, b.t.Service, pb, seal)
	if err != nil {
		return nil, err
	}
	r.Nodes, r.services, r.slots = b.t.Policy.Route.Nodes, []string{b.t.Service}, b.t.Slots
	r.clusters, r.attempts = clusters, attempts
	return r, nil
}

// attempts are those of the versions whose clusters a route names.
func (b routeBuilder) attempts(clusters []ClusterID) (as []rollout.Attempt) {
	for _, c := range b.t.Clusters {
		if slices.ContainsFunc(clusters, func(id ClusterID) bool { return id.Version == c.Version }) {
			as = append(as, c.Attempt)
		}
	}
	return as
}

// named tells routes apart that give the same weights to other attempts, so that the hash of a route says which ones it
// was made for. The stable version gets what nobody else does, whichever attempt it is: routes of services at rest
// need nothing of it.
func (b routeBuilder) named(attempts []rollout.Attempt) *core.Metadata {
	fields := map[string]*structpb.Value{}
	for _, a := range attempts {
		if a.Version != b.t.Stable && a.Number > 0 {
			fields[a.Version] = structpb.NewStringValue(strconv.Itoa(a.Number) + "." + a.ID)
		}
	}
	if len(fields) == 0 {
		return nil
	}
	return &core.Metadata{FilterMetadata: map[string]*structpb.Struct{"canaryd.attempts": {Fields: fields}}}
}

func (b routeBuilder) routes() []*route.Route {
	if len(b.t.Slots) == 0 {
		return []*route.Route{noVersion()}
	}
	rs := b.testers()
	for _, c := range b.t.Clusters {
		if c.Pinned {
			rs = append(rs, b.pin(c))
		}
	}
	if b.p.Ramp.Per != policy.PerUser {
		return append(rs, b.weighted())
	}
	return append(rs, b.perUser()...)
}

func noVersion() *route.Route {
	return &route.Route{Match: everything(), Action: &route.Route_DirectResponse{DirectResponse: &route.DirectResponseAction{
		Status: 503, Body: &core.DataSource{Specifier: &core.DataSource_InlineString{InlineString: "no version\n"}},
	}}}
}

func everything() *route.RouteMatch {
	return &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}}
}

// withCookie matches by a header regex: Envoy before 1.37 ignores RouteMatch.cookies, and such a
// route would take everybody.
func withCookie(name, value string) *route.RouteMatch {
	m := everything()
	named := `(?:.*;\s*)?` + regexp.QuoteMeta(name) + `=`
	m.Headers = []*route.HeaderMatcher{headerLike("cookie", named+value+`(?:\s*;.*)?`)}
	return m
}

// withCookieOnce matches only where the cookie stands once: a client that sends it twice has no session.
func withCookieOnce(name, value string) *route.RouteMatch {
	m := withCookie(name, value)
	named := regexp.QuoteMeta(name) + `=`
	twice := headerLike("cookie", `(?:.*;\s*)?`+named+`.*;\s*`+named+`.*`)
	twice.InvertMatch = true
	m.Headers = append(m.Headers, twice)
	return m
}

func headerLike(name, regex string) *route.HeaderMatcher {
	return &route.HeaderMatcher{Name: name, HeaderMatchSpecifier: &route.HeaderMatcher_StringMatch{StringMatch: &matcher.StringMatcher{
		MatchPattern: &matcher.StringMatcher_SafeRegex{SafeRegex: &matcher.RegexMatcher{Regex: regex}},
	}}}
}

// pin keeps the sessions of a version on it.
func (b routeBuilder) pin(c rollout.Cluster) *route.Route {
	return b.to(withCookieOnce(b.p.Sessions.Cookie, regexp.QuoteMeta(c.Pin)), ClusterID{b.t.Service, c.Version, Users})
}

func (b routeBuilder) to(m *route.RouteMatch, cluster ClusterID) *route.Route {
	a := b.action()
	a.ClusterSpecifier = &route.RouteAction_Cluster{Cluster: cluster.String()}
	return &route.Route{Match: m, Action: &route.Route_Route{Route: a}}
}

// testers are sent to the version that they name, by way of a cluster of their own: it is counted apart.
func (b routeBuilder) testers() []*route.Route {
	t := b.p.Route.Testers
	if t == nil {
		return nil
	}
	var rs []*route.Route
	for _, c := range b.t.Clusters {
		value := regexp.QuoteMeta(t.Value(c.Version))
		m := everything()
		if t.Cookie != "" {
			m = withCookieOnce(t.Cookie, value)
		} else {
			m.Headers = []*route.HeaderMatcher{headerLike(strings.ToLower(t.Header), value)}
		}
		rs = append(rs, b.to(m, ClusterID{b.t.Service, c.Version, Testers}))
	}
	return rs
}

func (b routeBuilder) action() *route.RouteAction {
	a := &route.RouteAction{Timeout: durationpb.New(b.p.Route.Timeout.Std())}
	d := b.p.Route.MaxStreamDuration.Std()
	if d > 0 || b.p.Route.GRPC() {
		a.MaxStreamDuration = &route.RouteAction_MaxStreamDuration{}
	}
	if d > 0 {
		a.MaxStreamDuration.MaxStreamDuration = durationpb.New(d)
	}
	if b.p.Route.GRPC() { // a call's own deadline holds, whatever it is
		a.MaxStreamDuration.GrpcTimeoutHeaderMax = durationpb.New(0)
	}
	return a
}

func (b routeBuilder) pinOf(version string) string {
	for _, c := range b.t.Clusters {
		if c.Version == version {
			return c.Pin
		}
	}
	return ""
}

// plainRoute shares by weight and nothing else: no pins, no hash.
func (b routeBuilder) plainRoute() *route.Route {
	b.p = &policy.Policy{Service: b.p.Service, Route: b.p.Route}
	return b.weighted()
}

// weighted is the slot map, run-length encoded; its total is always 10 000.
func (b routeBuilder) weighted() *route.Route {
	wc := &route.WeightedCluster{}
	for _, run := range b.t.Slots {
		w := &route.WeightedCluster_ClusterWeight{Name: ClusterID{b.t.Service, run.Version, Users}.String(), Weight: wrapperspb.UInt32(uint32(run.Count))}
		if s := b.p.Sessions; s != nil {
			w.ResponseHeadersToAdd = []*core.HeaderValueOption{setCookie(s.Cookie, b.pinOf(run.Version), s.TTL.Std())}
		}
		wc.Clusters = append(wc.Clusters, w)
	}
	a := b.action()
	a.ClusterSpecifier = &route.RouteAction_WeightedClusters{WeightedClusters: wc}
	return &route.Route{Match: everything(), Action: &route.Route_Route{Route: a}}
}

// perUser chooses by the hash of a stable user key. Without a cookie yet the request's id is the key,
// and becomes the cookie, so that the second request goes where the first went.
func (b routeBuilder) perUser() []*route.Route {
	requestID := hashHeader("x-request-id", false)
	k := b.p.Route.UserKey
	if k.Header != "" {
		return []*route.Route{b.hashed(everything(), hashHeader(k.Header, true), requestID)}
	}
	known := b.hashed(withCookie(k.Cookie, `[^;]+`), &route.RouteAction_HashPolicy{
		PolicySpecifier: &route.RouteAction_HashPolicy_Cookie_{Cookie: &route.RouteAction_HashPolicy_Cookie{Name: k.Cookie}},
	})
	first := b.hashed(everything(), requestID)
	first.ResponseHeadersToAdd = []*core.HeaderValueOption{setCookie(k.Cookie, "%REQ(X-REQUEST-ID)%", 365*24*time.Hour)}
	return []*route.Route{known, first}
}

func (b routeBuilder) hashed(m *route.RouteMatch, by ...*route.RouteAction_HashPolicy) *route.Route {
	r := b.weighted()
	r.Match = m
	a := r.GetRoute()
	a.HashPolicy = by
	a.GetWeightedClusters().RandomValueSpecifier = &route.WeightedCluster_UseHashPolicy{UseHashPolicy: wrapperspb.Bool(true)}
	return r
}

func hashHeader(name string, terminal bool) *route.RouteAction_HashPolicy {
	return &route.RouteAction_HashPolicy{Terminal: terminal, PolicySpecifier: &route.RouteAction_HashPolicy_Header_{
		Header: &route.RouteAction_HashPolicy_Header{HeaderName: name},
	}}
}

func setCookie(name, value string, life time.Duration) *core.HeaderValueOption {
	return &core.HeaderValueOption{
		Header:       &core.HeaderValue{Key: "set-cookie", Value: fmt.Sprintf("%s=%s; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax", name, value, int(life.Seconds()))},
		AppendAction: core.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD,
	}
}
