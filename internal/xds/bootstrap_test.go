package xds

import (
	"encoding/json"
	"testing"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	yaml "go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/encoding/protojson"
)

// parse reads a bootstrap as Envoy does.
func parse(t *testing.T, b Bootstrap) *bootstrap.Bootstrap {
	t.Helper()
	text, err := b.YAML()
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := yaml.Unmarshal([]byte(text), &tree); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	data, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	out := &bootstrap.Bootstrap{}
	if err := protojson.Unmarshal(data, out); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if err := out.ValidateAll(); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	return out
}

func TestTheBootstrapVerifiesCanaryd(t *testing.T) {
	for _, c := range []struct {
		xds, name string
		typ       tlsv3.SubjectAltNameMatcher_SanType
		want, sni string
	}{
		{"canaryd.internal:18000", "", tlsv3.SubjectAltNameMatcher_DNS, "canaryd.internal", "canaryd.internal"},
		{"10.0.0.5:18000", "", tlsv3.SubjectAltNameMatcher_IP_ADDRESS, "10.0.0.5", ""},
		{"10.0.0.5:18000", "canaryd.internal", tlsv3.SubjectAltNameMatcher_DNS, "canaryd.internal", "canaryd.internal"},
		{"[fd00::5]:18000", "", tlsv3.SubjectAltNameMatcher_IP_ADDRESS, "fd00::5", ""},
	} {
		b := parse(t, Bootstrap{XDS: c.xds, Admin: "127.0.0.1:9901", NodeID: "edge-1", Cluster: "edge", TLSDir: "/etc/canaryd", ServerName: c.name})
		ctx := &tlsv3.UpstreamTlsContext{}
		if err := b.StaticResources.Clusters[0].TransportSocket.GetTypedConfig().UnmarshalTo(ctx); err != nil {
			t.Fatal(err)
		}
		names := ctx.CommonTlsContext.GetValidationContext().MatchTypedSubjectAltNames
		if len(names) != 1 || names[0].SanType != c.typ || names[0].Matcher.GetExact() != c.want || ctx.Sni != c.sni {
			t.Errorf("%s %s: %v, sni %q", c.xds, c.name, names, ctx.Sni)
		}
	}
	if s := parse(t, Bootstrap{XDS: "c:1", Admin: "127.0.0.1:9901", NodeID: "e", Cluster: "edge"}).StaticResources.Clusters[0].TransportSocket; s != nil {
		t.Errorf("%v", s)
	}
	if _, err := (Bootstrap{XDS: "c:1", Admin: "a:1", NodeID: "e", Cluster: "edge", ServerName: "a\"b"}).YAML(); err == nil {
		t.Error("a name with a quote was taken")
	}
}
