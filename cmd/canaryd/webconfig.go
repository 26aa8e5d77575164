package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
	"github.com/sirupsen/logrus"
	slogrus "github.com/sirupsen/logrus/hooks/slog"
	yaml "go.yaml.in/yaml/v4"
	pace "golang.org/x/time/rate"

	"github.com/canaryd/canaryd/internal/access"
	canarydweb "github.com/canaryd/canaryd/internal/web"
)

// The file of --web.config.file has Prometheus' format and is checked by its library. Its users are asked for by
// package access, and not by that library: it would let nobody in with a bearer token instead.

// headerBytes are more than any client of ours sends, identity tokens included.
const headerBytes = 64 << 10

// readWebConfig reads the file; without one there are neither users nor TLS.
func readWebConfig(file string) (*web.Config, error) {
	c := &web.Config{TLSConfig: web.TLSConfig{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13}, HTTPConfig: web.HTTPConfig{HTTP2: true}}
	if file == "" {
		return c, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--web.config.file: %w", err)
	}
	if err := yaml.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("--web.config.file %s: %w", file, err)
	}
	c.TLSConfig.SetDirectory(filepath.Dir(file))
	return c, nil
}

// asksWho reports whether a web-config file lets in only those who prove who they are.
func asksWho(c *web.Config) bool {
	return len(c.Users) > 0 || c.TLSConfig.ClientAuth == "RequireAndVerifyClientCert"
}

// accessConfig is who may do what, as canaryd.yml and the files that it names say now.
func (c *serverConfig) accessConfig(webConfig string) (access.Config, error) {
	out := access.Config{Rules: c.Web.Access, Anonymous: c.Web.Anonymous.role(), Users: map[string]string{}}
	if err := checkWebConfig(webConfig); err != nil {
		return out, fmt.Errorf("--web.config.file: %w", err)
	}
	w, err := readWebConfig(webConfig)
	if err != nil {
		return out, err
	}
	for user, hash := range w.Users {
		out.Users[user] = string(hash)
	}
	if c.Web.TokensFile != "" {
		data, err := os.ReadFile(c.Web.TokensFile)
		if err != nil {
			return out, fmt.Errorf("web.tokens_file: %w", err)
		}
		if out.Tokens, err = access.ReadTokens(c.Web.TokensFile, data); err != nil {
			return out, fmt.Errorf("web.tokens_file: %w", err)
		}
	}
	return out, out.Check()
}

// newWebServer waits for nobody for ever. The body of a request, events and the journal have limits of their own; what
// these leave behind on a connection ends with the next request, because there is one for every answer.
func newWebServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 2 * time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: headerBytes}
}

// serveWeb serves until the server is closed, with TLS where the file says so; its certificates and client CAs
// are read anew while it runs. That fewer clients are asked for a certificate takes a restart, as everything that opens canaryd.
func serveWeb(s *http.Server, l net.Listener, webConfig string, log *logrus.Logger) error {
	if err := checkWebConfig(webConfig); err != nil {
		return fmt.Errorf("--web.config.file: %w", err)
	}
	c, err := readWebConfig(webConfig)
	if err != nil {
		return err
	}
	s.ErrorLog = slog.NewLogLogger(slogrus.NewHandler(log, nil), slog.LevelDebug) // handshakes that fail, and the like
	s.Handler = configured(s.Handler, c)
	if !c.TLSConfig.IsEnabled() {
		return s.Serve(l)
	}
	if s.TLSConfig, err = readWebTLS(webConfig); err != nil {
		return fmt.Errorf("--web.config.file %s: %w", webConfig, err)
	}
	protocols := []string{"h2", "http/1.1"}
	if !c.HTTPConfig.HTTP2 {
		protocols, s.TLSNextProto = protocols[1:], map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	atFirst := s.TLSConfig.Clone()
	atFirst.NextProtos = protocols
	files := &lastingTLS{last: atFirst, log: log, read: func() (*tls.Config, error) {
		t, err := readWebTLS(webConfig)
		if err != nil {
			return nil, fmt.Errorf("--web.config.file %s: %w", webConfig, err)
		}
		if t.NextProtos = protocols; t.ClientAuth < atFirst.ClientAuth { // nobody else may be asking who is there
			t.ClientAuth, t.ClientCAs = atFirst.ClientAuth, atFirst.ClientCAs
		}
		return t, nil
	}}
	s.TLSConfig.GetConfigForClient = files.forClient
	return s.ServeTLS(l, "", "")
}

// readWebTLS reads the file and the certificate that it names now; the library would read that with each handshake, too late to
// go by the one before.
func readWebTLS(webConfig string) (*tls.Config, error) {
	c, err := readWebConfig(webConfig)
	if err != nil {
		return nil, err
	}
	t, err := web.ConfigToTLSConfig(&c.TLSConfig)
	if err != nil {
		return nil, err
	}
	certificate, err := t.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		return nil, err
	}
	t.Certificates, t.GetCertificate = []tls.Certificate{*certificate}, nil
	return t, nil
}

// configured adds the file's headers, and keeps its rate limit.
func configured(next http.Handler, c *web.Config) http.Handler {
	var limit *pace.Limiter
	if r := c.RateLimiterConfig; r.Interval != 0 {
		limit = pace.NewLimiter(pace.Every(r.Interval), r.Burst)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if limit != nil && !limit.Allow() {
			w.Header().Set("Retry-After", "1")
			canarydweb.Refuse(w, http.StatusTooManyRequests, "more requests come than rate_limit in --web.config.file lets through: ask again in a moment")
			return
		}
		for k, v := range c.HTTPConfig.Header {
			w.Header().Set(k, v)
		}
		next.ServeHTTP(w, r)
	})
}
