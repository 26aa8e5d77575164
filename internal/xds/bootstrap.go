package xds

import (
	"cmp"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
)

// Bootstrap says what an Envoy's bootstrap is made from.
type Bootstrap struct {
	XDS, Admin      string // host:port
	NodeID, Cluster string
	TLSDir          string // holds client.pem, client.key, ca.pem; empty: plain text
	ServerName      string // in canaryd's certificate: a DNS name or an IP address; empty: the host of XDS
	EnvoyVersion    string // like 1.36; empty: 1.39 or newer
	MaxHeap         int64  // bytes, beyond which Envoy turns requests away; 0: no limit
}

// YAML writes the bootstrap. It asks for delta ADS and load reports over one connection, keeps only
// the statistics that canaryd and an operator need, and reconnects quickly.
func (b Bootstrap) YAML() (string, error) {
	type hostPort struct{ Host, Port string }
	split := func(flag, s string) (hostPort, error) {
		h, p, err := net.SplitHostPort(s)
		if err == nil {
			_, err = strconv.ParseUint(p, 10, 16)
		}
		if err != nil {
			return hostPort{}, fmt.Errorf("--%s %q is not host:port, as in canaryd.internal:18000", flag, s)
		}
		return hostPort{h, p}, nil
	}
	x, err := split("xds", b.XDS)
	if err != nil {
		return "", err
	}
	a, err := split("admin", b.Admin)
	if err != nil {
		return "", err
	}
	for flag, v := range map[string]string{"node-id": b.NodeID, "cluster": b.Cluster, "server-name": cmp.Or(b.ServerName, x.Host)} {
		if v == "" || strings.ContainsAny(v, "\n\"\\") {
			return "", fmt.Errorf("--%s %q: write a plain name", flag, v)
		}
	}
	dir := ""
	if b.TLSDir != "" {
		if dir, err = filepath.Abs(b.TLSDir); err != nil {
			return "", fmt.Errorf("--tls-dir: %w", err)
		}
	}
	version, err := envoyVersion(b.EnvoyVersion)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = template.Must(template.New("bootstrap").Parse(bootstrapText)).Execute(&out, map[string]any{
		"XDS": x, "Admin": a, "NodeID": b.NodeID, "Cluster": b.Cluster, "TLS": dir, "Mend": mendable(version), "MaxHeap": b.MaxHeap, "Connections": downstreamMost,
		"Server": serverName(cmp.Or(b.ServerName, x.Host)),
	})
	return out.String(), err
}

// shown is the name that canaryd's certificate must have: without it any key of the same authority could pose
// as canaryd.
type shown struct{ Type, Name, SNI string }

func serverName(name string) shown {
	if net.ParseIP(name) != nil {
		return shown{Type: "IP_ADDRESS", Name: name} // RFC 6066 knows no addresses in SNI
	}
	return shown{Type: "DNS", Name: name, SNI: name}
}

// Warning says what the bootstrap cannot mend about its Envoy; empty: nothing.
func (b Bootstrap) Warning() string {
	version, err := envoyVersion(b.EnvoyVersion)
	if n := (Node{ID: b.NodeID, Build: "envoy " + b.EnvoyVersion, Version: version, Mended: true}); err == nil && n.lossy() {
		return Lossy{Node: n.ID, Build: n.Build}.Warning()
	}
	return ""
}

// downstreamMost bounds the connections of users to one Envoy. What one version may hold (policy.Limits) is less, so
// a version that hangs does not take the whole Envoy.
const downstreamMost = 50_000

const bootstrapText = `# Envoy bootstrap for canaryd, made by "canaryd bootstrap".
{{- if .Mend}}
node: {id: "{{.NodeID}}", cluster: "{{.Cluster}}", metadata: {canaryd: {access_log: true, whole_reports: true}}}
layered_runtime:                  # for Envoy 1.36 only: without it load reports lack failures; take it out when you upgrade
  layers:
  - name: canaryd
    static_layer: {envoy.reloadable_features.report_load_with_rq_issued: false}
{{- else}}
node: {id: "{{.NodeID}}", cluster: "{{.Cluster}}", metadata: {canaryd: {access_log: true}}}
{{- end}}
admin: {address: {socket_address: {address: "{{.Admin.Host}}", port_value: {{.Admin.Port}}}}, ignore_global_conn_limit: true}
overload_manager:                 # turns users away before this Envoy falls over; its file descriptors (ulimit -n) should be twice the connections
  refresh_interval: 0.25s
  resource_monitors:
  - name: envoy.resource_monitors.global_downstream_max_connections
    typed_config: {"@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig, max_active_downstream_connections: {{.Connections}}}
{{- if .MaxHeap}}
  - name: envoy.resource_monitors.fixed_heap
    typed_config: {"@type": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig, max_heap_size_bytes: {{.MaxHeap}}}
  actions:
  - {name: envoy.overload_actions.shrink_heap, triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.95}}]}
  - {name: envoy.overload_actions.stop_accepting_requests, triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.98}}]}
{{- end}}
cluster_manager:
  load_stats_config:              # load reports: the evidence of "source: envoy"
    api_type: GRPC
    transport_api_version: V3
    grpc_services: [{envoy_grpc: {cluster_name: canaryd}}]
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services:
    - envoy_grpc:
        cluster_name: canaryd
        retry_policy: {retry_back_off: {base_interval: 0.25s, max_interval: 5s}}
  cds_config: {resource_api_version: V3, ads: {}, initial_fetch_timeout: 30s}
  lds_config: {resource_api_version: V3, ads: {}, initial_fetch_timeout: 30s}
stats_config:
  stats_matcher:                  # a full scrape of thousands of clusters holds up xDS for seconds
    inclusion_list:
      patterns:
      - safe_regex: {regex: "cluster\\..*\\.(upstream_rq_(completed|[1-5]xx|[1-5]..|total|timeout|(pending|active)_overflow)|retry\\.upstream_rq_.*|upstream_cx_(connect_fail|none_healthy)|membership_.*|grpc\\.[0-9]+)"}
      - safe_regex: {regex: "cluster\\.[^.]*\\.upstream_rq_time"}
      - {prefix: access_logs}
      - {prefix: cluster_manager}
      - {prefix: control_plane}
      - {prefix: listener_manager}
      - {prefix: load_reporter}
      - {prefix: overload}
      - {suffix: downstream_global_cx_overflow}
      - {prefix: server}
      - {prefix: http.canaryd}
static_resources:
  clusters:
  - name: canaryd
    type: STRICT_DNS
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {connection_keepalive: {interval: 10s, timeout: 5s}}}
    load_assignment:
      cluster_name: canaryd
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: "{{.XDS.Host}}", port_value: {{.XDS.Port}}}}}}]}]
{{- if .TLS}}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
{{- if .Server.SNI}}
        sni: "{{.Server.SNI}}"
{{- end}}
        common_tls_context:
          tls_params: {tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3}
          tls_certificates: [{certificate_chain: {filename: "{{.TLS}}/client.pem"}, private_key: {filename: "{{.TLS}}/client.key"}, watched_directory: {path: "{{.TLS}}"}}]
          validation_context:       # canaryd has to show this name: any other key of the same authority is not canaryd
            trusted_ca: {filename: "{{.TLS}}/ca.pem"}
            watched_directory: {path: "{{.TLS}}"}
            match_typed_subject_alt_names: [{san_type: {{.Server.Type}}, matcher: {exact: "{{.Server.Name}}"}}]
{{- end}}
`
