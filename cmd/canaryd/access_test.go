package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/crypto/bcrypt"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/rig"
)

// issuer signs identity tokens as GitHub and GitLab do: it says where its keys are, and has several.
type issuer struct {
	*httptest.Server
	t    *testing.T
	keys []jose.JSONWebKey
}

func newIssuer(t *testing.T) *issuer {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	is := &issuer{t: t, keys: []jose.JSONWebKey{{Key: rsaKey, KeyID: "first", Algorithm: "RS256", Use: "sig"}, {Key: ecKey, KeyID: "second", Algorithm: "ES256", Use: "sig"}}}
	mux := http.NewServeMux()
	is.Server = httptest.NewServer(mux)
	t.Cleanup(is.Close)
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": is.URL, "jwks_uri": is.URL + "/keys", "authorization_endpoint": is.URL, "token_endpoint": is.URL,
			"id_token_signing_alg_values_supported": []string{"RS256", "ES256"}, "response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"}})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		var set jose.JSONWebKeySet
		for _, k := range is.keys {
			set.Keys = append(set.Keys, k.Public())
		}
		_ = json.NewEncoder(w).Encode(set)
	})
	// What GitHub gives its jobs.
	mux.HandleFunc("GET /job", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer of-the-job" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"value": is.token(0, map[string]any{"aud": r.URL.Query().Get("audience")})})
	})
	return is
}

// token is one of a job of acme/shop on main, but for what is said otherwise.
func (is *issuer) token(key int, but map[string]any) string {
	is.t.Helper()
	return sign(is.t, is.keys[key], is.URL, but)
}

func sign(t *testing.T, key jose.JSONWebKey, issuer string, but map[string]any) string {
	t.Helper()
	claims := map[string]any{"iss": issuer, "sub": "repo:acme/shop:ref:refs/heads/main", "aud": "canaryd", "repository": "acme/shop", "ref": "refs/heads/main", "ref_protected": true,
		"iat": time.Now().Unix(), "exp": time.Now().Add(5 * time.Minute).Unix()}
	for k, v := range but {
		claims[k] = v
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// unsigned is a token that says that it needs no signature.
func unsigned(token string) string {
	parts := strings.Split(token, ".")
	return "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + parts[1] + "."
}

// fort is a daemon with TLS, users, tokens, a hook and an issuer.
type fort struct {
	t           *testing.T
	dir, addr   string
	ca          string
	token       string // of ci
	is          *issuer
	log         *paper
	rulesBefore string
}

const rules = `web:
  tokens_file: tokens.yml
  access:
    - {user: alice, role: operate}
    - {user: root, role: admin}
    - {token: ci, role: deploy, services: ["shop*"]}
    - {oidc: "ISSUER", audience: canaryd, claims: {repository: acme/shop, ref: refs/heads/*, ref_protected: "true"}, role: deploy, services: [shop]}
`

func newFort(t *testing.T) *fort {
	f := &fort{t: t, dir: t.TempDir(), addr: rig.FreeAddress(), is: newIssuer(t), log: &paper{}}
	f.ca = f.certificate()
	hash := func(password string) string {
		h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		return string(h)
	}
	code, out, errOut := runCLI(t, "", "token", "ci")
	token, line, _ := strings.Cut(strings.TrimSpace(out), "\n")
	if code != exitOK || !strings.HasPrefix(token, "canaryd_") || !strings.HasPrefix(line, "ci: sha256:") || strings.Contains(line, token) || strings.Contains(errOut, token) {
		t.Fatalf("canaryd token: %d\n%s%s", code, out, errOut)
	}
	f.token, f.rulesBefore = token, "policies: [shop.yml]\ndocker: {hook_token: of-the-registry}\n"+strings.Replace(rules, "ISSUER", f.is.URL, 1)
	f.write("tokens.yml", line+"\n")
	f.write("canaryd.yml", f.rulesBefore)
	f.write("shop.yml", "service: shop\nramp: {steps: [10%, 100%]}\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n")
	f.write("web.yml", fmt.Sprintf("tls_server_config: {cert_file: cert.pem, key_file: key.pem, min_version: TLS12, cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]}\n"+
		"http_server_config: {headers: {X-Frame-Options: deny}}\nbasic_auth_users: {alice: %s, root: %s, idle: %s}\n", hash("wonder"), hash("toor"), hash("idle")))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	go func() {
		ended <- execute(ctx, []string{"serve", "--config.file=" + f.at("canaryd.yml"), "--web.config.file=" + f.at("web.yml"), "--web.listen-address=" + f.addr,
			"--xds.listen-address=127.0.0.1:0", "--storage.path=" + f.at("data"), "--log.level=error"}, strings.NewReader(""), f.log, f.log)
	}()
	t.Cleanup(func() {
		cancel()
		if code := <-ended; code != exitOK {
			t.Errorf("the daemon ended with %d: %s", code, f.log)
		}
	})
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if code, _ := f.say("", "healthcheck"); code == exitOK {
			return f
		}
	}
	t.Fatalf("the daemon does not answer: %s", f.log)
	return nil
}

func (f *fort) at(name string) string { return filepath.Join(f.dir, name) }

func (f *fort) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(f.at(name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// certificate writes one for 127.0.0.1, and returns the file of its authority: itself.
func (f *fort) certificate() string {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	pair := s.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	f.write("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})))
	return f.at("cert.pem")
}

// say runs a command of the client's with a credential.
func (f *fort) say(token string, args ...string) (int, string) {
	f.t.Helper()
	f.t.Setenv("CANARYD_TOKEN", token)
	var out bytes.Buffer
	code := execute(f.t.Context(), append(args, "--url", "https://"+f.addr, "--ca-file", f.ca), strings.NewReader(""), &out, &out)
	return code, out.String()
}

// post sends a request of which only the Authorization header matters.
func (f *fort) post(path, authorization, body string) (int, string) {
	f.t.Helper()
	client, err := trusting(f.ca)
	if err != nil {
		f.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, "https://"+f.addr+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := client.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.Header.Get("X-Frame-Options") != "deny" {
		f.t.Errorf("%v, headers %v", err, resp.Header)
	}
	return resp.StatusCode, string(raw)
}

// Passwords, tokens, identity tokens and the hook's token side by side, on one daemon with TLS.
func TestUsersTokensAndJobsSideBySide(t *testing.T) {
	f := newFort(t)
	stranger := newIssuer(t)
	for _, c := range []struct {
		name, token, args string
		code              int
		says              string
	}{
		{"nobody", "", "status", exitError, "canaryd wants to know who you are: send a user and a password, or a bearer token (the command line: CANARYD_TOKEN)"},
		{"a password", "alice:wonder", "status", exitOK, "shop"},
		{"a wrong password", "alice:land", "status", exitError, "the user or the password is wrong"},
		{"an unknown user", "bob:wonder", "status", exitError, "the user or the password is wrong"},
		{"a user without a rule", "idle:idle", "status", exitError, "idle has no role; GET /api/v1/services takes the role view in any service"},
		{"a token", f.token, "status", exitOK, "shop"},
		{"a wrong token", f.token + "X", "status", exitError, "the bearer token is not known here"},
		{"a deploy", f.token, "deploy shop v2 --endpoint 127.0.0.1:2", exitOK, "shop v2"},
		{"more than its role", f.token, "promote shop v2", exitError, "ci has the role deploy in shop*; POST /api/v1/services/shop/versions/v2/promote takes the role operate in shop (web.access in canaryd.yml)"},
		{"a job", f.is.token(0, nil), "deploy shop v3 --endpoint 127.0.0.1:3", exitOK, "shop v3"},
		{"another key, several audiences", f.is.token(1, map[string]any{"aud": []string{"other", "canaryd"}}), "abort shop v3", exitOK, "v3"},
		{"more than the job's role", f.is.token(0, nil), "resume shop v2", exitError, "/resume takes the role operate"},
		{"an expired job", f.is.token(0, map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}), "status", exitError, "the identity token expired at"},
		{"for somebody else", f.is.token(0, map[string]any{"aud": "vault"}), "status", exitError, `the identity token is for the audience "vault"`},
		{"a fork", f.is.token(0, map[string]any{"repository": "evil/shop"}), "status", exitError, "has no role"},
		{"another branch", f.is.token(0, map[string]any{"ref": "refs/pull/7/merge"}), "status", exitError, "has no role"},
		{"a glob stops at a slash", f.is.token(0, map[string]any{"ref": "refs/heads/a/b"}), "status", exitError, "has no role"},
		{"an unprotected branch", f.is.token(0, map[string]any{"ref_protected": false}), "status", exitError, "has no role"},
		{"a claim that is missing", f.is.token(0, map[string]any{"ref": nil}), "status", exitError, "has no role"},
		{"another issuer", stranger.token(0, nil), "status", exitError, "is of an issuer that no rule of web.access names"},
		{"another one's key", sign(t, stranger.keys[0], f.is.URL, nil), "status", exitError, "the identity token is not valid"},
		{"the public key as a secret", sign(t, jose.JSONWebKey{Key: []byte(strings.Repeat("k", 64)), KeyID: "first", Algorithm: "HS256"}, f.is.URL, nil), "status", exitError, "the bearer token is not known here"},
		{"no signature", unsigned(f.is.token(0, nil)), "status", exitError, "the bearer token is not known here"},
		{"not yet", f.is.token(0, map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}), "status", exitError, "the identity token is not valid"},
		{"the hook's token", "of-the-registry", "status", exitError, "the bearer token is not known here"},
	} {
		if code, out := f.say(c.token, strings.Fields(c.args)...); code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%s: exit %d\n%s", c.name, code, out)
		}
	}
	for authorization, want := range map[string]int{"": 401, "Bearer of-the-registry": 200, "Bearer " + f.token: 401, "Basic cm9vdDp0b29y": 401} {
		if status, text := f.post("/api/v1/hooks/registry", authorization, `{"events": []}`); status != want {
			t.Errorf("the hook with %q: %d %s", authorization, status, text)
		}
	}
	if status, text := f.post("/api/v1/services/shop/abort", "Digest x", ""); status != 401 || !strings.Contains(text, "neither Basic nor Bearer") {
		t.Errorf("%d %s", status, text)
	}
	if _, out := f.say("alice:wonder", "history", "shop", "-o", "json"); !strings.Contains(out, `"by": "ci (`) || !strings.Contains(out, `"by": "repo:acme/shop:ref:refs/heads/main at 127.0.0.1:`) {
		t.Errorf("who did it:\n%s", out)
	}
	f.t.Setenv("CANARYD_AUDIENCE", "canaryd")
	f.t.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f.is.URL+"/job?api-version=2")
	for bearer, want := range map[string]string{"of-the-job": "shop", "stale": "has the job `permissions: {id-token: write}`?"} {
		f.t.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", bearer)
		if _, out := f.say("", "status"); !strings.Contains(out, want) {
			t.Errorf("in a job of GitHub's: %s", out)
		}
	}
}

// What the files say is read again on reload, and what is wrong in them leaves in force what was.
func TestAccessIsReloaded(t *testing.T) {
	f := newFort(t)
	reload := func(status int, says string) {
		t.Helper()
		if got, text := f.post("/-/reload", "Basic cm9vdDp0b29y", ""); got != status || !strings.Contains(text, says) {
			t.Errorf("reload: %d %s", got, text)
		}
	}
	can := func(token string, want int) {
		t.Helper()
		if code, out := f.say(token, "status"); code != want {
			t.Errorf("exit %d: %s", code, out)
		}
	}
	successful := func(want string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+f.addr+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("root", "toor")
		client, err := trusting(f.ca)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if raw, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(raw), "canaryd_config_last_reload_successful "+want+"\n") {
			t.Errorf("%v: the last reload is not %s", err, want)
		}
	}
	line, err := os.ReadFile(f.at("tokens.yml"))
	if err != nil {
		t.Fatal(err)
	}
	can(f.token, exitOK)
	f.write("tokens.yml", "ci: "+f.token+"\n")
	reload(422, "tokens.yml:1:5: this is not the hash of a token: `canaryd token NAME` prints the line")
	can(f.token, exitOK)
	if err := os.Remove(f.at("tokens.yml")); err != nil {
		t.Fatal(err)
	}
	reload(422, "web.tokens_file: open ")
	can(f.token, exitOK)
	successful("0") // SIGHUP tells nobody: a token that was to be taken away is still in force
	_, out, _ := runCLI(t, "", "token", "ci", "-o", "json")
	var young struct{ Token, Line string }
	if err := json.Unmarshal([]byte(out), &young); err != nil {
		t.Fatal(err)
	}
	hash := func(line string) string { return strings.TrimSpace(strings.TrimPrefix(line, "ci: ")) }
	f.write("tokens.yml", "ci: ["+hash(string(line))+", "+hash(young.Line)+"]\n") // both, while it is replaced
	reload(200, "reloaded")
	can(f.token, exitOK)
	can(young.Token, exitOK)
	f.write("tokens.yml", young.Line+"\n")
	reload(200, "reloaded")
	can(f.token, exitError)
	can(young.Token, exitOK)
	successful("1")
	f.write("canaryd.yml", strings.Replace(f.rulesBefore, "role: deploy, services: [\"shop*\"]", "role: deploy, services: [\"pay*\"]", 1))
	reload(200, "reloaded")
	if _, out := f.say(young.Token, "deploy", "shop", "v2", "--endpoint", "127.0.0.1:2"); !strings.Contains(out, "ci has the role deploy in pay*") {
		t.Error(out)
	}
	f.write("canaryd.yml", strings.Replace(f.rulesBefore, "role: admin", "role: emperor", 1))
	reload(422, `is not a role: write one of view, deploy, operate, admin`)
	can("root:toor", exitOK)
}

// A file that was cut off while it was written is valid, and says that nobody is asked: a reload opens nothing.
func TestAReloadDoesNotOpenWhatWasClosed(t *testing.T) {
	f := newFort(t)
	f.write("canaryd.yml", "")
	web, err := os.ReadFile(f.at("web.yml"))
	if err != nil {
		t.Fatal(err)
	}
	f.write("web.yml", strings.Split(string(web), "basic_auth_users")[0])
	if status, text := f.post("/-/reload", "Basic cm9vdDp0b29y", ""); status == 200 || !strings.Contains(text, "neither web.access nor users are left") {
		t.Errorf("reload: %d %s", status, text)
	}
	for token, want := range map[string]int{"": exitError, f.token: exitOK, "alice:wonder": exitOK} {
		if code, out := f.say(token, "status"); code != want {
			t.Errorf("%q: exit %d: %s", token, code, out)
		}
	}
}

// Without rules and users anybody may do everything, also where only a look was meant.
func TestAnonymousTakesRules(t *testing.T) {
	c := defaultServerConfig()
	c.Web.Anonymous = anonymous(access.View)
	if _, err := c.accessConfig(""); err == nil || !strings.Contains(err.Error(), "anybody may do everything") {
		t.Error(err)
	}
	c.Web.Access = []access.Rule{{User: "alice", Role: access.Admin}}
	if _, err := c.accessConfig(""); err != nil {
		t.Error(err)
	}
}

// Where TLS and plain text, or two authorities, meet, the client says what to write.
func TestWhyNobodyIsReached(t *testing.T) {
	f := newFort(t)
	plain := startDaemon(t, "policies: [shop.yml]\n")
	f.write("empty.pem", "nothing\n")
	for _, c := range []struct{ args, says string }{
		{"status --url http://" + f.addr, "Try: write https:// in --url or CANARYD_URL"},
		{"status --url https://" + plain, "Try: write http:// in --url or CANARYD_URL"},
		{"status --url https://" + f.addr, "Try: set --ca-file or CANARYD_CA_FILE"},
		{"status --url https://" + strings.Replace(f.addr, "127.0.0.1", "localhost", 1) + " --ca-file " + f.ca, "Try: write in --url or CANARYD_URL a name that the daemon's certificate has"},
		{"status --url https://" + f.addr + " --ca-file " + f.at("none.pem"), "--ca-file: open"},
		{"status --url https://" + f.addr + " --ca-file " + f.at("empty.pem"), "no certificate in PEM format"},
		{"wait shop v1 --url https://" + f.addr, "Try: set --ca-file"},
	} {
		if code, _, errOut := runCLI(t, "", strings.Fields(c.args)...); code != exitError || !strings.Contains(errOut, c.says) {
			t.Errorf("canaryd %s: exit %d\n%s", c.args, code, errOut)
		}
	}
}

// The image's HEALTHCHECK knows neither whether there is TLS, nor the certificate's authority; and it shows no token to who has none.
func TestTheHealthcheckFindsOutAboutTLS(t *testing.T) {
	f := newFort(t)
	for _, url := range []string{"http://" + f.addr, "https://" + f.addr} {
		if code, out, errOut := runCLI(t, "", "healthcheck", "--url", url); code != exitOK || out != "ready\n" {
			t.Errorf("%s: exit %d: %s%s", url, code, out, errOut)
		}
	}
	t.Setenv("CANARYD_TOKEN", f.token)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("it shows its token")
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer s.Close()
	if code, _, errOut := runCLI(t, "", "healthcheck", "--url", s.URL); code != exitError || !strings.Contains(errOut, "the daemon is not ready: 503 Service Unavailable") {
		t.Errorf("exit %d: %s", code, errOut)
	}
}

func TestAccessRulesAreChecked(t *testing.T) {
	for access, want := range map[string]string{
		`[{user: a, role: view}]`:                  "",
		`[{user: a, token: b, role: view}]`:        "web.access[0]: name one of user, token and oidc",
		`[{user: a}]`:                              "role is missing: write one of view, deploy, operate, admin",
		`[{user: a, role: god}]`:                   `"god" is not a role`,
		`[{user: a, role: view, claims: {a: b}}]`:  "audience and claims belong to oidc",
		`[{user: a, role: view, services: ["["]}]`: `services: "[" is not a valid glob`,
		`[{user: a, role: view, servces: [a]}]`:    `unknown key "servces"`,
		`[{token: a, role: view}]`:                 "set web.tokens_file",
		`[{oidc: "http://issuer.example", audience: a, claims: {a: b}, role: view}]`:          "is not the https address of an issuer",
		`[{oidc: "https://issuer.example", claims: {a: b}, role: view}]`:                      "audience is missing",
		`[{oidc: "https://issuer.example", audience: a, role: view}]`:                         "claims are missing: without them every job of this issuer",
		`[{oidc: "https://issuer.example", audience: a, claims: {sub: "*"}, role: view}]`:     "is not a glob that keeps anybody out",
		`[{oidc: "https://issuer.example", audience: a, claims: {sub: "a/*"}, role: deploy}]`: "",
	} {
		_, fs := parseServerConfig("canaryd.yml", []byte("web: {access: "+access+"}\n"))
		if err := fs.Errors(); (len(err) == 0) != (want == "") || len(err) > 0 && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", access, err)
		}
	}
	for text, want := range map[string]string{"anonymous: view": "", "anonymous: none": "", "anonymous: deploy": "write none or view", "tokens_file: t.yml": "web.access is empty"} {
		_, fs := parseServerConfig("canaryd.yml", []byte("web: {"+text+"}\n"))
		if err := fs.Errors(); (len(err) == 0) != (want == "") || len(err) > 0 && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A job's token may be good although nobody can say so now: it comes again, and is not told that it is wrong.
func TestAnIssuerThatIsAwayRefusesNoJob(t *testing.T) {
	f := newFort(t)
	token := f.is.token(0, nil)
	f.is.Close()
	status, text := f.post("/api/v1/services/shop/pause", "Bearer "+token, "")
	if status != http.StatusServiceUnavailable || !strings.Contains(text, "does not say how its tokens are verified") {
		t.Errorf("%d %s", status, text)
	}
}
