package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/canaryd/canaryd/internal/web"
)

// client talks to the daemon.
type client struct {
	base, token, caFile string
	job                 *jobIdentity  // of a CI job, in the place of a token; nil: none
	http                *http.Client  // made with the first request
	raw                 func() bool   // what is printed is JSON, which shows nothing of its own accord
	patience            time.Duration // how long an answer is waited for; 0: answerWithin
}

// answerWithin is more than any answer takes: canaryd waits for its disk for 2 s at most.
const answerWithin = 30 * time.Second

// remote gives a command the flags that find the daemon.
func remote(c *cobra.Command) *client {
	cl := &client{token: os.Getenv("CANARYD_TOKEN"), job: jobIdentityOf(os.Getenv)}
	cl.raw = func() bool {
		o := c.Flags().Lookup("output")
		return o != nil && o.Value.String() == "json"
	}
	def := os.Getenv("CANARYD_URL")
	if def == "" {
		def = "http://127.0.0.1:8080"
	}
	c.Flags().StringVar(&cl.base, "url", def, "where the daemon is (CANARYD_URL); CANARYD_TOKEN: bearer token, or user:password")
	c.Flags().StringVar(&cl.caFile, "ca-file", os.Getenv("CANARYD_CA_FILE"), "certificates of the authority that signed the daemon's, beside the system's (CANARYD_CA_FILE)")
	cl.completes(c)
	return cl
}

// call sends one request; a problem document becomes an error that says what the daemon said.
func (c *client) call(ctx context.Context, method, path string, body, into any) error {
	_, err := c.ask(ctx, method, path, body, into)
	return err
}

// ask is call for one who also wants to know with which status it was answered.
func (c *client) ask(ctx context.Context, method, path string, body, into any) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.patience, answerWithin))
	defer cancel()
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode >= 400 {
		return resp.StatusCode, refusal(method, path, resp, raw)
	}
	if into == nil || len(raw) == 0 {
		return resp.StatusCode, nil
	}
	if c.raw == nil || !c.raw() {
		if raw, err = plainJSON(raw); err != nil {
			return resp.StatusCode, fmt.Errorf("%s %s: the answer is not what a canaryd sends: %w", method, path, err)
		}
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return resp.StatusCode, fmt.Errorf("%s %s: the answer is not what a canaryd sends: %w", method, path, err)
	}
	return resp.StatusCode, nil
}

// httpToHTTPS is in what net/http answers where TLS is spoken and a request comes without.
const httpToHTTPS = "HTTP request to an HTTPS server"

// refusal is what the daemon says against a request, or what stands before it.
func refusal(method, path string, resp *http.Response, raw []byte) error {
	var p web.Problem
	if json.Unmarshal(raw, &p) == nil && p.Detail != "" {
		p.Detail = plain(p.Detail)
		return &p
	}
	try := ""
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		try = "\nTry: set CANARYD_TOKEN to user:password, or to a bearer token"
	case bytes.Contains(raw, []byte(httpToHTTPS)):
		try = "\nTry: write https:// in --url or CANARYD_URL: the daemon speaks TLS there"
	}
	return fmt.Errorf("%s %s: the daemon answered %s%s", method, path, resp.Status, try)
}

func (c *client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var buf bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&buf).Encode(body); err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.base, "/")+path, &buf)
	if err != nil || req.URL.Host == "" || req.URL.Scheme != "http" && req.URL.Scheme != "https" {
		return nil, usage("--url or CANARYD_URL: this is not an address such as http://127.0.0.1:8080 or https://canaryd.example.com: %s", c.shown())
	}
	req.Header.Set("Content-Type", "application/json")
	if u, err := user.Current(); err == nil {
		req.Header.Set("X-Canaryd-By", u.Username)
	}
	if err := c.identify(ctx, req); err != nil {
		return nil, err
	}
	if c.http == nil {
		if c.http, err = trusting(c.caFile); err != nil {
			return nil, err
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreached(err)
	}
	return resp, nil
}

// shown is the daemon's address as it may stand in a log: without a password.
func (c *client) shown() string {
	u, err := url.Parse(c.base)
	switch {
	case err == nil && u.User == nil:
		return c.base
	case err == nil:
		return u.Redacted()
	case strings.Contains(c.base, "@"):
		return "..." + c.base[strings.LastIndex(c.base, "@"):]
	}
	return c.base
}

// identify says who asks.
func (c *client) identify(ctx context.Context, req *http.Request) error {
	token := c.token
	if token == "" && c.job != nil {
		var err error
		if token, err = c.job.token(ctx); err != nil {
			return err
		}
	}
	if name, password, ok := strings.Cut(token, ":"); ok {
		req.SetBasicAuth(name, password)
	} else if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return nil
}

// trusting is a client that also trusts the authorities in a file.
func trusting(caFile string) (*http.Client, error) {
	if caFile == "" {
		return http.DefaultClient, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("--ca-file: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca-file %s: no certificate in PEM format is in it", caFile)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return &http.Client{Transport: t}, nil
}

// unreached says why nobody answered, and what to try.
func (c *client) unreached(err error) error {
	why := errors.Unwrap(err)
	try := "start it with `canaryd serve`, or set --url or CANARYD_URL"
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		try = "look whether it hangs, or what is in between; what it was told to do it may have done: `canaryd status` says it"
	case strings.Contains(err.Error(), "malformed HTTP response"):
		why, try = errors.New("what answers there does not speak HTTP/1.1"), "write the address of web.listen in --url or CANARYD_URL, not that of xds.listen"
	case errors.As(err, &authority):
		try = "set --ca-file or CANARYD_CA_FILE to the certificate of the authority that signed the daemon's"
	case errors.As(err, &name):
		try = "write in --url or CANARYD_URL a name that the daemon's certificate has"
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		try = "write http:// in --url or CANARYD_URL: there is no TLS there"
	}
	return fmt.Errorf("no canaryd answers at %s: %w\nTry: %s", c.shown(), why, try)
}

func servicePath(service string, more ...string) string {
	p := "/api/v1/services/" + url.PathEscape(service)
	for _, m := range more {
		p += "/" + url.PathEscape(m)
	}
	return p
}

func (c *client) service(ctx context.Context, name string) (web.Service, error) {
	var s web.Service
	return s, c.call(ctx, http.MethodGet, servicePath(name), nil, &s)
}

// services asks for all services, page by page.
func (c *client) services(ctx context.Context) (web.Services, error) {
	all := web.Services{Services: []web.Service{}}
	for after := ""; ; {
		var page web.Services
		if err := c.call(ctx, http.MethodGet, "/api/v1/services?after="+url.QueryEscape(after), nil, &page); err != nil {
			return all, err
		}
		all.Services = append(all.Services, page.Services...)
		if after = page.Next; after == "" {
			return all, nil
		}
	}
}

// output gives a command its -o flag.
func output(c *cobra.Command) *string {
	return c.Flags().StringP("output", "o", "table", "table or json")
}

func checkOutput(o string) error {
	if o != "table" && o != "json" {
		return usage("-o %q: write table or json", o)
	}
	return nil
}

// printJSON writes JSON in which nothing commands a terminal or a runner: that stands in texts, which may have it escaped.
func printJSON(w io.Writer, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(escaped(b.Bytes()))
	return err
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
