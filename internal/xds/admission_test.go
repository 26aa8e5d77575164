package xds

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

func TestACertificateSpeaksAsItsNode(t *testing.T) {
	edges := []NodeRule{{SAN: "spiffe://prod/edge/*", Cluster: "edge", Services: []string{"shop*"}}, {SAN: "spiffe://prod/shared", ID: "car-*"}}
	for _, c := range []struct {
		rules       []NodeRule
		names       string
		id, cluster string
		want        string // of the refusal; empty: admitted
		sees        []string
	}{
		{nil, "edge-7", "edge-7", "edge", "", nil},
		{nil, "a.example spiffe://prod/edge/edge-7", "edge-7", "edge", "", nil},
		{nil, "spiffe://prod/edge/edge-7", "spiffe://prod/edge/edge-7", "", "", nil},
		{nil, "spiffe://prod/edge/edge-7", "edge-8", "edge", "the certificate of spiffe://prod/edge/edge-7 may not speak as node.id \"edge-8\"", nil},
		{nil, "", "edge-8", "edge", "nobody (it has no SAN)", nil},
		{edges, "spiffe://prod/edge/edge-7", "edge-7", "edge", "", []string{"shop*"}},
		{edges, "spiffe://prod/edge/edge-7", "edge-8", "edge", "no entry of xds.nodes", nil},
		{edges, "spiffe://prod/edge/edge-7", "edge-7", "sidecar", "node.cluster \"sidecar\"", nil},
		{edges, "spiffe://prod/edge/a/edge-7", "edge-7", "edge", "no entry", nil},
		{edges, "spiffe://prod/pay/edge-7", "edge-7", "edge", "no entry", nil},
		{edges, "spiffe://prod/shared", "car-1", "any", "", nil},
		{edges, "spiffe://prod/shared", "edge-1", "any", "no entry", nil},
	} {
		n := Node{ID: c.id, Cluster: c.cluster}
		why := Admission{Nodes: c.rules}.certify(&n, strings.Fields(c.names))
		if (why == "") != (c.want == "") || !strings.Contains(why, c.want) || !slices.Equal(n.services, c.sees) {
			t.Errorf("%s as %s: %q, want %q; it sees %v", c.names, c.id, why, c.want, n.services)
		}
	}
	for _, bad := range []NodeRule{{}, {SAN: "["}, {SAN: "a", ID: "["}, {SAN: "a", Services: []string{"["}}} {
		if bad.Check() == nil {
			t.Errorf("%+v", bad)
		}
	}
}

// authority issues certificates for a server of the test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	var der []byte
	der, a.key = a.sign(a.cert)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) sign(c *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	by := a.key
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

// issue makes a certificate; a name with a scheme is a URI, any other a DNS name.
func (a *authority) issue(name string) tls.Certificate {
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	if u, err := url.Parse(name); err == nil && u.Scheme != "" {
		c.URIs = []*url.URL{u}
	} else {
		c.DNSNames = []string{name}
	}
	der, key := a.sign(c)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// mutual runs a server that asks for certificates; the dialer shows one.
func mutual(t *testing.T, adm Admission) (*Hub, chan Report, func(name string) *grpc.ClientConn) {
	t.Helper()
	a, hub, got := newAuthority(t), NewHub(quietLog()), make(chan Report, 100)
	adm.Limits = DefaultLimits()
	hub.Admission = adm
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(hub, NewLoads(time.Second, func(r Report) { got <- r }), &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{a.issue("canaryd.example")}, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert})
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return hub, got, func(name string) *grpc.ClientConn {
		c, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS12, ServerName: "canaryd.example", RootCAs: a.pool, Certificates: []tls.Certificate{a.issue(name)}})))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
}

// services publishes shop and pay.
func services(t *testing.T, h *Hub) {
	t.Helper()
	for _, name := range []string{"shop", "pay"} {
		tab := table(1, nil)
		tab.Service, tab.Policy.Service = name, name
		tab.Policy.Route.Listener, tab.Policy.Route.Domains = "0.0.0.0:10000", []string{name + ".example.com"}
		publish(t, h, tab)
	}
}

func TestANodeSpeaksForItselfAndSeesItsServices(t *testing.T) {
	h, got, dial := mutual(t, Admission{Nodes: []NodeRule{{SAN: "spiffe://prod/edge/*", Cluster: "edge", Services: []string{"shop*"}}}})
	services(t, h)
	one := dial("spiffe://prod/edge/edge-1")
	e := connect(t, one, "edge-1", 40)
	e.start("shop", "shop/v1")
	e.subscribe(TypeScope)
	if r := e.expect(TypeScope); len(r.Resources) != 1 {
		t.Errorf("scopes %v", names(r))
	}
	e.subscribe(TypeRoute, "pay")
	if r := e.expect(TypeRoute); len(r.Resources) != 0 || !slices.Equal(r.RemovedResources, []string{"pay"}) {
		t.Errorf("routes %v, none of them %v", names(r), r.RemovedResources)
	}
	if s := h.status("shop"); s.Subscribers != 1 {
		t.Errorf("%+v", s)
	}
	h.mu.Lock()
	if s := h.services["pay"].force.Status("pay"); s.Subscribers != 0 {
		t.Errorf("of a service that it does not see: %+v", s)
	}
	h.mu.Unlock()

	connect(t, one, "edge-1", 40).deniedAs(t, "edge-2", "edge", codes.PermissionDenied)
	connect(t, one, "edge-1", 40).deniedAs(t, "edge-1", "sidecar", codes.PermissionDenied)
	connect(t, dial("spiffe://prod/pay/edge-1"), "edge-1", 40).deniedAs(t, "edge-1", "edge", codes.PermissionDenied)
	counted(t, h, notItsNode, 3)

	own := reportsAs(t, one, "edge-1")
	own.send(loadOf("shop/v1", 9, 1), loadOf("pay/v1", 0, 9))
	if r := <-got; len(r.Clusters) != 1 || r.Clusters["shop/v1"].Counts.Requests != 10 {
		t.Errorf("%+v", r)
	}
	counted(t, h, unknownCluster, 1)
	reportsAs(t, dial("spiffe://prod/edge/edge-2"), "edge-1", loadOf("shop/v1", 0, 9)) // not its name
	counted(t, h, notItsNode, 4)
	reportsAs(t, dial("spiffe://prod/edge/edge-2"), "edge-2").send(loadOf("shop/v1", 0, 9)) // no ADS stream
	counted(t, h, unknownNode, 1)
	if len(got) != 0 {
		t.Errorf("%d more reports", len(got))
	}
}

// deniedAs speaks as another node, and is refused.
func (e *envoy) deniedAs(t *testing.T, id, cluster string, want codes.Code) {
	t.Helper()
	e.node = &core.Node{Id: id, Cluster: cluster, UserAgentName: "envoy"}
	e.subscribe(TypeCluster)
	e.ends(want, "may not speak as node.id")
}

// Without xds.nodes whoever is not the node of its certificate is admitted and counted, or refused where that is
// strict. A report needs an ADS stream of the same certificate, whatever both say.
func TestAMismatchIsCountedOrRefused(t *testing.T) {
	h, got, dial := mutual(t, Admission{})
	publish(t, h, table(1, nil))
	connect(t, dial("edge-1"), "edge-1", 40).start("shop", "shop/v1")
	if n := h.Figures().Mismatch; n != 0 {
		t.Errorf("%d mismatches", n)
	}
	reportsAs(t, dial("spiffe://prod/edge/edge-2"), "edge-1").send(loadOf("shop/v1", 0, 9))
	counted(t, h, unknownNode, 1)
	reportsAs(t, dial("edge-1"), "edge-1").send(loadOf("shop/v1", 1, 0))
	if r := <-got; r.Clusters["shop/v1"].Counts.Errors != 0 {
		t.Errorf("%+v", r)
	}
	connect(t, dial("somebody"), "edge-3", 40).start("shop", "shop/v1")
	if n := h.Figures().Mismatch; n != 2 {
		t.Errorf("%d mismatches, want 2", n)
	}

	h, _, dial = mutual(t, Admission{Strict: true})
	publish(t, h, table(1, nil))
	connect(t, dial("edge-1"), "edge-1", 40).start("shop", "shop/v1")
	connect(t, dial("edge-1"), "edge-2", 40).deniedAs(t, "edge-2", "edge", codes.PermissionDenied)
	counted(t, h, notItsNode, 1)
}

// A gRPC client is given its services only, whatever it asks for.
func TestAGRPCClientSeesItsServices(t *testing.T) {
	h, _, dial := mutual(t, Admission{Nodes: []NodeRule{{SAN: "*", Services: []string{"shop"}}}})
	for _, name := range []string{"shop", "pay"} {
		p := policy.Default()
		p.Service, p.Route.Protocol = name, policy.ProtocolGRPC
		publish(t, h, rollout.Table{Service: name, Generation: 1, Policy: &p, Stable: "v1", Slots: []rollout.Run{{Version: "v1", Count: policy.FullWeight}},
			Clusters: []rollout.Cluster{{Version: "v1", Endpoints: []string{"127.0.0.1:9001"}}}})
	}
	st, err := discovery.NewAggregatedDiscoveryServiceClient(dial("client-1")).StreamAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	node := &core.Node{Id: "client-1", UserAgentName: "gRPC Go"}
	for typ, asked := range map[string][]string{TypeListener: {"pay", "shop"}, TypeCluster: {"pay/v1", "shop/v1", "*"}} {
		if err := st.Send(&discovery.DiscoveryRequest{Node: node, TypeUrl: typ, ResourceNames: asked}); err != nil {
			t.Fatal(err)
		}
		r, err := st.Recv()
		if err != nil || r.GetTypeUrl() != typ || len(r.GetResources()) != 1 || strings.Contains(string(r.GetResources()[0].GetValue()), "pay") {
			t.Errorf("%s: %v %v", typ, r, err)
		}
	}
	if err := st.Send(&discovery.DiscoveryRequest{TypeUrl: "type.googleapis.com/evil.v1.T"}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); err == nil || !strings.Contains(err.Error(), "is not served") {
		t.Errorf("%v", err)
	}
	counted(t, h, overTypes, 1)
}
