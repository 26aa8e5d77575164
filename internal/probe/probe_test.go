package probe

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// No name is resolved in these tests: who asks for one waits for ever, whatever the context says.
func TestMain(m *testing.M) {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { select {} }}
	m.Run()
}

func serve(t *testing.T, h http.HandlerFunc) (endpoint string) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// deaf takes connections and says nothing.
func deaf(t *testing.T) (endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// gone is where nobody listens.
func gone(t *testing.T) (endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	return l.Addr().String()
}

func TestWhatIsAskedFor(t *testing.T) {
	var got *http.Request
	at := serve(t, func(_ http.ResponseWriter, r *http.Request) { got = r })
	p := &Probe{Path: "/healthz?full=1&x=%2f", Host: "shop.example.com"}
	if !p.Answers(t.Context(), at) {
		t.Fatal("a version that answers 200 is not well")
	}
	if got.Method != http.MethodGet || got.Host != "shop.example.com" || got.RequestURI != p.Path || got.UserAgent() != userAgent || !got.Close {
		t.Errorf("%s %s, Host %s, User-Agent %s, Connection: close %v", got.Method, got.RequestURI, got.Host, got.UserAgent(), got.Close)
	}
}

func TestWhichStatusesAreWell(t *testing.T) {
	for status, want := range map[int]bool{200: true, 204: true, 299: true, 301: false, 302: false, 304: false, 400: false, 404: false, 500: false, 503: false} {
		at := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		if got := (&Probe{Path: "/", Host: "shop"}).Answers(t.Context(), at); got != want {
			t.Errorf("%d: well is %v", status, got)
		}
	}
}

// A version that redirects its health path must not send canaryd anywhere, nor have another's answer
// counted as its own.
func TestARedirectIsNotFollowed(t *testing.T) {
	var reached atomic.Int32
	elsewhere := serve(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	at := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+elsewhere+"/admin?delete=1", http.StatusFound)
	})
	if (&Probe{Path: "/healthz", Host: "shop"}).Answers(t.Context(), at) || reached.Load() > 0 {
		t.Errorf("the redirect's target was asked %d times", reached.Load())
	}
}

// What canaryd posts to webhooks may need a proxy; versions are reached without one.
func TestNoProxyIsAsked(t *testing.T) {
	var asked atomic.Int32
	proxy := serve(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	t.Setenv("HTTP_PROXY", "http://"+proxy)
	t.Setenv("http_proxy", "http://"+proxy)
	t.Setenv("HTTPS_PROXY", "http://"+proxy)
	for _, p := range []*Probe{{Path: "/healthz", Host: "shop"}, {GRPC: true, Host: "shop"}, {}} {
		if p.Answers(t.Context(), "192.0.2.1:8080") || asked.Load() > 0 {
			t.Errorf("%+v: the proxy was asked %d times", p, asked.Load())
		}
	}
	if client().Transport.(*http.Transport).Proxy != nil {
		t.Error("the client has a proxy")
	}
}

// An answer has to end, as for Envoy; a very long one is not read to its end.
func TestBodies(t *testing.T) {
	part := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "wait")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	endless := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for page := make([]byte, 1<<16); r.Context().Err() == nil; {
			if _, err := w.Write(page); err != nil {
				return
			}
		}
	})
	p := &Probe{Path: "/", Host: "shop"}
	if p.Answers(t.Context(), part) {
		t.Error("an answer that does not end is well")
	}
	if !p.Answers(t.Context(), endless) {
		t.Error("a very long answer is read to its end")
	}
}

func TestConnections(t *testing.T) {
	p := &Probe{Host: "shop"}
	if !p.Answers(t.Context(), deaf(t)) {
		t.Error("an endpoint that takes connections does not answer")
	}
	if p.Answers(t.Context(), gone(t)) {
		t.Error("nobody listens, and it answers")
	}
}

func TestIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here: ", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	t.Cleanup(func() { _ = srv.Close() })
	go func() { _ = srv.Serve(l) }()
	for _, p := range []*Probe{{Path: "/healthz", Host: "shop"}, {}} {
		if !p.Answers(t.Context(), l.Addr().String()) {
			t.Errorf("%+v: %s does not answer", p, l.Addr())
		}
	}
}

// A gRPC server is well when its health service says so, asked under the authority that Envoy uses.
func TestGRPC(t *testing.T) {
	var authority atomic.Value
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		authority.Store(strings.Join(md[":authority"], ","))
		return h(ctx, req)
	}))
	states := health.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, states)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	p := &Probe{GRPC: true, Host: "shop.example.com"}
	if !p.Answers(t.Context(), l.Addr().String()) {
		t.Error("a server that is SERVING is not well")
	}
	if authority.Load() != p.Host {
		t.Errorf("it was asked as %v", authority.Load())
	}
	states.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if p.Answers(t.Context(), l.Addr().String()) {
		t.Error("a server that is NOT_SERVING is well")
	}
	if p.Answers(t.Context(), gone(t)) {
		t.Error("nobody listens, and it is well")
	}
}

// One of many endpoints is enough, and all the others together cost no more than a second: asked one after the other they
// would take minutes. A busy machine has several tries to find the one at once.
func TestAnyOfMany(t *testing.T) {
	up := serve(t, func(http.ResponseWriter, *http.Request) {})
	hanging := deaf(t)
	var some, many []string
	for range atOnce - 1 {
		some = append(some, hanging)
	}
	for range 1000 {
		many = append(many, hanging)
	}
	p := &Probe{Path: "/", Host: "shop"}
	for _, c := range []struct {
		name      string
		endpoints []string
		want      bool
		most      time.Duration
	}{
		{"none", nil, false, timeout / 2},
		{"the one that answers is found at once", append(some, up), true, timeout / 2},
		{"a thousand that hang", many, false, 10 * timeout},
	} {
		for try := 1; ; try++ {
			begin := time.Now()
			got := p.Any(t.Context(), c.endpoints)
			took := time.Since(begin)
			if got == c.want && took <= c.most {
				break
			}
			if try == 10 {
				t.Errorf("%s: %v after %s", c.name, got, took)
				break
			}
		}
	}
}

// A resolver that hangs is waited for a second, by whichever way.
func TestASlowResolver(t *testing.T) {
	for _, p := range []*Probe{{Path: "/", Host: "shop"}, {GRPC: true, Host: "shop"}, {}} {
		begin := time.Now()
		if p.Any(t.Context(), []string{"shop.test:80", "www.shop.test:80"}) || time.Since(begin) > 10*timeout {
			t.Errorf("%+v: took %s", p, time.Since(begin))
		}
	}
}
