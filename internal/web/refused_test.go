package web

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/canaryd/canaryd/internal/access"
)

var update = flag.Bool("update", false, "rewrite docs/refused.md")

// showRefused compares a part of docs/refused.md with what was answered.
func showRefused(t *testing.T, part, table string) {
	t.Helper()
	const file = "../../docs/refused.md"
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+part+" -->\n\n", "\n<!-- end of "+part+" -->"
	before, rest, found := strings.Cut(string(raw), begin)
	shown, after, closed := strings.Cut(rest, end)
	switch {
	case !found || !closed:
		t.Errorf("%s has no part %s", file, part)
	case shown == table:
	case *update:
		if err := os.WriteFile(file, []byte(before+begin+table+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s shows something else (go test ./internal/web -update writes it anew):\n%s", file, table)
	}
}

// tableOfCalls has a row for each call and a column for each of callers.
func tableOfCalls(answers map[string]map[string]int) string {
	columns := []string{"nobody", "wrong", "idle", "other", "view", "deploy", "operate", "admin", "viewall", "operateall", "adminall"}
	var b strings.Builder
	b.WriteString("| call | no credentials | wrong token | no rule | admin in pay* | view in shop* | deploy in shop* | operate in shop* | admin in shop* | view | operate | admin |\n" +
		"| --- |" + strings.Repeat(" --- |", len(columns)) + "\n")
	for _, call := range slices.Sorted(maps.Keys(answers)) {
		if call == "POST /hooks/registry" { // none of these opens it
			continue
		}
		fmt.Fprintf(&b, "| `%s` |", call)
		for _, name := range columns {
			if status := answers[call][name]; status == http.StatusUnauthorized || status == http.StatusForbidden {
				fmt.Fprintf(&b, " %d |", status)
			} else {
				b.WriteString(" done |")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// What else is tried at the door, and in which words it is refused.
func TestWhatIsRefusedInWhichWords(t *testing.T) {
	config, tokens := callers(t)
	config.Rules = append(config.Rules, access.Rule{OIDC: "https://gitlab.example.com", Audience: "canaryd", Claims: map[string]string{"project_path": "acme/shop"}, Role: access.Deploy})
	away := &http.Client{Transport: answering(http.StatusBadGateway)}
	s := newSiteWith(t, Options{Access: access.NewKeeper(config, away), HookToken: func() string { return "of-the-registry" }}, stableShop)
	own := s.Listener.Addr().String()
	promote, deploy := "POST /api/v1/services/shop/versions/v1/promote", "PUT /api/v1/services/shop/versions/v2"
	bearer := func(name string) string { return "Authorization: Bearer " + tokens[name] }
	var b strings.Builder
	b.WriteString("| attempt | answer | in these words |\n| --- | --- | --- |\n")
	for _, c := range []struct{ attempt, request, host, headers, body string }{
		{"no credentials", promote, own, "", ""},
		{"a wrong token", promote, own, "Authorization: Bearer canaryd_WRONG", ""},
		{"an identity token of an issuer that does not answer", deploy, own, "Authorization: Bearer " + identityToken("https://gitlab.example.com"), ""},
		{"an identity token of another issuer", deploy, own, "Authorization: Bearer " + identityToken("https://evil.example"), ""},
		{"a wrong password", promote, own, "Authorization: Basic YWxpY2U6eA==", ""},
		{"neither Basic nor Bearer", promote, own, "Authorization: Digest x", ""},
		{"a role that is too small", promote, own, bearer("deploy"), ""},
		{"another service", promote, own, bearer("other"), ""},
		{"what concerns all services", "POST /-/reload", own, bearer("admin"), ""},
		{"other endpoints for a stable version, with a deploy token", "PUT /api/v1/services/shop/versions/v1", own, bearer("deploy"), `{"endpoints": ["127.0.0.1:9"]}`},
		{"a page of another site", promote, own, bearer("operate") + "\r\nSec-Fetch-Site: cross-site\r\nOrigin: https://evil.example", ""},
		{"DNS rebinding", "GET /api/v1/services", "rebound.evil.example", bearer("view"), ""},
		{"a forged notification of a registry", "POST /api/v1/hooks/registry", own, "Authorization: Bearer guess", `{"events": []}`},
		{"an admin's token at the registry's door", "POST /api/v1/hooks/registry", own, bearer("adminall"), `{"events": []}`},
		{"the registry's token elsewhere", deploy, own, "Authorization: Bearer of-the-registry", `{}`},
		{"a misspelt key", deploy, own, bearer("deploy"), `{"pause": true}`},
		{"a misspelt parameter", deploy + "?agian=true", own, bearer("deploy"), `{"endpoints": ["127.0.0.1:9"]}`},
		{"a version where none is read", "POST /api/v1/services/shop/abort", own, bearer("operate"), `{"version": "v2"}`},
		{"a body without an end", deploy, own, bearer("deploy"), strings.Repeat(" ", maxBody+1)},
	} {
		resp := s.ask(c.request+" HTTP/1.1", "Host: "+c.host, fmt.Sprintf("Content-Length: %d", len(c.body)), c.headers+"\r\n\r\n"+c.body)
		text := body(t, resp)
		var p Problem
		if err := json.Unmarshal([]byte(text), &p); err != nil || p.Status != resp.StatusCode || p.Status < 400 {
			t.Errorf("%s: %d %s", c.attempt, resp.StatusCode, text)
		}
		fmt.Fprintf(&b, "| %s | %d | %s |\n", c.attempt, p.Status, strings.NewReplacer(own, "127.0.0.1:8080", "|", "\\|", "*", "\\*", "<", "&lt;").Replace(p.Detail))
	}
	showRefused(t, "words", b.String())
}

// answering is a network in which everybody answers with a status.
type answering int

func (a answering) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: int(a), Body: http.NoBody}, nil
}

// identityToken looks like one, and nobody has signed it.
func identityToken(issuer string) string {
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	return part(`{"alg":"RS256"}`) + "." + part(`{"iss":"`+issuer+`"}`) + "." + part("x")
}
