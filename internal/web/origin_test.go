package web

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

const stableShop = "service: shop\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n"

// ask sends one request as it is written, lines without their ends; hosts and versions of HTTP that a client of Go's would not send.
func (s *site) ask(lines ...string) *http.Response {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "%s\r\nConnection: close\r\n\r\n", strings.Join(lines, "\r\n"))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.t.Fatalf("%q: %v", lines, err)
	}
	return resp
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestOnLoopbackForeignHostsAreRefused(t *testing.T) {
	s := newSiteWith(t, Options{Listen: "Canaryd.Internal:8080", Hosts: []string{"canaryd.example.com", "10.0.0.5", "FD00:0::5"}})
	for host, want := range map[string]int{
		"localhost":                 200,
		"localhost:9":               200,
		"LOCALHOST.:9":              200,
		"canaryd.localhost:8080":    200,
		"127.0.0.1":                 200,
		"127.9.9.9:8080":            200,
		"[::1]":                     200,
		"[::1]:8080":                200,
		"[::1%25lo]:8080":           200,
		"[0:0:0:0:0:0:0:1]":         200,
		"[::ffff:127.0.0.1]:80":     200,
		"":                          200, // no browser leaves it empty
		"canaryd.example.com":       200, // web.hosts
		"Canaryd.Example.COM.:443":  200,
		"10.0.0.5:8080":             200,
		"[fd00::5]":                 200,
		"canaryd.internal:8080":     200, // web.listen
		"rebound.evil.example":      403,
		"rebound.evil.example:8080": 403,
		"localhost.evil.example":    403,
		"evillocalhost":             403,
		"127.0.0.1.evil.example":    403,
		"a.canaryd.example.com":     403,
		"10.0.0.6:8080":             403,
		"[fd00::6]:8080":            403,
		"0.0.0.0:8080":              403,
		"localhost..":               403,
	} {
		resp := s.ask("GET /api/v1/services HTTP/1.1", "Host: "+host)
		if text := body(t, resp); resp.StatusCode != want {
			t.Errorf("Host %q: %d, want %d: %s", host, resp.StatusCode, want, text)
		}
	}
}

func TestARefusedHostIsToldWhatToDo(t *testing.T) {
	s := newSite(t)
	for path := range map[string]bool{"/api/v1/services": true, "/metrics": true, "/-/ready": true, "/debug/pprof/": true, "/nothing": true} {
		resp := s.ask("GET "+path+" HTTP/1.1", "Host: rebound.evil.example:8080")
		text := body(t, resp)
		if resp.StatusCode != 403 || resp.Header.Get("Content-Type") != "application/problem+json" ||
			!strings.Contains(text, `the Host \"rebound.evil.example\"`) || !strings.Contains(text, "ask "+s.URL) || !strings.Contains(text, "web.hosts") {
			t.Errorf("%s: %d %s %s", path, resp.StatusCode, resp.Header.Get("Content-Type"), text)
		}
	}
}

func TestElsewhereThanOnLoopbackAnyHostIsAnsweredUnlessSomeAreListed(t *testing.T) {
	public := &net.TCPAddr{IP: net.IPv4zero, Port: 8080}
	for _, c := range []struct {
		hosts []string
		host  string
		want  int
	}{
		{nil, "canaryd:8080", 200},
		{nil, "10.0.0.5:8080", 200},
		{[]string{"canaryd"}, "canaryd:8080", 200},
		{[]string{"canaryd"}, "127.0.0.1:8080", 200}, // Docker's HEALTHCHECK
		{[]string{"canaryd"}, "rebound.evil.example", 403},
	} {
		s := newSiteWith(t, Options{Listener: public, Hosts: c.hosts})
		resp := s.ask("GET /-/ready HTTP/1.1", "Host: "+c.host)
		if text := body(t, resp); resp.StatusCode != c.want || strings.Contains(text, "loopback") {
			t.Errorf("hosts %v, Host %s: %d %s", c.hosts, c.host, resp.StatusCode, text)
		}
	}
}

func TestCrossSiteRequestsAreRefused(t *testing.T) {
	s := newSite(t, stableShop)
	own := s.Listener.Addr().String()
	promote, list := "POST /api/v1/services/shop/versions/v1/promote", "GET /api/v1/services"
	for _, c := range []struct {
		request string
		headers string
		want    int
	}{
		{promote, "Sec-Fetch-Site: cross-site\r\nOrigin: https://evil.example", 403},
		{promote, "Sec-Fetch-Site: same-site\r\nOrigin: http://127.0.0.1:3000", 403}, // another program's page
		{promote, "Sec-Fetch-Site: cross-site", 403},
		{promote, "Origin: https://evil.example", 403}, // an old browser, or plain HTTP elsewhere than on loopback
		{promote, "Origin: null", 403},
		{promote, "Sec-Fetch-Site: same-origin\r\nOrigin: http://" + own, 409},
		{promote, "Origin: http://" + own, 409},
		{promote, "Sec-Fetch-Site: none", 409},
		{promote, "X-Program: yes", 409},
		{"POST /-/reload", "Sec-Fetch-Site: cross-site", 403},
		{"PUT /api/v1/services/shop/versions/v2", "Sec-Fetch-Site: cross-site", 403},
		{"DELETE /api/v1/services/shop", "Sec-Fetch-Site: cross-site", 403},
		{"POST /api/v1/hooks/registry", "Sec-Fetch-Site: cross-site", 403},
		{list, "Sec-Fetch-Site: cross-site\r\nOrigin: https://evil.example", 200}, // changes nothing, and the page may not read it
	} {
		resp := s.ask(c.request+" HTTP/1.1", "Host: "+own, "Content-Length: 0", c.headers)
		text := body(t, resp)
		if resp.StatusCode != c.want {
			t.Errorf("%s with %q: %d, want %d: %s", c.request, c.headers, resp.StatusCode, c.want, text)
		}
		if c.want == 403 && (resp.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(text, "a page of another site")) {
			t.Errorf("%s with %q: %s %s", c.request, c.headers, resp.Header.Get("Content-Type"), text)
		}
	}
}

// Programs that are no browsers go on as before.
func TestProgramsAreAnswered(t *testing.T) {
	s := newSiteWith(t, Options{HookToken: func() string { return "s3cret" }}, stableShop)
	host := "Host: " + s.Listener.Addr().String()
	push := `{"events": [{"action": "push", "target": {"repository": "shop", "tag": "v2"}}]}`
	for _, c := range []struct {
		who     string
		want    int
		request []string
	}{
		{"curl", 200, []string{"POST /-/reload HTTP/1.1", host, "User-Agent: curl/8.14.1", "Accept: */*"}},
		{"Prometheus", 200, []string{"GET /metrics HTTP/1.1", host, "User-Agent: Prometheus/3.5.0", "Accept-Encoding: gzip"}},
		{"a registry", 200, []string{"POST /api/v1/hooks/registry HTTP/1.1", host, "Authorization: Bearer s3cret",
			"Content-Type: application/vnd.docker.distribution.events.v2+json", fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(push), push)}},
		{"a health check in HTTP/1.0", 200, []string{"GET /-/healthy HTTP/1.0"}},
		{"HAProxy's default check", 405, []string{"OPTIONS /-/healthy HTTP/1.0"}},
		{"a client that takes canaryd for a proxy", 200, []string{"GET http://localhost:8080/-/ready HTTP/1.1", "Host: localhost:8080"}},
		{"the same for another target", 403, []string{"GET http://rebound.evil.example/-/ready HTTP/1.1", host}},
	} {
		resp := s.ask(c.request...)
		if text := body(t, resp); resp.StatusCode != c.want {
			t.Errorf("%s: %d, want %d: %s", c.who, resp.StatusCode, c.want, text)
		}
	}
}

// A proxy on the same machine that passes on the Host that it was asked for.
func TestBehindAProxyThatKeepsTheHost(t *testing.T) {
	for _, c := range []struct {
		hosts []string
		want  int
	}{{nil, 403}, {[]string{"canaryd.example.com"}, 409}} {
		s := newSiteWith(t, Options{Hosts: c.hosts}, stableShop)
		target, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		}})
		defer proxy.Close()
		req, err := http.NewRequest("POST", proxy.URL+"/api/v1/services/shop/versions/v1/promote", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "canaryd.example.com"
		req.Header.Set("Origin", "https://canaryd.example.com")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if text := body(t, resp); resp.StatusCode != c.want {
			t.Errorf("web.hosts %v: %d, want %d: %s", c.hosts, resp.StatusCode, c.want, text)
		}
	}
}

func TestHostsAreNamesOnly(t *testing.T) {
	for name, right := range map[string]bool{
		"canaryd.example.com": true, "canaryd": true, "10.0.0.5": true, "fd00::5": true,
		"": false, "http://canaryd": false, "canaryd:8080": false, "*.example.com": false, "a b": false, "[::1]": false, "a/b": false,
	} {
		if err := CheckHost(name); (err == nil) != right {
			t.Errorf("%q: %v", name, err)
		}
	}
}
