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
		{"web.yml", 3, []string{"web.yml:1:27: the password of alice", `web.yml:2:1: unknown key "tls_serve_config": did you mean "tls_server_config"?`}},
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

const aHash = "sha256:10dd6c8b7cdc7c65acc2849c10c93616757314eb69dcaf7d83934f70d5d1a73f"

// Who may do what is checked with the tokens that canaryd.yml names. A file is known for what it is also where its only key is misspelt,
// and what is wrong is said once.
func TestCheckOfAccessSaysEachThingOnce(t *testing.T) {
	dir := t.TempDir()
	rules := func(rule string) string { return "web:\n  tokens_file: tokens.yml\n  access:\n  - " + rule + "\n" }
	if err := os.WriteFile(filepath.Join(dir, "tokens.yml"), []byte("ci-shop: "+aHash+"\nold: "+strings.Replace(aHash, "10dd", "20dd", 1)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text, said string
		code       int
	}{
		{rules("{token: ci-shop, role: admn}"), `f.yml:4:28: "admn" is not a role: write one of view, deploy, operate, admin`, 3},
		{rules("{token: ci-shop, rol: admin}"), `f.yml:4:22: unknown key "rol" in web.access: did you mean "role"?`, 3},
		{rules("{usr: alice, role: admin}"), `f.yml:4:6: unknown key "usr" in web.access: did you mean "user"?`, 3},
		{rules("{token: ci-shop}"), `f.yml:4:5: web.access[0]: role is missing: write one of view, deploy, operate, admin`, 3},
		{rules("{token: ci-shp, role: deploy}"), "warning: f.yml:2:16: web.access has a rule for the token ci-shp, which is not in web.tokens_file\n" +
			"warning: f.yml:2:16: web.tokens_file has the token ci-shop, for which web.access has no rule: it opens nothing\n" +
			"warning: f.yml:2:16: web.tokens_file has the token old, for which web.access has no rule: it opens nothing", 0},
		{"web: {hosts: [\"a:1\"]}\nnotify: [{ur: x}]\n", "f.yml:1:15: web.hosts[0]: \"a:1\": write a host name without scheme, port and wildcard, such as canaryd.example.com\nf.yml:2:11: unknown key \"ur\" in notify: did you mean \"url\"?", 3},
		{"notify: [{url: \"http://h/\", events: [promotd]}]\n", `f.yml:1:10: notify[0]: there is no event "promotd": did you mean "promoted"?`, 3},
		{"tls_servr_config: {cert_file: x}\n", `f.yml:1:1: unknown key "tls_servr_config": did you mean "tls_server_config"?`, 3},
		{"basic_auth_user: {alice: x}\n", `f.yml:1:1: unknown key "basic_auth_user": did you mean "basic_auth_users"?`, 3},
		{"basic_auth_users: {alice: hunter2}\n", "f.yml:1:27: the password of alice is not a bcrypt hash: `htpasswd -nB alice` prints one", 3},
		{"rate_limit: {interval: 1d}\n", `f.yml:1:24: "1d" does not fit here: expected a time, as in 30s`, 3},
		{"basic_auth_users: {alice: [hunter2]}\n", "f.yml:1:27: this does not fit here: expected text, or a mapping of keys", 3},
		{"ci-shop: sha256:abc\n", "f.yml:1:10: this is not the hash of a token: `canaryd token NAME` prints the line", 3},
		{"ci-shop: [" + aHash + "]\n", "", 0},
		{"metrics: " + aHash + "\nservice: [" + strings.Replace(aHash, "10dd", "20dd", 1) + "]\n", "", 0}, // names that are keys elsewhere
		{"xsd: {}\n", `f.yml:1:1: unknown key "xsd": did you mean "xds"?`, 3},
		{"rote: {}\n", "f.yml:1:1: unknown key \"rote\": did you mean \"route\"?", 3},
	} {
		f := filepath.Join(dir, "f.yml")
		if err := os.WriteFile(f, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, errOut := runCLI(t, "", "check", f)
		said := strings.ReplaceAll(out+errOut, dir+"/", "")
		lines := strings.SplitAfter(said, "\n") // the last one counts
		if said := strings.Join(lines[:len(lines)-2], ""); code != c.code || strings.TrimSuffix(said, "\n") != c.said {
			t.Errorf("%s: exit %d (want %d)\n%s\nwant\n%s", c.text, code, c.code, said, c.said)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "web.yml"), []byte("basic_auth_users: {alice: $2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f.yml"), []byte(rules("{user: alcie, role: view}")), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := runCLI(t, "", "check", dir); code != exitOK || !strings.Contains(errOut, "f.yml:2:16: web.access has a rule for the user alcie, whom --web.config.file does not list") {
		t.Errorf("exit %d: %s", code, errOut)
	}
	if err := os.Remove(filepath.Join(dir, "web.yml")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tokens.yml"), []byte("ci-shop: canaryd_SECRET\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := filepath.Join(dir, "f.yml")
	if err := os.WriteFile(f, []byte(rules("{token: ci-shop, role: deploy}")), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errOut := runCLI(t, "", "check", dir)
	if code != exitFindings || !strings.Contains(out, "tokens.yml:1:10: this is not the hash of a token") || strings.Contains(out+errOut, "SECRET") || !strings.Contains(errOut, "1 finding in 2 files") {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
}
