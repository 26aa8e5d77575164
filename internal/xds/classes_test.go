package xds

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	template "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	upstream "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// threeClasses are of all kinds that HTTP has.
func threeClasses() []policy.Class {
	return []policy.Class{{Name: "checkout", Method: "POST", Path: "/checkout"}, {Name: "item", Template: "/items/*"}, {Name: "v", Regex: "/v[0-9]/.*"}, {Name: "search", Prefix: "/s"}}
}

// forms of services that differ in what their routes have beside the weights.
func kindsOfRoutes() map[string]func(*rollout.Table) {
	return map[string]func(*rollout.Table){
		"plain":   func(*rollout.Table) {},
		"testers": func(t *rollout.Table) { t.Policy.Route.Testers = &policy.Testers{Header: "X-Canary", Key: "s3cret"} },
		"pins": func(t *rollout.Table) {
			t.Policy.Sessions = &policy.Sessions{Cookie: "sid", TTL: policy.Duration(time.Minute)}
			for i := range t.Clusters {
				t.Clusters[i].Pinned, t.Clusters[i].Pin = true, "pin"+t.Clusters[i].Version
			}
		},
		"user cookie": func(t *rollout.Table) {
			t.Policy.Ramp.Per, t.Policy.Route.UserKey = policy.PerUser, &policy.UserKey{Cookie: "uid"}
		},
		"user header": func(t *rollout.Table) {
			t.Policy.Ramp.Per, t.Policy.Route.UserKey = policy.PerUser, &policy.UserKey{Header: "x-user"}
		},
		"grpc": func(t *rollout.Table) { t.Policy.Route.Protocol = policy.ProtocolGRPC },
	}
}

func allKinds(t *rollout.Table) {
	for name, f := range kindsOfRoutes() {
		if name != "user header" && name != "grpc" {
			f(t)
		}
	}
}

func editionOf(t *testing.T, tab rollout.Table) *edition {
	t.Helper()
	e, err := build(tab, Key{}, nil, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// message is the content of a resource.
func message[M proto.Message](t *testing.T, r *Resource, m M) M {
	t.Helper()
	_, _, n := protowire.ConsumeTag(r.encoded)
	raw, k := protowire.ConsumeBytes(r.encoded[n:])
	if k < 0 {
		t.Fatal(protowire.ParseError(k))
	}
	var res discovery.Resource
	if err := proto.Unmarshal(raw, &res); err != nil {
		t.Fatal(err)
	}
	if err := res.Resource.UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return m
}

func routesOf(t *testing.T, r *Resource) []*route.Route {
	t.Helper()
	return message(t, r, &route.RouteConfiguration{}).VirtualHosts[0].Routes
}

// Where no classes are written nothing changes, not one byte: the Envoys of all other services would be sent everything anew.
func TestServicesWithoutClassesStayAsTheyAre(t *testing.T) {
	var lines []string
	for name, f := range kindsOfRoutes() {
		tab := table(1, map[string]int{"v2": 100, "v3": 0})
		f(&tab)
		e := editionOf(t, tab)
		lines = append(lines, fmt.Sprintf("%s: route %s minimal %s part %s", name, e.forms.whole.Version, e.forms.minimal.Version, e.forms.part(func(v string) bool { return v == "v3" }).Version))
		for ref, r := range e.refs() {
			lines = append(lines, fmt.Sprintf("%s: %s %s %s", name, shortType(ref.Type), ref.Name, r.Version))
		}
	}
	slices.Sort(lines)
	file := filepath.Join("testdata", "without-classes.txt")
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(lines, "\n") + "\n"; got != string(want) {
		t.Errorf("%s:\n%s\nwant\n%s", file, got, want)
	}
}

// asked is a request, as far as routes look at it.
type asked struct {
	method, path string
	headers      map[string]string
}

// chosen is the first route that matches, found as Envoy finds it.
func chosen(t *testing.T, routes []*route.Route, q asked) *route.Route {
	t.Helper()
	for _, r := range routes {
		m, ok := r.Match, false
		switch p := m.PathSpecifier.(type) {
		case *route.RouteMatch_Prefix:
			ok = strings.HasPrefix(q.path, p.Prefix)
		case *route.RouteMatch_Path:
			ok = q.path == p.Path
		case *route.RouteMatch_SafeRegex:
			ok = regexp.MustCompile("^(?:" + p.SafeRegex.Regex + ")$").MatchString(q.path)
		case *route.RouteMatch_PathMatchPolicy:
			var u template.UriTemplateMatchConfig
			if err := p.PathMatchPolicy.TypedConfig.UnmarshalTo(&u); err != nil {
				t.Fatal(err)
			}
			ok = regexp.MustCompile("^" + strings.ReplaceAll(u.PathTemplate, "*", "[^/]+") + "$").MatchString(q.path)
		}
		for _, h := range m.Headers {
			value, there := q.headers[h.Name], false
			if h.Name == ":method" {
				value = q.method
			}
			if s := h.GetStringMatch(); s.GetExact() != "" {
				there = value == s.GetExact()
			} else {
				there = regexp.MustCompile("^(?:" + s.GetSafeRegex().Regex + ")$").MatchString(value)
			}
			ok = ok && there != h.InvertMatch
		}
		if ok {
			return r
		}
	}
	t.Fatalf("no route for %+v", q)
	return nil
}

// classOf says the same of a class, from the policy alone.
func classOf(q asked) string {
	segments := strings.Split(q.path, "/")
	switch {
	case q.method == "POST" && q.path == "/checkout":
		return "checkout"
	case len(segments) == 3 && segments[1] == "items" && segments[2] != "":
		return "item"
	case len(segments) > 2 && len(segments[1]) == 2 && segments[1][0] == 'v' && segments[1][1] >= '0' && segments[1][1] <= '9':
		return "v"
	case strings.HasPrefix(q.path, "/s"):
		return "search"
	}
	return "rest"
}

func questions() (all []asked) {
	for _, method := range []string{"GET", "POST"} {
		for _, path := range []string{"/", "/checkout", "/checkout/x", "/items/7", "/items/", "/items/7/8", "/v1/a", "/v1/", "/va/b", "/search", "/so", "/items"} {
			for _, h := range []map[string]string{nil, {"x-canary": "s3cret:v2"}, {"x-canary": "v2"}, {"cookie": "sid=pinv2"}, {"cookie": "uid=7; sid=pinv3"}, {"cookie": "uid=7"}, {"cookie": "sid=pinv2; sid=pinv3"}} {
				all = append(all, asked{method, path, h})
			}
		}
	}
	return all
}

// Whatever form a service has: a request goes where it went without classes, and its route says its class.
func TestClassesChangeNobodysWay(t *testing.T) {
	for name, f := range kindsOfRoutes() {
		if name == "grpc" {
			continue
		}
		tab := table(1, map[string]int{"v2": 100, "v3": 0})
		allKinds(&tab)
		f(&tab)
		plain := routesOf(t, editionOf(t, tab).forms.whole)
		tab.Policy.Route.Classes = threeClasses()
		fs := editionOf(t, tab).forms
		whole, bare := routesOf(t, fs.whole), routesOf(t, fs.bare)
		if len(whole) != 5*len(plain) || len(bare) != len(plain) {
			t.Errorf("%s: %d routes, %d bare ones, %d without classes", name, len(whole), len(bare), len(plain))
		}
		for _, r := range []*Resource{fs.whole, fs.bare, fs.minimal} { // pieces that were put together are what the library writes of it
			raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(message(t, r, &route.RouteConfiguration{}))
			if err != nil || contentVersion(raw) != r.Version {
				t.Errorf("%s: the routes are encoded otherwise: %v", name, err)
			}
		}
		for _, q := range questions() {
			want := chosen(t, plain, q)
			for form, routes := range map[string][]*route.Route{"whole": whole, "bare": bare} {
				got := chosen(t, routes, q)
				if !proto.Equal(got.GetRoute(), want.GetRoute()) || len(got.ResponseHeadersToAdd) != len(want.ResponseHeadersToAdd) {
					t.Fatalf("%s, %s: %+v goes to\n%v\nwant\n%v", name, form, q, got, want)
				}
				class := got.Metadata.FilterMetadata["canaryd"].Fields["class"].GetStringValue()
				if form == "whole" && class != classOf(q) || form == "bare" && class != "rest" {
					t.Errorf("%s, %s: %+v is of class %s, want %s", name, form, q, class, classOf(q))
				}
			}
		}
	}
}

func TestTheOrcaHeaderIsWrittenByTheClusterAndTakenAwayByTheRoute(t *testing.T) {
	for _, c := range []struct {
		name    string
		set     func(*policy.Policy)
		headers []string // in the answer's headers, and trailers
	}{
		{"http", func(p *policy.Policy) { p.Route.Classes = threeClasses() },
			[]string{"TEXT named_metrics.%METADATA(ROUTE:canaryd:class)%.%RESP(:status)%=1"}},
		{"http, slow only", func(p *policy.Policy) { p.Judge.Slow = &policy.Slow{} },
			[]string{"TEXT named_metrics.%METADATA(ROUTE:canaryd:class)%.%RESP(:status)%=1,named_metrics.ms.%COMMON_DURATION(US_TX_BEG:US_RX_BEG:ms)%=1"}},
		{"grpc", func(p *policy.Policy) {
			p.Route.Protocol, p.Route.Classes = policy.ProtocolGRPC, []policy.Class{{Name: "a", GRPC: "shop.Cart/Add"}}
		}, []string{"TEXT named_metrics.%METADATA(ROUTE:canaryd:class)%.g%RESP(grpc-status)%=%RESP(grpc-status)%", "TEXT named_metrics.%METADATA(ROUTE:canaryd:class)%.g%TRAILER(grpc-status)%=1"}},
	} {
		tab := table(1, map[string]int{"v2": 100})
		c.set(tab.Policy)
		e := editionOf(t, tab)
		for _, r := range []*Resource{e.forms.whole, e.forms.minimal, e.forms.part(func(string) bool { return false })} {
			rc := message(t, r, &route.RouteConfiguration{})
			if !slices.Equal(rc.ResponseHeadersToRemove, []string{"endpoint-load-metrics"}) {
				t.Errorf("%s: taken away: %v", c.name, rc.ResponseHeadersToRemove)
			}
			for _, x := range rc.VirtualHosts[0].Routes {
				if x.Metadata.FilterMetadata["canaryd"].Fields["class"].GetStringValue() == "" {
					t.Errorf("%s: a route without a class: %v", c.name, x)
				}
			}
		}
		cds := message(t, e.refs()[Ref{TypeCluster, "shop/v2"}], &cluster.Cluster{})
		var o upstream.HttpProtocolOptions
		if err := cds.TypedExtensionProtocolOptions["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].UnmarshalTo(&o); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(cds.LrsReportEndpointMetrics, []string{"named_metrics.*"}) || len(o.HttpFilters) != 2 || o.HttpFilters[1].Name != "envoy.filters.http.upstream_codec" {
			t.Errorf("%s: %v", c.name, cds)
		}
		text := protojson.Format(&o)
		for _, h := range c.headers {
			if !strings.Contains(text, `"`+h+`"`) {
				t.Errorf("%s: %s lacks %s", c.name, text, h)
			}
		}
		if grpc := o.GetExplicitHttpConfig().GetHttp2ProtocolOptions() != nil; grpc != (c.name == "grpc") {
			t.Errorf("%s: %s", c.name, text)
		}
		if e.view != nil && strings.Contains(fmt.Sprint(e.view.resources), "canaryd") {
			t.Errorf("%s: gRPC clients get classes: %v", c.name, e.view.resources)
		}
	}
}

// What takes a version out of the route is sent without classes, which is in force sooner. The classes follow.
func TestACutGoesOutWithoutClassesFirst(t *testing.T) {
	classed := func(generation uint64, weights map[string]int, cut ...string) rollout.Table {
		tab := table(generation, weights, cut...)
		tab.Policy.Route.Classes = threeClasses()
		return tab
	}
	h, _, dial := server(t)
	publish(t, h, classed(1, map[string]int{"v2": 100}))
	e := connect(t, dial(), "edge-1", 40)
	if rds := e.start("shop", "shop/v1", "shop/v2"); routeCount(t, rds) != 5 {
		t.Fatalf("%d routes", routeCount(t, rds))
	}
	inForce(t, h, 1)
	publish(t, h, classed(2, map[string]int{"v2": 500}))
	up := e.expect(TypeRoute)
	if routeCount(t, up) != 5 {
		t.Errorf("a step up came with %d routes", routeCount(t, up))
	}
	publish(t, h, classed(3, nil, "v2")) // while the step up is on its way
	cut := e.expect(TypeRoute)
	if got := shares(t, cut); routeCount(t, cut) != 1 || got["shop/v1"] != 10000 {
		t.Fatalf("%d routes, %v", routeCount(t, cut), got)
	}
	e.ack(up)
	e.silence() // the classes wait for the cut
	e.ack(cut)
	again := e.expect(TypeRoute)
	if got := shares(t, again); routeCount(t, again) != 5 || got["shop/v1"] != 10000 {
		t.Fatalf("%d routes, %v", routeCount(t, again), got)
	}
	e.ack(again)
	inForce(t, h, 3)
	e.ack(e.expect(TypeCluster)) // v2 goes
	e.silence()
}

// An Envoy that refuses a cut is sent one version and nothing else, as without classes.
func TestARefusedCutBecomesMinimalWithClassesToo(t *testing.T) {
	h, _, dial := server(t)
	tab := table(1, map[string]int{"v2": 100})
	tab.Policy.Route.Classes = threeClasses()
	publish(t, h, tab)
	e := connect(t, dial(), "edge-1", 40)
	e.start("shop", "shop/v1", "shop/v2")
	inForce(t, h, 1)
	next := table(2, nil, "v2")
	next.Policy.Route.Classes = threeClasses()
	publish(t, h, next)
	cut := e.expect(TypeRoute)
	e.nack(cut, "no")
	minimal := e.expect(TypeRoute)
	if routeCount(t, minimal) != 1 || shares(t, minimal)["shop/v1"] != 10000 {
		t.Errorf("%d routes", routeCount(t, minimal))
	}
}

func routeCount(t *testing.T, r *discovery.DeltaDiscoveryResponse) int {
	t.Helper()
	rc := &route.RouteConfiguration{}
	if len(r.Resources) != 1 || r.Resources[0].Resource.UnmarshalTo(rc) != nil {
		t.Fatalf("no route: %v", r)
	}
	return len(rc.VirtualHosts[0].Routes)
}

// BenchmarkTableOfACut is what is made before a cut goes out: three versions, pins and testers.
func BenchmarkTableOfACut(b *testing.B) {
	for _, classes := range []int{0, policy.ClassesMost} {
		b.Run(fmt.Sprint(classes, " classes"), func(b *testing.B) {
			tab := table(2, map[string]int{"v2": 0, "v3": 100}, "v2")
			allKinds(&tab)
			tab.Policy.Route.Classes = manyClasses(classes)
			old, err := build(tab, Key{}, nil, quietLog())
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := build(tab, Key{}, old, quietLog()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// manyClasses are of all kinds in turn.
func manyClasses(n int) (all []policy.Class) {
	for i := range n {
		name := fmt.Sprint("class-", i)
		all = append(all, []policy.Class{{Name: name, Method: "POST", Path: "/" + name}, {Name: name, Prefix: "/" + name + "/"}, {Name: name, Template: "/" + name + "/*/x"}, {Name: name, Regex: "/v[0-9]+/" + name + "/[^/]+"}}[i%4])
	}
	return all
}
