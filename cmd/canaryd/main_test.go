package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/canaryd/canaryd/config"
)

func runCLI(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("CANARYD_URL", "http://127.0.0.1:1")
	var o, e bytes.Buffer
	code = execute(context.Background(), args, strings.NewReader(stdin), &o, &e)
	return code, o.String(), e.String()
}

func TestExitCodesAndStreams(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good, bad := write("good.yml", "service: shop\n"), write("bad.yaml", "service: pay\nramp: {per: x}\n")
	warned := write("warned.yml", "service: api\nroute: {testers: {header: x-canary}}\n")
	server := write("canaryd.yml", "xds: {listen: 127.0.0.1:1}\nmetrics: {source: carrier pigeons, prometheus: {url: http://p, basic_auth: {username: a, password: b}}}\n")
	for _, c := range []struct {
		args   string
		stdin  string
		code   int
		stdout string
		stderr string
	}{
		{"check " + good, "", 0, "", "1 file OK"},
		{"check -", "service: shop\n", 0, "", "1 file OK"},
		{"check -", "service: 1_\n", 3, "stdin:1:10: ", "1 finding in 1 file"},
		{"check " + bad, "", 3, "bad.yaml:2:13: \"x\" is not possible here", ""},
		{"check " + dir, "", 3, "bad.yaml:2:13", "findings in 4 files"},
		{"check " + server, "", 3, "canaryd.yml:2:19: \"carrier pigeons\" is not a source", ""},
		{"check " + warned, "", 0, "", "warning: "},
		{"check --strict " + warned, "", 3, "without a key", ""},
		{"check -o json " + good, "", 0, `"findings": []`, ""},
		{"check --print " + good, "", 0, "false_rollback: 0.1%", ""},
		{"check " + dir + "/none", "", 1, "", "no such file"},
		{"check", "", 2, "", "Try: canaryd check --help"},
		{"nonsense", "", 2, "", "unknown command"},
		{"status --nonsense", "", 2, "", "unknown flag"},
		{"status", "", 1, "", "no canaryd answers at http://127.0.0.1:1"},
		{"status --url 127.0.0.1:8080", "", 2, "", "not an address such as http://127.0.0.1:8080"},
		{"wait shop v2 --url 127.0.0.1:8080", "", 2, "", "not an address such as http://127.0.0.1:8080"},
		{"status --url http://me:hunter2@127.0.0.1:1", "", 1, "", "at http://me:xxxxx@127.0.0.1:1: dial"},
		{"status --url http://me:hunter2%zz@127.0.0.1:1", "", 2, "", "https://canaryd.example.com: ...@127.0.0.1:1"},
		{"status -o xml", "", 2, "", "write table or json"},
		{"deploy shop v1 --endpoint a:1", "", 1, "", "Try: start it with"},
		{"healthcheck", "", 1, "", "no canaryd answers"},
		{"simulate --runs 4 --rate 1000 --canary 50%", "", 0, "fails 50%", ""},
		{"simulate --runs 4 -o json --most 1m " + good, "", 0, `"as_good_as_stable"`, ""},
		{"simulate --canary much", "", 2, "", "--canary: \"much\" is not a percentage"},
		{"check --rate 1 --stable 0.1% " + good, "", 0, "", "is found after about"},
		{"check --rate 1000 " + good, "", 0, "", "1 file OK"},
		{"bootstrap --xds nonsense", "", 2, "", "is not host:port"},
		{"bootstrap --envoy-version 1.36", "", 0, "report_load_with_rq_issued: false", ""},
		{"bootstrap --envoy-version 1.37", "", 0, "load_stats_config", "warning: Envoy envoy (envoy 1.37) loses load reports"},
		{"bootstrap", "", 0, "max_active_downstream_connections: 50000", ""},
		{"bootstrap --max-heap 2GiB", "", 0, "max_heap_size_bytes: 2147483648", ""},
		{"bootstrap --max-heap lots", "", 2, "", "--max-heap \"lots\" is not a size"},
		{"bootstrap --envoy-version 1.35", "", 2, "", "canaryd needs Envoy 1.36"},
		{"version", "", 0, "canaryd, version", ""},
		{"completion bash", "", 0, "bash completion", ""},
		{"serve --config.file=" + dir + "/none.yml", "", 1, "", "--config.file"},
		{"serve --config.file=" + server, "", 1, "", "carrier pigeons"},
		{"serve --log.level=nonsense", "", 2, "", "--log.level: \"nonsense\": write debug"},
		{"serve --log.format=xml", "", 2, "", "--log.format: \"xml\": write text or json"},
		{"serve --web.listen-address=8080", "", 2, "", "--web.listen-address: \"8080\" is not host:port"},
		{"serve --web.listen-address=:18000", "", 2, "", "are one address"},
	} {
		code, out, errOut := runCLI(t, c.stdin, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.stdout) || !strings.Contains(errOut, c.stderr) {
			t.Errorf("canaryd %s: exit %d (want %d)\nstdout: %s\nstderr: %s", c.args, code, c.code, out, errOut)
		}
	}
}

// An abort that the disk did not take is carried out: exit 0, and a word to the person.
func TestAnAbortSaysThatItIsNotStored(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"version": "v2", "phase": "aborted", "stored": false}`)
	}))
	defer srv.Close()
	code, out, errOut := runCLI(t, "", "abort", "shop", "v2", "--url", srv.URL)
	if code != exitOK || !strings.Contains(out, "aborted") || !strings.Contains(errOut, "not stored yet") {
		t.Errorf("exit %d\n%s\n%s", code, out, errOut)
	}
}

func TestSchemaPrintsTheFile(t *testing.T) {
	code, out, _ := runCLI(t, "", "schema")
	if code != 0 || out != string(config.PolicySchema) || !json.Valid([]byte(out)) {
		t.Errorf("exit %d", code)
	}
}

func TestTheServerConfigHasDefaultsAndRefusesNonsense(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "metrics: {source: prometheus, prometheus: {url: http://p:1, bearer_token: x, tls_config: {insecure_skip_verify: true}}, interval: 5s}\n"} {
		if c, fs := parseServerConfig("f", []byte(text)); len(fs) > 0 || c.XDS.Listen != "127.0.0.1:18000" || c.Web.Listen != "127.0.0.1:8080" {
			t.Errorf("%q: %+v %v", text, c, fs)
		}
	}
	full := `xds:
  listen: 127.0.0.1:18000
  tls: {cert_file: , key_file: , client_ca_file: }
  insecure: false
  strict_nodes: false
  nodes: []
  limits: {streams_per_peer: 2000}
web: {listen: 127.0.0.1:8080, hosts: [canaryd.example.com, "10.0.0.5", "fd00::5"]}
policies: [policies/*.yml]
storage: {path: data, retention: 90d, max_bytes: 500MiB, etcd: {endpoints: [], prefix: /canaryd, tls: {}}}
metrics: {source: envoy, prometheus: {url: http://127.0.0.1:9090}, interval: 1s}
docker: {host: unix:///var/run/docker.sock}
notify: [{url: https://example.com, events: [rolled_back, promoted, held, alarm]}]
`
	if _, fs := parseServerConfig("f", []byte(full)); len(fs.Errors()) > 0 || len(fs.Warnings()) != 0 {
		t.Errorf("the documented file: %v", fs)
	}
	for text, want := range map[string]string{
		"storage: {retention: 30m}\n":            "f:1:22: history and journal are kept for 1h at least",
		"storage: {max_bytes: 1MiB}\n":           "f:1:22: history and journal need 16MiB at least",
		"storage: {max_bytes: plenty}\n":         "f:1:22: \"plenty\" is not a size: write a number and a unit, as in 512MiB",
		"storage: {etcd: {endpoints: [a:1]}}\n":  "f:1:29: this build has no etcd store yet",
		"xds: {lisen: a}\n":                      "f:1:7: unknown key \"lisen\"",
		"metrics: {interval: 1ms}\n":             "f:1:21: the interval must be 100ms at least",
		"metrics: {prometheus: {url: prom}}\n":   "f:1:29: \"prom\": url must be an address",
		"web: {hosts: [\"http://a\"]}\n":         "f:1:15: web.hosts[0]: \"http://a\": write a host name without scheme",
		"web: {hosts: [a, \"*.b\"]}\n":           "f:1:18: web.hosts[1]: \"*.b\": write a host name",
		"docker: {tls: {cert_file: a}}\n":        "f:1:15: ca_file, cert_file and key_file belong together",
		"xds: {tls: {client_ca_file: ca.pem}}\n": "f:1:29: client_ca_file needs cert_file and key_file: without them there is no TLS",
		"xds: {nodes: [{san: a}]}\n":             "f:1:14: xds.nodes needs xds.tls.client_ca_file",
		"xds: {strict_nodes: true}\n":            "f:1:21: xds.strict_nodes needs xds.tls.client_ca_file",
		"xds: {tls: {cert_file: a, key_file: b, client_ca_file: c}, nodes: [{cluster: a}]}\n":                "f:1:67: xds.nodes[0]: san is missing",
		"xds: {tls: {cert_file: a, key_file: b, client_ca_file: c}, nodes: [{san: a, services: [\"[\"]}]}\n": "f:1:67: xds.nodes[0]: \"[\" is not a pattern",
		"xds: {tls: {cert_file: a, key_file: b, client_ca_file: c}, nodes: [{san: a, name: a}]}\n":           "f:1:77: unknown key \"name\"",
		"xds: {limits: {streams_per_peer: 1}}\n":                                                             "f:1:34: xds.limits.streams_per_peer must be 2 at least",
		"xds: {limits: {names_per_type: 0}}\n":                                                               "f:1:32: xds.limits.names_per_type must be 1 at least",
		"xds: {limits: {bytes_per_second: -1}}\n":                                                            "f:1:34: xds.limits.bytes_per_second must be 65536 at least",
		"xds: {limits: {request_bytes: 65536}}\n":                                                            "f:1:31: xds.limits.request_bytes must be 262144 at least",
		"xds: {limits: {metrics_per_report: 9223372036854775807}}\n":                                         "f:1:36: xds.limits.metrics_per_report must be 576460752303423487 at most",
		"xds: {limits: {connection_age: 290y}}\n":                                                            "f:1:32: xds.limits.connection_age must be 10y at most",
		"xds: {limits: {first_message: 1ms}}\n":                                                              "f:1:31: xds.limits.first_message must be 1s at least",
		"xds: {limits: {names: 1}}\n":                                                                        "f:1:16: unknown key \"names\"",
		"xds: {tls: {cert_file: a}}\n":                                                                       "f:1:12: cert_file and key_file belong together",
		"metrics: {prometheus: {basic_auth: 1}}\n":                                                           "f:1:",
		"notify: [{url: nowhere}]\n":                                                                         "f:1:10: notify[0]: url must be an address",
		"notify: [{url: \"http://h\", events: [x]}]\n":                                                       "f:1:10: notify[0]: there is no event \"x\"",
		"notify: [{url: \"http://h\", format: xml}]\n":                                                       "f:1:10: notify[0]: format \"xml\"",
		"policies: 3\n": "f:1:11: ",
		"web: {listen: 8080}\nxds: {listen: 1}\n": "f:1:15: \"8080\" is not host:port, as in 127.0.0.1:8080, or :8080 for all addresses\nf:2:15: ",
		"policies: [\"a[\"]\n":                    "f:1:12: \"a[\" is not a valid glob",
		"web: {listen: 8080}\n":                   "f:1:15: \"8080\" is not host:port",
		"web: {listen: \"h:99999\"}\n":            "f:1:15: \"h:99999\" is not host:port",
		"xds: {listen: \"\"}\n":                   "f:1:15: \"\" is not host:port",
		"web: {listen: \":18000\"}\n":             "f:1:15: web.listen :18000 and xds.listen 127.0.0.1:18000 are one address",
		"web: {<<: {listen: 8080}}\n":             "f:1:20: \"8080\" is not host:port",
		"xds: [\n":                                "f:",
	} {
		if _, fs := parseServerConfig("f", []byte(text)); !strings.HasPrefix(fs.Error(), want) {
			t.Errorf("%q: %q, want %q", text, fs.Error(), want)
		}
	}
}
