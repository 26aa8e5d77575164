// Package probe asks endpoints whether they answer, in the way in which Envoy's active health check asks
// them: what is well for one is well for the other.
package probe

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/canaryd/canaryd/internal/policy"
)

const (
	timeout    = time.Second
	atOnce     = 64       // endpoints of a version that are being asked
	bodyMost   = 1 << 20  // of an answer; an answer that has not ended by then is taken for one that does
	headerMost = 64 << 10 // of an answer
	userAgent  = "canaryd-probe"
)

// Probe is how the endpoints of a service are asked: by a GET of Path, by gRPC's health service, or by a
// TCP connection.
type Probe struct {
	Path string // of the GET; empty: none
	GRPC bool   // without a path: grpc.health.v1
	Host string // Host of the GET, authority of the gRPC call
}

// Of is how a policy has endpoints asked; nil: not at all. Envoy asks gRPC's health service only where
// the policy has checks, so only there may canaryd take for granted that a server has it.
func Of(p *policy.Policy) *Probe {
	r := &p.Route
	if r.Probe == policy.ProbeOff {
		return nil
	}
	return &Probe{Path: r.HealthPath, GRPC: r.GRPC() && r.HealthCheck != nil, Host: p.HealthHost()}
}

// Any reports whether one of the endpoints answers within a second. They are asked in random order, so
// that of very many none is left out for ever.
func (p *Probe) Any(ctx context.Context, endpoints []string) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	left := make(chan string, len(endpoints))
	for _, i := range rand.Perm(len(endpoints)) {
		left <- endpoints[i]
	}
	close(left)
	answers := make(chan bool, len(endpoints))
	for range min(atOnce, len(endpoints)) {
		go func() {
			for e := range left {
				answers <- p.Answers(ctx, e)
			}
		}()
	}
	for range endpoints {
		select {
		case up := <-answers:
			if up {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// Answers reports whether an endpoint (host:port) is well; one that has not said so within a second is not.
func (p *Probe) Answers(ctx context.Context, endpoint string) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case p.Path != "":
		return p.get(ctx, endpoint)
	case p.GRPC:
		return p.serving(ctx, endpoint)
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", endpoint)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// get asks for the path, written as in the policy. As for Envoy, the answer counts when it is complete.
func (p *Probe) get(ctx context.Context, endpoint string) bool {
	req := (&http.Request{
		Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: endpoint, Opaque: p.Path}, Host: p.Host,
		Header: http.Header{"User-Agent": {userAgent}},
	}).WithContext(ctx)
	resp, err := client().Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, bodyMost)); err != nil {
		return false
	}
	return resp.StatusCode >= policy.HealthyFrom && resp.StatusCode < policy.HealthyBelow
}

// client reaches an endpoint itself, whatever proxy canaryd needs for other things, and goes nowhere else:
// a version could send canaryd to any address of its network by a redirect.
func client() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{Proxy: nil, DisableKeepAlives: true, MaxResponseHeaderBytes: headerMost},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (p *Probe) serving(ctx context.Context, endpoint string) bool {
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", endpoint)
	}
	conn, err := grpc.NewClient("passthrough:///endpoint", grpc.WithContextDialer(dial), grpc.WithAuthority(p.Host), grpc.WithUserAgent(userAgent),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry())
	if err != nil {
		return false
	}
	defer conn.Close()
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	return err == nil && resp.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING
}
