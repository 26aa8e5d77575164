package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckKnowsACanarydYmlByItsKeys(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name, text string
		code       int
		said       string
	}{
		{"a.yml", "notify: [{url: \"https://h\"}]\n", 0, "1 file OK"},
		{"a.yml", "docker: {host: \"unix:///var/run/docker.sock\"}\n", 0, "1 file OK"},
		{"a.yml", "file_sd_configs: [{files: [x.json]}]\n", 0, "1 file OK"},
		{"a.yml", "http_sd_configs: [{url: \"http://h/x\"}]\n", 0, "1 file OK"},
		{"a.yml", "storage: {path: x}\nramp: {}\n", 3, "unknown key \"ramp\""},
		{"a.yml", "docker: {port: 80}\nramp: {}\n", 3, "service is missing"},
		{"a.yml", "service: shop\nweb: {}\n", 3, "unknown key \"web\""},
		{"a.yml", "", 3, "no policy here"},
		{"canaryd.yml", "", 0, "1 file OK"},
		{"canaryd.yaml", "# nothing\n", 0, "1 file OK"},
		{"canaryd.yml", "wep: {}\n", 3, "unknown key \"wep\""},
		{"canaryd.yml", "web: {listen: a:1}\nweb: {listen: b:2}\n", 3, "canaryd.yml:2:1: "},
		{"canaryd.yml", "web: [\n", 3, "canaryd.yml:"},
		{"canaryd.yml", "web: {}\n---\nxds: {}\n", 3, "canaryd.yml:2:1: a second YAML document"},
		{"canaryd.yml", "policies: [nope/*.yml]\n", 0, "warning: "},
		{"canaryd.yml", "service: shop\n", 0, "1 file OK"},
	} {
		p := filepath.Join(dir, c.name)
		if err := os.WriteFile(p, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, errOut := runCLI(t, "", "check", p)
		if said := out + errOut; code != c.code || !strings.Contains(said, c.said) {
			t.Errorf("%s %q: exit %d (want %d), want %q:\n%s", c.name, c.text, code, c.code, c.said, said)
		}
	}
}

// What serve would refuse, check refuses, when it is shown the canaryd.yml.
func TestCheckJudgesPoliciesByTheSourceBesideThem(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("shop.yml", "service: shop\njudge: {queries: {requests: a, errors: b}}\n")
	for source, want := range map[string]int{"envoy": 3, "prometheus": 0} {
		write("canaryd.yml", "policies: [shop.yml]\nmetrics: {source: "+source+"}\n")
		if code, out, errOut := runCLI(t, "", "check", dir); code != want {
			t.Errorf("source %s: exit %d (want %d)\n%s%s", source, code, want, out, errOut)
		}
	}
	write("canaryd.yml", "policies: [shop.yml]\n")
	if code, out, _ := runCLI(t, "", "check", dir); code != 3 || !strings.Contains(out, "shop.yml:2:18: judge.queries needs") {
		t.Errorf("the default source: exit %d\n%s", code, out)
	}
	write("other.yml", "metrics: {source: prometheus}\n")
	if code, out, _ := runCLI(t, "", "check", dir); code != 0 {
		t.Errorf("files that disagree: exit %d\n%s", code, out)
	}
	if code, _, errOut := runCLI(t, "", "check", filepath.Join(dir, "shop.yml")); code != 0 {
		t.Errorf("without a canaryd.yml: exit %d\n%s", code, errOut)
	}
}

// A canaryd.yml is checked with the files that it names, each once; the files that serve knows beside it are checked as what they are.
func TestCheckReadsWhatServeReads(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("canaryd.yml", "xds: {tls: {cert_file: a.pem, key_file: b.pem}}\nmetrics: {source: prometheus, prometheus: {url: http://p, basic_auth: {username: u, password_file: pw}}}\npolicies: [policies/*.yml]\n")
	write("a.pem", "")
	write("policies/shop.yml", "service: shop\n")
	write("policies/pay.yml", "service: pay\njudge: {queries: {requests: a, errors: b}}\n")
	write("tests/pay.yml", "policy: ../policies/pay.yml\ncases: [{name: a, story: [{at: 0s, anounce: v2}]}]\n")
	write("web.yml", "basic_auth_users: {alice: $2y$10$abc}\ntls_serve_config: {}\n")
	for _, c := range []struct {
		args string
		code int
		want []string
	}{
		{"canaryd.yml policies", 0, []string{"3 files OK", "canaryd.yml:1:41: key_file: there is no ", "canaryd.yml:2:100: password_file: there is no ", "paths are relative to this file"}},
		{"--strict canaryd.yml", 3, []string{"2 findings in 3 files"}},
		{"tests/pay.yml", 3, []string{`pay.yml:2:36: unknown key "anounce" in cases.story: did you mean "announce"?`}},
		{"web.yml", 3, []string{"web.yml:1:1: ", "tls_serve_config"}},
	} {
		args := []string{"check"}
		for _, a := range strings.Fields(c.args) {
			if !strings.HasPrefix(a, "-") {
				a = filepath.Join(dir, a)
			}
			args = append(args, a)
		}
		code, out, errOut := runCLI(t, "", args...)
		for _, w := range c.want {
			if code != c.code || !strings.Contains(out+errOut, w) {
				t.Errorf("check %s: exit %d (want %d), want %q\n%s%s", c.args, code, c.code, w, out, errOut)
			}
		}
	}
	write("policies/pay.yml", "service: shop\n")
	if code, out, _ := runCLI(t, "", "check", filepath.Join(dir, "canaryd.yml")); code != exitFindings || !strings.Contains(out, "already has a policy at") {
		t.Errorf("exit %d: %s", code, out)
	}
}
