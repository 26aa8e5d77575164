package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestListenersThatStrangersReachAreRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	users := write("web.yml", "basic_auth_users: {alice: $2y$10$x}\n")
	mtls := write("mtls.yml", "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequireAndVerifyClientCert, client_ca_file: c}\n")
	nobody := write("nobody.yml", "tls_server_config: {cert_file: a, key_file: b}\n")
	for _, c := range []struct {
		name, config string
		flags        serveFlags
		want         string // of the refusal; empty: it starts
	}{
		{"the defaults", "", serveFlags{}, ""},
		{"localhost", "xds: {listen: \"localhost:1\"}\nweb: {listen: \"[::1]:2\"}\n", serveFlags{}, ""},
		{"all of 127", "xds: {listen: \"127.9.9.9:1\"}\n", serveFlags{}, ""},
		{"xds", "xds: {listen: \"0.0.0.0:1\"}\n", serveFlags{}, "xds.listen 0.0.0.0:1 is reached from other machines, without TLS"},
		{"xds on all addresses", "xds: {listen: \":1\"}\n", serveFlags{}, "write `insecure: true` under xds (or --insecure)"},
		{"xds by a name", "xds: {listen: \"canaryd.internal:1\"}\n", serveFlags{}, "xds.listen canaryd.internal:1"},
		{"xds by flag", "", serveFlags{xdsListen: "10.0.0.5:18000"}, "Set xds.tls"},
		{"xds, meant", "xds: {listen: \"0.0.0.0:1\", insecure: true}\n", serveFlags{}, ""},
		{"xds with TLS", "xds: {listen: \"0.0.0.0:1\", tls: {cert_file: a, key_file: b}}\n", serveFlags{}, ""},
		{"web", "web: {listen: \"0.0.0.0:1\"}\n", serveFlags{}, "web.listen 0.0.0.0:1 is reached from other machines, without users"},
		{"web by flag", "", serveFlags{webListen: ":8081"}, "List basic_auth_users in --web.config.file"},
		{"web, meant", "web: {listen: \"0.0.0.0:1\", insecure: true}\n", serveFlags{}, ""},
		{"web with users", "web: {listen: \"0.0.0.0:1\"}\n", serveFlags{webConfig: users}, ""},
		{"web with client certificates", "web: {listen: \"0.0.0.0:1\"}\n", serveFlags{webConfig: mtls}, ""},
		{"web with TLS and no users", "web: {listen: \"0.0.0.0:1\"}\n", serveFlags{webConfig: nobody}, "without users"},
		{"web with no such file", "web: {listen: \"0.0.0.0:1\"}\n", serveFlags{webConfig: dir + "/none.yml"}, "no such file"},
		{"one is not the other", "xds: {insecure: true}\nweb: {listen: \"0.0.0.0:1\"}\n", serveFlags{}, "web.listen"},
		{"both by flag", "xds: {listen: \":1\"}\nweb: {listen: \":2\"}\n", serveFlags{insecure: true}, ""},
	} {
		c.flags.file = write("canaryd.yml", c.config)
		_, err := c.flags.config()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	exposed := write("canaryd.yml", "xds: {listen: \":1\"}\nweb: {listen: \":2\"}\npolicies: []\n")
	if code, _, errOut := runCLI(t, "", "serve", "--config.file="+exposed); code != exitError || !strings.Contains(errOut, "Set xds.tls") {
		t.Errorf("serve: exit %d\n%s", code, errOut)
	}
	if code, out, errOut := runCLI(t, "", "check", exposed); code != exitOK || !strings.Contains(out+errOut, "canaryd.yml:1:15: warning: serve refuses") && strings.Count(out+errOut, "serve refuses this") != 2 {
		t.Errorf("check: exit %d\n%s%s", code, out, errOut)
	}
}

// What is shipped says of itself whether it means to be reached.
func TestShippedConfigurationsStart(t *testing.T) {
	for _, f := range []serveFlags{
		{file: "../../config/canaryd.yml"},
		{file: "../../config/image/etc/canaryd/canaryd.yml", webListen: "0.0.0.0:8080", xdsListen: "0.0.0.0:18000"},
		{file: "../../e2e/compose/canaryd/canaryd.yml", webListen: "0.0.0.0:8080", xdsListen: "0.0.0.0:18000"},
	} {
		if _, err := f.config(); err != nil {
			t.Errorf("%s: %v", f.file, err)
		}
	}
}

// config/canaryd.yml shows every key of xds with its default.
func TestTheSampleShowsTheDefaults(t *testing.T) {
	data, err := os.ReadFile("../../config/canaryd.yml")
	if err != nil {
		t.Fatal(err)
	}
	c, fs := parseServerConfig("canaryd.yml", data)
	if d := defaultServerConfig(); len(fs) > 0 || c.XDS.Limits != d.XDS.Limits || c.XDS.admission().Limits != d.XDS.admission().Limits {
		t.Errorf("%+v %v", c.XDS, fs)
	}
	for _, key := range []string{"streams_per_peer", "first_message", "names_per_type", "names_per_peer", "bytes_per_peer", "bytes_per_second", "request_bytes", "refusal_bytes", "reports_per_second", "endpoints_per_report", "connection_age", "strict_nodes", "insecure"} {
		if !strings.Contains(string(data), "  "+key+":") {
			t.Errorf("%s is missing", key)
		}
	}
}

// Who may do what is said in canaryd.yml: a daemon that runs without the one beside it says so.
func TestACanarydYMLThatIsNotReadIsToldOf(t *testing.T) {
	t.Chdir(t.TempDir())
	if w := (serveFlags{}).unread(); w != "" {
		t.Error(w)
	}
	if err := os.WriteFile("canaryd.yml", []byte("web: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if w := (serveFlags{}).unread(); !strings.Contains(w, "--config.file=canaryd.yml") {
		t.Errorf("%q", w)
	}
	if w := (serveFlags{file: "canaryd.yml"}).unread(); w != "" {
		t.Error(w)
	}
}
