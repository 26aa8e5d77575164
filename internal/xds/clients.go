package xds

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/config"
	"github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// clients serves gRPC clients that have no proxy (target xds:///SERVICE): state of the world over ADS,
// by go-control-plane's caches. What they have accepted is booked in the hub like an Envoy's.
type clients struct {
	hub     *Hub
	caches  map[string]*cache.LinearCache
	feed    *feed
	server  sotw.Server
	has     map[string]map[string]map[string]types.Resource // what was handed to the caches of each service, by type; guarded by the hub's mutex
	leaving map[Ref]time.Time                               // what no view names any more: since when; guarded by the hub's mutex

	mu      sync.Mutex // of the map; what is in it is guarded by the hub's
	streams map[int64]*client
}

// client is one client's stream.
type client struct {
	*stream
	ctx    context.Context               // of its stream: who it is
	heard  bool                          // its first request
	routes map[string]struct{}           // asked for
	asked  map[string]int                // names, by type
	sent   map[string]map[string]Content // nonce, service: unanswered
}

func newClients(h *Hub) *clients {
	c := &clients{hub: h, caches: map[string]*cache.LinearCache{}, streams: map[int64]*client{}, has: map[string]map[string]map[string]types.Resource{}, leaving: map[Ref]time.Time{}}
	mux := &cache.MuxCache{Classify: func(r *cache.Request) string { return r.GetTypeUrl() }, Caches: map[string]cache.Cache{}}
	for _, typ := range []string{TypeListener, TypeRoute, TypeCluster, TypeEndpoint} {
		c.caches[typ] = cache.NewLinearCache(typ)
	}
	c.feed = newFeed(h.log, c.caches)
	for typ, of := range c.caches {
		mux.Caches[typ] = fed{of, c.feed}
	}
	c.server = sotw.NewServer(context.Background(), mux, c, sotw.WithOrderedADS(), config.DeactivateLegacyWildcard())
	return c
}

// view is what the clients get of one service.
type view struct {
	version   string // of the route
	resources map[string]map[string]types.Resource
}

// newView builds it; nil for a service that gRPC clients do not get.
func newView(t rollout.Table) (*view, error) {
	if !t.Policy.Route.GRPC() || len(t.Policy.Route.Nodes) > 0 || len(t.Slots) == 0 {
		return nil, nil
	}
	v := &view{resources: map[string]map[string]types.Resource{TypeCluster: {}, TypeEndpoint: {}}}
	for _, c := range t.Clusters {
		if slices.ContainsFunc(c.Endpoints, policy.ByName) {
			return nil, fmt.Errorf("version %s: a gRPC client without a proxy cannot resolve host names as endpoints", c.Version)
		}
		name := ClusterID{t.Service, c.Version, Users}.String()
		cla, err := assignment(name, c.Endpoints)
		if err != nil {
			return nil, err
		}
		for _, l := range cla.Endpoints {
			l.Locality = &core.Locality{Zone: "all"}
		}
		v.resources[TypeEndpoint][name] = cla
		v.resources[TypeCluster][name] = &cluster.Cluster{
			Name: name, ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
			EdsClusterConfig: &cluster.Cluster_EdsClusterConfig{EdsConfig: ads()}, CircuitBreakers: breakers(t.Policy),
			LrsServer: &core.ConfigSource{ResourceApiVersion: core.ApiVersion_V3, ConfigSourceSpecifier: &core.ConfigSource_Self{Self: &core.SelfConfigSource{}}},
		}
	}
	rc := clientRoute(t)
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(rc)
	if err != nil {
		return nil, fmt.Errorf("encode the route of %s for gRPC clients: %w", t.Service, err)
	}
	v.version = contentVersion(body)
	v.resources[TypeRoute] = map[string]types.Resource{t.Service: rc}
	v.resources[TypeListener] = map[string]types.Resource{t.Service: apiListener(t.Service)}
	return v, nil
}

// clientRoute is the weights and nothing else: gRPC clients know neither cookies nor hashes.
func clientRoute(t rollout.Table) *route.RouteConfiguration {
	b := routeBuilder{t: t, p: &policy.Policy{Service: t.Service, Route: t.Policy.Route}}
	r := b.weighted()
	r.Match = &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: ""}}
	return &route.RouteConfiguration{Name: t.Service, VirtualHosts: []*route.VirtualHost{{Name: t.Service, Domains: []string{"*"}, Routes: []*route.Route{r}}}}
}

func apiListener(service string) *listener.Listener {
	return &listener.Listener{Name: service, ApiListener: &listener.ApiListener{ApiListener: packed(&hcm.HttpConnectionManager{
		RouteSpecifier: &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{ConfigSource: ads(), RouteConfigName: service}},
		HttpFilters:    []*hcm.HttpFilter{filter("envoy.filters.http.router", &router.Router{})},
	})}}
}

// clientsFollow is how long a client may be on its way from one view to the next.
const clientsFollow = 10 * time.Second

// publish replaces a service's view: first what the new route names, then the route. What only old ones named goes
// with a change that comes clientsFollow later, because a client may still be on its way.
func (c *clients) publish(service string, old, now *view) {
	if now == nil && old == nil {
		return
	}
	has := c.has[service]
	if has == nil {
		has = map[string]map[string]types.Resource{TypeEndpoint: {}, TypeCluster: {}, TypeRoute: {}, TypeListener: {}}
		c.has[service] = has
	}
	if now == nil {
		delete(c.has, service)
	}
	news := supply{}
	for _, typ := range news.order() {
		var fresh map[string]types.Resource
		if now != nil {
			fresh = now.resources[typ]
		}
		news[typ] = changed(fresh, has[typ])
		for name := range has[typ] {
			if fresh[name] == nil && (now == nil || c.left(Ref{typ, name})) {
				news[typ][name] = nil
			}
			if fresh[name] != nil || now == nil {
				delete(c.leaving, Ref{typ, name})
			}
		}
		maps.Copy(has[typ], news[typ])
		maps.DeleteFunc(has[typ], func(_ string, r types.Resource) bool { return r == nil })
	}
	c.feed.put(news)
}

// left reports whether nothing has named a resource for long enough.
func (c *clients) left(r Ref) bool {
	at := c.hub.now()
	if since, known := c.leaving[r]; known && at.Sub(since) >= clientsFollow {
		delete(c.leaving, r)
		return true
	} else if !known {
		c.leaving[r] = at
	}
	return false
}

// changed leaves out what is there already: an update would be sent to everybody.
func changed(fresh, have map[string]types.Resource) map[string]types.Resource {
	out := map[string]types.Resource{}
	for name, m := range fresh {
		if have[name] == nil || !proto.Equal(m, have[name]) {
			out[name] = m
		}
	}
	return out
}

// serve runs one client's stream.
func (c *clients) serve(ss grpc.ServerStream) error {
	return c.server.StreamHandler(&grpc.GenericServerStream[discovery.DiscoveryRequest, discovery.DiscoveryResponse]{ServerStream: ss}, "")
}

// OnStreamOpen implements the server's callbacks.
func (c *clients) OnStreamOpen(ctx context.Context, id int64, _ string) error {
	cl := &client{ctx: ctx, routes: map[string]struct{}{}, asked: map[string]int{},
		sent: map[string]map[string]Content{}}
	c.hub.enter()
	cl.stream = c.hub.connect(Node{Peer: peerOf(ctx), Client: true})
	c.hub.exit()
	c.mu.Lock()
	c.streams[id] = cl
	c.mu.Unlock()
	return nil
}

// OnStreamClosed implements the server's callbacks.
func (c *clients) OnStreamClosed(id int64, _ *core.Node) {
	c.mu.Lock()
	cl := c.streams[id]
	delete(c.streams, id)
	c.mu.Unlock()
	c.hub.enter()
	defer c.hub.exit()
	for _, names := range cl.asked {
		cl.line.asks(-names)
	}
	c.hub.disconnect(cl.stream)
}

func (c *clients) stream(id int64) *client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

// OnStreamRequest implements the server's callbacks: it books subscriptions, ACKs and NACKs of routes.
func (c *clients) OnStreamRequest(id int64, req *discovery.DiscoveryRequest) error {
	if req.GetNode().GetUserAgentName() == "envoy" {
		return status.Error(codes.InvalidArgument, "an Envoy has to ask for deltas: write `api_type: DELTA_GRPC` in its ads_config (`canaryd bootstrap` prints one)")
	}
	cl, h := c.stream(id), c.hub
	if err := c.refuses(cl, req); err != nil {
		return err
	}
	if !cl.heard {
		c.hears(cl, req.GetNode())
	}
	cl.admits(req)
	if err := cl.counts(h, req); err != nil {
		return err
	}
	if req.GetTypeUrl() == TypeRoute {
		c.books(cl, req)
	}
	return nil
}

// books takes in a request for routes. What is new in it is found without the mutex, which a client of thousands of
// services lets go now and then: its requests name all of them, and most are as they were.
func (c *clients) books(cl *client, req *discovery.DiscoveryRequest) {
	more, less := cl.differs(req.GetResourceNames())
	defer cl.line.alone(len(more) + len(less))()
	c.hub.enter()
	defer c.hub.exit()
	c.answer(cl, req)
	c.asks(cl, more, less)
}

// refuses says why a request ends its stream.
func (c *clients) refuses(cl *client, req *discovery.DiscoveryRequest) error {
	if c.caches[req.GetTypeUrl()] == nil {
		c.hub.refuseType(cl.Node, req.GetTypeUrl())
		return status.Errorf(codes.InvalidArgument, "type %q is not served", bounded(req.GetTypeUrl(), nameBytes))
	}
	return c.hub.tooLong(cl.Node, req.GetResourceNames(), nil)
}

// counts the names that a client asks for now.
func (cl *client) counts(h *Hub, req *discovery.DiscoveryRequest) error {
	more := len(req.GetResourceNames()) - cl.asked[req.GetTypeUrl()]
	if err := h.mayAsk(cl.Node, more); err != nil {
		return err
	}
	cl.asked[req.GetTypeUrl()] += more
	return nil
}

// hears takes in who a client is.
func (c *clients) hears(cl *client, said *core.Node) {
	c.hub.enter()
	defer c.hub.exit()
	cl.heard, cl.Node = true, admitted(cl.ctx, said)
	c.hub.nodes.comes(cl.stream)
	cl.Client = true
	c.hub.speaks(cl.stream, clientSpeaker{c.hub, cl})
}

// admits leaves out of a request what its client may not see.
func (cl *client) admits(req *discovery.DiscoveryRequest) {
	req.ResourceNames = slices.DeleteFunc(req.GetResourceNames(), func(name string) bool {
		id, ok := ParseCluster(name)
		if !ok {
			id.Service = name
		}
		return !cl.sees(id.Service)
	})
}

// answer books an ACK or a NACK. go-control-plane sends nothing again that was refused.
func (c *clients) answer(cl *client, req *discovery.DiscoveryRequest) {
	h := c.hub
	sent, ok := cl.sent[req.GetResponseNonce()]
	if !ok {
		return
	}
	delete(cl.sent, req.GetResponseNonce())
	d, why := req.GetErrorDetail(), ""
	if d != nil {
		h.nacks[shortType(TypeRoute)]++
		why = h.refusal(cl.Node, d.GetMessage())
	}
	for name := range breathing(h, maps.Keys(sent)) {
		s, content := h.services[name], sent[name]
		if s == nil {
			continue
		}
		r, present := Ref{TypeRoute, name}, s.edition.view != nil && s.edition.view.version == content.Version
		switch {
		case d == nil:
			s.force.Accept(cl.stream, content, present, h.now())
			s.force.Took(cl.stream, r, content.Version, h.now())
		case present:
			s.force.Refuse(cl.stream, r, content.Version, why, h.now())
		}
		h.changes(name)
	}
}

// differs finds which routes a client asks for now and did not before, and which it did. Only its own goroutine changes these.
func (cl *client) differs(names []string) (more, less []string) {
	wants := make(map[string]struct{}, len(names))
	for _, name := range names {
		wants[name] = struct{}{}
		if _, had := cl.routes[name]; !had {
			more = append(more, name)
		}
	}
	for name := range cl.routes {
		if _, still := wants[name]; !still {
			less = append(less, name)
		}
	}
	return more, less
}

// asks books which routes a client wants now, and which no more.
func (c *clients) asks(cl *client, more, less []string) {
	h := c.hub
	for name := range breathing(h, slices.Values(less)) {
		delete(cl.routes, name)
		if s := h.services[name]; s != nil {
			s.force.Drop(cl.stream)
			h.changes(name)
		}
	}
	for name := range breathing(h, slices.Values(more)) {
		if _, twice := cl.routes[name]; twice {
			continue
		}
		cl.routes[name] = struct{}{}
		if s := h.services[name]; s != nil {
			c.joins(cl, name, s)
		}
	}
}

func (c *clients) joins(cl *client, name string, s *service) {
	s.force.Join(cl.stream, Content{}, c.hub.now())
	c.hub.changes(name)
}

// join books the clients that asked for a route before there was one.
func (c *clients) join(name string, s *service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range c.streams {
		if _, wants := cl.routes[name]; wants {
			c.joins(cl, name, s)
		}
	}
}

// mostPast is of how many tables before the present one it is known what gRPC clients got: a response may have been made of one, while
// others are published.
const mostPast = 8

// outdated remembers what gRPC clients got of a table that another one replaces.
func (s *service) outdated() {
	if s.edition.view != nil {
		s.past = append(s.past, s.wanted().Clients)
		s.past = s.past[max(0, len(s.past)-mostPast):]
	}
}

// clientContent is what a gRPC client gets by a version of the route, the present one or one of late.
func (s *service) clientContent(version string) (c Content, known bool) {
	if v := s.edition.view; v != nil && v.version == version {
		return s.wanted().Clients, true
	}
	at := slices.IndexFunc(s.past, func(c Content) bool { return c.Version == version })
	if at < 0 {
		return c, false
	}
	return s.past[at], true
}

// OnStreamResponse implements the server's callbacks: it notes which routes are on their way.
func (c *clients) OnStreamResponse(_ context.Context, id int64, _ *discovery.DiscoveryRequest, resp *discovery.DiscoveryResponse) {
	if resp.GetTypeUrl() != TypeRoute {
		return
	}
	cl, h, versions := c.stream(id), c.hub, versionsIn(resp)
	h.enter()
	defer h.exit()
	sent := map[string]Content{}
	for name := range breathing(h, maps.Keys(versions)) {
		s := h.services[name]
		if _, asked := cl.routes[name]; !asked || s == nil {
			continue
		}
		if content, known := s.clientContent(versions[name]); known {
			sent[name] = content
			s.force.Sent(cl.stream, versions[name], h.now())
		}
	}
	cl.sent[resp.GetNonce()] = sent
	if len(cl.sent) > routeWindow { // a client that never answers
		n, _ := strconv.Atoi(resp.GetNonce())
		delete(cl.sent, strconv.Itoa(n-routeWindow))
	}
}

// versionsIn are the versions of the routes in a response, by their names: a client may have thousands, of which few are sent.
func versionsIn(resp *discovery.DiscoveryResponse) map[string]string {
	out := make(map[string]string, len(resp.GetResources()))
	for _, any := range resp.GetResources() {
		out[nameIn(any.GetValue())] = contentVersion(any.GetValue())
	}
	return out
}

// nameIn is the name of an encoded route: its first field, as fields are encoded in order.
func nameIn(route []byte) string {
	if _, typ, n := protowire.ConsumeTag(route); n > 0 && typ == protowire.BytesType {
		name, _ := protowire.ConsumeBytes(route[n:])
		return string(name)
	}
	return ""
}
