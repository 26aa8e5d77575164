package web

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/canaryd/canaryd/internal/access"
)

// What each call takes. A path of openapi.json that is not here fails the test, and so does one that docs/access.md
// does not list.
var takes = map[string]struct {
	role access.Role
	all  bool // in all services
}{
	"GET /services":                                       {role: access.View},
	"GET /services/{service}":                             {role: access.View},
	"GET /services/{service}/history":                     {role: access.View},
	"GET /services/{service}/classes":                     {role: access.View},
	"GET /services/{service}/versions/{version}/evidence": {role: access.View},
	"GET /services/{service}/journal":                     {role: access.Operate},
	"GET /events":                                         {role: access.View},
	"GET /envoys":                                         {role: access.View},
	"GET /openapi.json":                                   {role: access.View},
	"PUT /services/{service}/versions/{version}":          {role: access.Deploy},
	"POST /services/{service}/versions/{version}/abort":   {role: access.Deploy},
	"POST /services/{service}/versions/{version}/pause":   {role: access.Deploy},
	"POST /services/{service}/versions/{version}/promote": {role: access.Operate},
	"POST /services/{service}/versions/{version}/resume":  {role: access.Operate},
	"POST /services/{service}/abort":                      {role: access.Deploy},
	"POST /services/{service}/pause":                      {role: access.Deploy},
	"POST /services/{service}/promote":                    {role: access.Operate},
	"POST /services/{service}/resume":                     {role: access.Operate},
	"DELETE /services/{service}":                          {role: access.Operate},
	"DELETE /envoys/{node}":                               {access.Operate, true},
	"GET /metrics":                                        {access.View, true},
	"POST /-/reload":                                      {access.Admin, true},
	"PUT /-/reload":                                       {access.Admin, true},
	"GET /debug/pprof/":                                   {access.Admin, true},
	"GET /debug/pprof/cmdline":                            {access.Admin, true},
	"GET /debug/pprof/profile":                            {access.Admin, true},
	"GET /debug/pprof/symbol":                             {access.Admin, true},
	"GET /debug/pprof/trace":                              {access.Admin, true},
	"GET /-/healthy":                                      {role: access.None},
	"GET /-/ready":                                        {role: access.None},
	"POST /hooks/registry":                                {role: access.None}, // a token of its own
}

// everyCall are the calls of the document and of the table of handlers, a command for each of its verbs.
func everyCall(t *testing.T) []string {
	found := map[string]bool{}
	add := func(call string) {
		if !strings.Contains(call, "{verb}") {
			found[call] = true
			return
		}
		for verb := range verbs {
			found[strings.Replace(call, "{verb}", verb, 1)] = true
		}
	}
	for path, methods := range readDocument(t).Paths {
		for method := range methods {
			add(strings.ToUpper(method) + " " + path)
		}
	}
	a := &api{Options: Options{Registry: prometheus.NewRegistry()}}
	for _, c := range a.calls() {
		method, path, ok := strings.Cut(c.pattern, " ")
		if !ok {
			method, path = "GET", c.pattern
		}
		add(method + " " + strings.TrimPrefix(path, "/api/v1"))
	}
	return slices.Sorted(maps.Keys(found))
}

// callers are one of each role, in the services shop*; one who may everything in pay*; one in all services.
func callers(t *testing.T) (config access.Config, tokens map[string]string) {
	tokens = map[string]string{"wrong": "canaryd_WRONG", "nobody": ""}
	var file strings.Builder
	for name, rule := range map[string]access.Rule{
		"view": {Role: access.View, Services: []string{"shop*"}}, "deploy": {Role: access.Deploy, Services: []string{"shop*"}},
		"operate": {Role: access.Operate, Services: []string{"shop*"}}, "admin": {Role: access.Admin, Services: []string{"shop*"}},
		"other": {Role: access.Admin, Services: []string{"pay*"}}, "viewall": {Role: access.View}, "operateall": {Role: access.Operate}, "adminall": {Role: access.Admin, Services: []string{"*"}},
	} {
		token, line, err := access.NewToken(name)
		if err != nil {
			t.Fatal(err)
		}
		rule.Token, tokens[name] = name, token
		config.Rules = append(config.Rules, rule)
		fmt.Fprintln(&file, line)
	}
	token, line, err := access.NewToken("idle") // known, and without a rule
	if err != nil {
		t.Fatal(err)
	}
	tokens["idle"] = token
	if config.Tokens, err = access.ReadTokens("tokens.yml", []byte(file.String()+line+"\n")); err != nil {
		t.Fatal(err)
	}
	return config, tokens
}

func (s *site) as(token, method, path, sends string) (int, string, http.Header) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, strings.NewReader(sends))
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return resp.StatusCode, "", resp.Header
	}
	return resp.StatusCode, body(s.t, resp), resp.Header
}

// roleOf is what a caller of callers has where the calls go: in the service shopless, and in all services.
func roleOf(name string) (inShop, inAll access.Role) {
	switch name {
	case "view":
		return access.View, access.None
	case "deploy":
		return access.Deploy, access.None
	case "operate":
		return access.Operate, access.None
	case "admin":
		return access.Admin, access.None
	case "viewall":
		return access.View, access.View
	case "operateall":
		return access.Operate, access.Operate
	case "adminall":
		return access.Admin, access.Admin
	}
	return access.None, access.None
}

// Each role against each call: who may is answered (with 404: there is no such service), who may not is told in words
// what it takes, and nothing happens.
func TestWhoMayDoWhat(t *testing.T) {
	config, tokens := callers(t)
	s := newSiteWith(t, Options{Access: access.NewKeeper(config, nil)}, "service: pay\n")
	docs, err := os.ReadFile("../../docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	refused, answers := 0, map[string]map[string]int{}
	for _, call := range everyCall(t) {
		want, listed := takes[call]
		if !listed {
			t.Errorf("%s: nobody has said here who may", call)
			continue
		}
		in := ""
		if want.all {
			in = " in all services"
		}
		if row := fmt.Sprintf("| `%s` | %s%s |", call, want.role, in); want.role > access.None && !strings.Contains(string(docs), row) {
			t.Errorf("docs/access.md lacks the row\n%s", row)
		}
		method, path, _ := strings.Cut(call, " ")
		path = strings.NewReplacer("{service}", "shopless", "{version}", "v1", "{node}", "edge-1").Replace(path)
		if strings.HasPrefix(path, "/debug/pprof/profile") || strings.HasPrefix(path, "/debug/pprof/trace") {
			path += "?seconds=1"
		}
		if !strings.HasPrefix(path, "/-/") && !strings.HasPrefix(path, "/debug/") && path != "/metrics" {
			path = "/api/v1" + path
		}
		for name, token := range tokens {
			inShop, inAll := roleOf(name)
			has := inShop
			if want.all {
				has = inAll
			}
			if name == "other" && !want.all && !strings.Contains(call, "{service}") {
				has = want.role // sees its own there, and nothing else
			}
			status, text, header := s.as(token, method, path, "")
			if answers[call] == nil {
				answers[call] = map[string]int{}
			}
			answers[call][name] = status
			may := status != http.StatusUnauthorized && status != http.StatusForbidden
			if want.role == access.None {
				if call == "POST /hooks/registry" { // no token of this kind opens it
					may = !may
				}
				if !may {
					t.Errorf("%s of %s: %d %s", call, name, status, text)
				}
				continue
			}
			if may != (has >= want.role) {
				t.Errorf("%s of %s, who has %s: %d %s", call, name, has, status, text)
			}
			if may {
				continue
			}
			refused++
			unknown := name == "wrong" || name == "nobody"
			if (status == http.StatusUnauthorized) != unknown || unknown != (len(header.Values("WWW-Authenticate")) == 2) {
				t.Errorf("%s of %s: %d %v", call, name, status, header)
			}
			var p Problem
			if err := json.Unmarshal([]byte(text), &p); err != nil || p.Status != status || !unknown && !strings.Contains(p.Detail, name+" has ") || !unknown && !strings.Contains(p.Detail, "takes the role "+want.role.String()) {
				t.Errorf("%s of %s: %s", call, name, text)
			}
		}
	}
	if refused < 100 {
		t.Errorf("%d attempts were refused", refused)
	}
	showRefused(t, "calls", tableOfCalls(answers))
}

// A deploy token touches versions under test only; the history says who it was.
func TestWhatADeployTokenMayTouch(t *testing.T) {
	config, tokens := callers(t)
	s := newSiteWith(t, Options{Access: access.NewKeeper(config, nil)}, "service: shop\nramp: {steps: [10%, 100%]}\n", "service: pay\n")
	ci, op, v := tokens["deploy"], tokens["operate"], "/api/v1/services/shop/versions/"
	where := `{"endpoints": ["` + s.endpoint + `"]}`
	for _, c := range []struct {
		token, method, path, body string
		status                    int
		says                      string
	}{
		{ci, "PUT", v + "v1", where, 201, `"phase":"stable"`},
		{ci, "PUT", v + "v1", where, 200, ""},
		{ci, "PUT", v + "v1", `{"endpoints": ["127.0.0.1:1"]}`, 403, "other endpoints would get its users without any test, which takes the role operate"},
		{ci, "POST", v + "v1/abort", "", 403, "version v1 is stable, and not under test: abort of it takes the role operate"},
		{ci, "PUT", v + "v2", where, 201, ""},
		{ci, "PUT", v + "v2", `{"endpoints": ["127.0.0.1:1"]}`, 200, "127.0.0.1:1"},
		{ci, "POST", v + "v2/promote", "", 403, "deploy has the role deploy in shop*; POST /api/v1/services/shop/versions/v2/promote takes the role operate in shop"},
		{ci, "POST", v + "v2/abort", "", 200, "aborted"},
		{ci, "POST", v + "v2/abort", "", 403, "version v2 is aborted, and not under test"},
		{ci, "PUT", v + "v3", where, 201, ""},
		{ci, "POST", "/api/v1/services/shop/abort", "", 200, "aborted"},
		{ci, "PUT", v + "v4", where, 201, ""},
		{op, "POST", v + "v4/promote", "", 200, "promoted by hand"},
		{op, "PUT", v + "v4", `{"endpoints": ["127.0.0.1:1"]}`, 200, "127.0.0.1:1"},
		{op, "POST", v + "v4/abort", "", 200, "aborted"},
		{tokens["view"], "GET", "/api/v1/services", "", 200, `"service":"shop"`},
		{tokens["other"], "GET", "/api/v1/envoys?service=shop", "", 403, "to see the Envoys of shop takes the role view there"},
		{tokens["idle"], "GET", "/api/v1/services", "", 403, "idle has no role"},
	} {
		if status, text, _ := s.as(c.token, c.method, c.path, c.body); status != c.status || !strings.Contains(text, c.says) {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, text)
		}
	}
	if _, text, _ := s.as(tokens["other"], "GET", "/api/v1/services", ""); strings.Contains(text, "shop") || !strings.Contains(text, "pay") {
		t.Errorf("who may see pay sees %s", text)
	}
	_, text, _ := s.as(tokens["view"], "GET", "/api/v1/services/shop/history", "")
	var doc struct {
		History []struct{ Event, Version, By string }
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	for _, e := range doc.History {
		said[e.Event+" "+e.Version] = e.By
	}
	if said["announced v2"] != "deploy" || said["aborted v2"] != "deploy" || said["promoted v4"] != "operate" {
		t.Errorf("who did it: %v", said)
	}
}

// What a client says of itself stands behind who it is.
func TestWhoDidIt(t *testing.T) {
	for _, c := range []struct{ authenticated, basic, claims, want string }{
		{"", "", "", "192.0.2.1"},
		{"", "cto", "", "192.0.2.1 (cto)"},
		{"", "cto", "root", "192.0.2.1 (root)"},
		{"alice", "alice", "", "alice"},
		{"alice", "alice", "root", "alice (root)"},
		{"ci", "", "x) alice (\x1b[31m", "ci (x alice [31m)"},
		{"ci", "", strings.Repeat("long", 100), "ci (" + strings.Repeat("long", 16) + ")"},
		{"ci", "", "\u202egnp", "ci (gnp)"},
	} {
		r, err := http.NewRequest(http.MethodPost, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.RemoteAddr = "192.0.2.1:1234"
		if c.basic != "" {
			r.SetBasicAuth(c.basic, "x")
		}
		r.Header.Set("X-Canaryd-By", c.claims)
		r = r.WithContext(context.WithValue(r.Context(), callerKey{}, access.Caller{Name: c.authenticated}))
		if got := by(r); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// Who guesses the hook's token is in the log, as is who guesses another one.
func TestRefusedHooksAreInTheLog(t *testing.T) {
	log, said := logtest.NewNullLogger()
	h := NewHandler(Options{Log: log, Registry: prometheus.NewRegistry(), HookToken: func() string { return "of-the-registry" }, Listener: &net.TCPAddr{IP: net.IPv4zero}, Reload: func(context.Context, string) error { return nil }})
	w := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/api/v1/hooks/registry", strings.NewReader("{}"))
	r.Header.Set("Authorization", "Bearer guess")
	h.ServeHTTP(w, r)
	if e := said.LastEntry(); w.Code != http.StatusUnauthorized || e == nil || !strings.Contains(e.Message, "the hook's token is missing or wrong") || e.Data["by"] != "192.0.2.1" {
		t.Errorf("%d, in the log %v", w.Code, e)
	}
}

// A name in disguise reaches no service that the token is not for, and what a redirect leads to is asked for anew.
func TestNamesInDisguise(t *testing.T) {
	config, tokens := callers(t)
	s := newSiteWith(t, Options{Access: access.NewKeeper(config, nil)}, stableShop, strings.ReplaceAll(stableShop, "shop", "pay"))
	const sends = `{"endpoints": ["127.0.0.1:9"]}`
	for _, path := range []string{
		"pay/versions/v2", "pay%2Fversions/v2", "%70ay/versions/v2", "shop%2F..%2Fpay/versions/v2", "shop/../pay/versions/v2", "shop/%2e%2e/pay/versions/v2", "shop/..%2fpay/versions/v2", "./pay/versions/v2", "%2e/pay/versions/v2",
		"shop%00pay/versions/v2", "shop%0a/versions/v2", "PAY/versions/v2", "pay./versions/v2", "pay%20/versions/v2", "shop/versions/v2%2F..%2F..%2F..%2Fpay%2Fversions%2Fv2", "shop/versions/..", "shop/versions/%2e%2e", "shop/versions/v2%0a",
		"shop;pay/versions/v2", "shop//pay/versions/v2", "shop/versions/v2/../../../pay/versions/v2", "*/versions/v2", "shop*/versions/v2", "shop\\..\\pay/versions/v2", "shop/versions/v2?service=pay", "shop/versions/v2?version=v1",
	} {
		resp := s.ask("PUT /api/v1/services/"+path+" HTTP/1.1", "Host: localhost", "Authorization: Bearer "+tokens["deploy"], fmt.Sprintf("Content-Length: %d", len(sends))+"\r\n\r\n"+sends)
		if text := body(t, resp); resp.StatusCode < 300 || resp.StatusCode >= 500 {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
		}
	}
	for _, service := range []string{"shop", "pay"} {
		if _, text, _ := s.as(tokens["adminall"], "GET", "/api/v1/services/"+service, ""); strings.Count(text, `"version":`) != 1 {
			t.Errorf("%s has %s", service, text)
		}
	}
}
