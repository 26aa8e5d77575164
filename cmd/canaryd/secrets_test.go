package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rig"
)

// The secrets of a service and of its daemon, each in a place of its own.
var secrets = map[string]string{
	"literal": "hunter2-in-the-policy", "file": "hunter2-in-a-file", "env": "hunter2-in-the-environment", "tester": "hunter2-of-the-testers", "hook": "hunter2-of-the-hook",
	"webhook": "hunter2-in-the-path", "password": "hunter2-in-the-url", "query": "hunter2-in-the-query", "comment": "hunter2-in-a-comment",
}

// outputs are all that canaryd says, by where.
type outputs struct {
	mu    sync.Mutex
	texts map[string]*bytes.Buffer
}

func (o *outputs) add(where, text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.texts[where] == nil {
		o.texts[where] = &bytes.Buffer{}
	}
	o.texts[where].WriteString(text)
}

// talkative is a Docker daemon that knows every image, makes no container, and repeats the environment in its error.
// It keeps what it was told to make.
func talkative(t *testing.T, told func(env []string)) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.47")
		w.Header().Set("Content-Type", "application/json")
		switch path := r.URL.Path; {
		case strings.Contains(path, "/images/"):
			_, _ = w.Write([]byte(`{"Id": "sha256:1"}`))
		case strings.HasSuffix(path, "/containers/json"):
			_, _ = w.Write([]byte("[]"))
		case strings.HasSuffix(path, "/containers/create"):
			var c struct{ Env []string }
			_ = json.NewDecoder(r.Body).Decode(&c)
			told(c.Env)
			w.WriteHeader(http.StatusInternalServerError)
			_ = json.NewEncoder(w).Encode(map[string]string{"message": "no room for " + strings.Join(c.Env, " ") + "\n::error::\x1b[2J"})
		}
	}))
	t.Cleanup(srv.Close)
	return "tcp://" + strings.TrimPrefix(srv.URL, "http://")
}

// Containers get the secrets, and nobody else does: each is searched for in all that canaryd says.
func TestSecretsAreInNoOutput(t *testing.T) {
	said := &outputs{texts: map[string]*bytes.Buffer{}}
	started := make(chan []string, 100)
	daemon := talkative(t, func(env []string) { started <- env })
	hooks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		said.add("webhook", string(raw))
		if strings.Contains(string(raw), "rolled_back") { // the log has something to complain of
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	t.Cleanup(hooks.Close)
	targets := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(targets.Close)
	t.Setenv("SHOP_KEY", secrets["env"])
	dir, addr := t.TempDir(), rig.FreeAddress()
	for name, text := range map[string]string{
		"canaryd.yml": fmt.Sprintf("policies: [\"*.policy\"]\ndocker: {host: %q, hook_token: {from_file: hook}}\nnotify:\n- {url: {from_file: webhook}, events: [announced, launched, rolled_back, failed]}\n- {url: %q, format: slack}\nhttp_sd_configs: [{url: \"http://me:%s@%s/targets?token=%s\", refresh_interval: 1s}]\n",
			daemon, hooks.URL+"/"+secrets["webhook"], secrets["password"], strings.TrimPrefix(targets.URL, "http://"), secrets["query"]),
		"hook": secrets["hook"], "webhook": hooks.URL + "/" + secrets["webhook"] + "\n", "key": secrets["file"] + "\n",
		"shop.policy": "service: shop\nroute: {testers: {header: x-canary, key: " + secrets["tester"] + "}}\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n" +
			"docker:\n  image: registry.example/shop\n  port: 8080\n  env:\n    # was " + secrets["comment"] + "\n    PASSWORD: " + secrets["literal"] + "\n    KEY: {from_file: key}\n    TOKEN: {from_env: SHOP_KEY}\n    PORT: 8080\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = log // the daemon's log
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() {
		var out bytes.Buffer
		code := execute(ctx, []string{"serve", "--config.file=" + filepath.Join(dir, "canaryd.yml"), "--log.level=debug", "--web.listen-address=" + addr, "--xds.listen-address=127.0.0.1:0",
			"--storage.path=" + filepath.Join(dir, "data")}, strings.NewReader(""), &out, &out)
		said.add("serve", out.String())
		ended <- code
	}()
	run := func(args ...string) string {
		var out bytes.Buffer
		execute(t.Context(), append(args, "--url", "http://"+addr), strings.NewReader(""), &out, &out)
		said.add("canaryd "+strings.Join(args, " "), out.String())
		return out.String()
	}
	until := func(what string, seen func() bool) {
		t.Helper()
		for deadline := time.Now().Add(5 * time.Minute); !seen(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: never\n%s", what, run("history", "shop"))
			}
		}
	}
	until("ready", func() bool { return strings.Contains(run("healthcheck"), "ready") })
	os.Stderr = stderr
	follow(t, said, "http://"+addr+"/api/v1/events")

	run("deploy", "shop", "v2", "--image", "v2")
	env := strings.Join(<-started, "|")
	for _, want := range []string{"PASSWORD=" + secrets["literal"], "KEY=" + secrets["file"] + "|", "TOKEN=" + secrets["env"], "PORT=8080"} {
		if !strings.Contains(env+"|", want) {
			t.Errorf("the container gets %s, without %s", env, want)
		}
	}
	until("it has failed, and that is stored", func() bool { return strings.Contains(run("history", "shop"), "rolled_back") })
	for _, args := range []string{"status", "status shop -o json", "history shop", "history shop -o json", "explain shop v2", "explain shop -o json", "envoys", "envoys shop", "wait shop v2", "deploy shop v2 --image v2"} {
		run(strings.Fields(args)...)
	}
	for _, path := range []string{"/api/v1/services", "/api/v1/services/shop", "/api/v1/services/shop/history", "/api/v1/services/shop/journal", "/api/v1/services/shop/versions/v2/evidence", "/api/v1/envoys", "/metrics", "/debug/pprof/cmdline", "/-/ready"} {
		get(t, said, "GET", "http://"+addr+path, "")
	}
	if out := run("replay", "shop"); !strings.Contains(out, "byte for byte") {
		t.Errorf("a replay without secrets comes out otherwise:\n%s", out)
	}
	if text := said.texts["GET http://"+addr+"/api/v1/services/shop/journal"].String(); !strings.Contains(text, policy.Hidden) || !strings.Contains(text, `"redacted":true`) {
		t.Errorf("the journal does not say that it is redacted: %.2000q", text)
	}
	get(t, said, "POST", "http://"+addr+"/api/v1/hooks/registry", "Bearer wrong")
	if err := os.WriteFile(filepath.Join(dir, "shop.policy"), []byte("service: shop\ndocker: {port: 1, env: {A: ["+secrets["literal"]+"], B: {from_file: a, from_env: b}, C: {x: "+secrets["literal"]+"}}}\nroute: {testers: {header: h, cookie: c, key: \""+secrets["tester"]+" \"}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	get(t, said, "POST", "http://"+addr+"/-/reload", "")
	run("status", "shop")
	until("webhooks", func() bool { said.mu.Lock(); defer said.mu.Unlock(); return said.texts["webhook"] != nil })
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("serve ended with %d: %s", code, said.texts["serve"])
	}
	raw, err := os.ReadFile(log.Name())
	if err != nil {
		t.Fatal(err)
	}
	said.add("log", string(raw))
	for where, text := range said.texts {
		for name, secret := range secrets {
			if strings.Contains(text.String(), secret) {
				t.Errorf("%s shows the secret %s:\n%.600s", where, name, text)
			}
		}
		if strings.HasPrefix(where, "canaryd ") && strings.Contains(text.String(), "\x1b[2J") || strings.Contains(text.String(), "\n::error::") {
			t.Errorf("%s prints what a container says as it is: %q", where, text)
		}
	}
	if h := said.texts["canaryd history shop -o json"].String(); !strings.Contains(h, "PASSWORD: •••") || !strings.Contains(h, "from_env: SHOP_KEY") || !strings.Contains(h, "key: •••") || !strings.Contains(h, "no room for KEY=•••") {
		t.Errorf("the history has\n%s", h)
	}
	if text := said.texts["GET http://"+addr+"/metrics"].String(); !strings.Contains(text, `canaryd_database_info{database="`) {
		t.Errorf("the metrics do not name the database:\n%s", text)
	}
	if text := said.texts["log"]; !strings.Contains(text.String(), "http_sd") || !strings.Contains(text.String(), "rolled_back of shop v2") {
		t.Errorf("the log has\n%s", text)
	}
	if text := said.texts["POST http://"+addr+"/-/reload"]; strings.Count(text.String(), "shop.policy:2:") < 3 {
		t.Errorf("the reload is answered\n%s", text)
	}
}

// What check says against canaryd.yml stands in the logs of CI.
func TestMistakesOfAddressesShowNoPassword(t *testing.T) {
	for _, text := range []string{
		"metrics: {prometheus: {url: \"me:hunter2@prom:9090\"}}", "metrics: {prometheus: {url: \"http://me:hunter2%@prom:9090\"}}",
		"metrics: {prometheus: {proxy_url: \"http://me:hunter2%@proxy:3128\"}}", "metrics: {prometheus: {proxy_url: \"http://me:%zz hunter2/@proxy:3128\"}}",
		"metrics: {prometheus: {basic_auth: hunter2}}", "metrics: {prometheus: {basic_auth: {username: a, password: *hunter2}}}", "metrics: {prometheus: {authorization: {credentials: [hunter2]}}}",
		"docker: {hook_token: *hunter2}", "docker: {hook_token: {hunter2}}", "notify: [{url: {hunter2: x}}]",
		"http_sd_configs: [{url: \"http://me:hunter2%@x/\"}]", "notify: [{url: \"http://me:hunter2%@x/\", proxy_url: \"http://me:hunter2%@proxy:3128\"}]",
	} {
		_, fs := parseServerConfig("canaryd.yml", []byte(text+"\n"))
		if said := fs.Error(); len(fs.Errors()) == 0 || strings.Contains(said, "hunter2") {
			t.Errorf("%s: %s", text, said)
		}
	}
}

func get(t *testing.T, said *outputs, method, url, authorization string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", authorization)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	said.add(method+" "+url, fmt.Sprintln(resp.Status, resp.Header)+string(raw))
}

// follow keeps the events until the daemon ends.
func follow(t *testing.T, said *outputs, url string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	go func() {
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			said.add("events", lines.Text()+"\n")
		}
	}()
}

// Policies that are printed may stand in the log of a job.
func TestPrintedPoliciesHaveNoSecrets(t *testing.T) {
	text := "service: shop\nroute: {testers: {header: x, key: hunter2}}\ndocker: {port: 1, image: a, env: {A: hunter2, B: {from_env: B}}}\n"
	if code, out, errOut := runCLI(t, text, "check", "--print", "-"); code != exitOK || strings.Contains(out+errOut, "hunter2") || !strings.Contains(out, "from_env: B") || !strings.Contains(out, "A: •••") {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
}
