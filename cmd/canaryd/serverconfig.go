package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/config"
	"github.com/sirupsen/logrus"
	yaml "go.yaml.in/yaml/v4"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/docker"
	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/notify"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/registry"
	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/secret"
	"github.com/canaryd/canaryd/internal/store"
	"github.com/canaryd/canaryd/internal/web"
)

// serverConfig is canaryd.yml. Every key has a default.
type serverConfig struct {
	XDS xdsConfig `yaml:"xds"`
	Web struct {
		Listen   string   `yaml:"listen"`
		Insecure bool     `yaml:"insecure"` // listens beyond loopback without users, and that is meant
		Hosts    []string `yaml:"hosts"`    // names that the API is asked under

		Access     []access.Rule `yaml:"access"`      // who may do what; none: users may everything, and where there are none, anybody
		TokensFile string        `yaml:"tokens_file"` // bearer tokens, hashed
		Anonymous  anonymous     `yaml:"anonymous"`   // what a caller without credentials may do
	} `yaml:"web"`
	Policies []string `yaml:"policies"`
	Storage  struct {
		Path      string          `yaml:"path"`
		Retention policy.Duration `yaml:"retention"` // of the history and the journal
		MaxBytes  policy.Bytes    `yaml:"max_bytes"`
		Etcd      struct {
			Endpoints []string  `yaml:"endpoints"`
			Prefix    string    `yaml:"prefix"`
			TLS       tlsConfig `yaml:"tls"`
		} `yaml:"etcd"`
	} `yaml:"storage"`
	Metrics metricsConfig `yaml:"metrics"`
	Docker  struct {
		Host string `yaml:"host"`
		TLS  struct {
			CAFile   string `yaml:"ca_file"`
			CertFile string `yaml:"cert_file"`
			KeyFile  string `yaml:"key_file"`
		} `yaml:"tls"`
		Allow     []string      `yaml:"allow"`      // repositories that may run; none: the policy's own
		Volumes   []string      `yaml:"volumes"`    // that may be mounted
		HookToken policy.Secret `yaml:"hook_token"` // for a registry's notifications
	} `yaml:"docker"`
	Notify []notifyConfig `yaml:"notify"`
	FileSD []fileSDConfig `yaml:"file_sd_configs"`
	HTTPSD []httpSDConfig `yaml:"http_sd_configs"`
}

// fileSDConfig and httpSDConfig are written as in Prometheus; targets carry the labels service and version.
type fileSDConfig struct {
	Files   []string        `yaml:"files"`
	Refresh policy.Duration `yaml:"refresh_interval"`
}

type httpSDConfig struct {
	URL     string                  `yaml:"url"`
	Refresh policy.Duration         `yaml:"refresh_interval"`
	HTTP    config.HTTPClientConfig `yaml:",inline"`
}

type notifyConfig struct {
	URL    policy.Secret           `yaml:"url"` // its path is often a password
	Events []rollout.Kind          `yaml:"events"`
	Format string                  `yaml:"format"`
	HTTP   config.HTTPClientConfig `yaml:",inline"` // auth and TLS, as of metrics.prometheus
}

type tlsConfig struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	ClientCA string `yaml:"client_ca_file"`
}

type metricsConfig struct {
	Source     string           `yaml:"source"`
	Prometheus prometheusConfig `yaml:"prometheus"`
	Interval   interval         `yaml:"interval"`
}

// interval is how often evidence comes; 0 means `auto`.
type interval time.Duration

// UnmarshalYAML reads `auto` or a duration.
func (i *interval) UnmarshalYAML(n *yaml.Node) error {
	if n.Value == "auto" {
		*i = 0
		return nil
	}
	var d policy.Duration
	if err := d.UnmarshalYAML(n); err != nil {
		return fmt.Errorf("%w, or auto", err)
	}
	if *i = interval(d); d == 0 {
		return fmt.Errorf("%q is not an interval: write auto, or 100ms and more", n.Value)
	}
	return nil
}

type prometheusConfig struct {
	URL   string                  `yaml:"url"`
	Match metrics.Match           `yaml:"match"`   // label matchers of every query
	HTTP  config.HTTPClientConfig `yaml:",inline"` // not embedded: its UnmarshalYAML would hide url
}

func defaultServerConfig() serverConfig {
	var c serverConfig
	c.XDS, c.Web.Listen = defaultXDSConfig(), "127.0.0.1:8080"
	c.Policies = []string{"policies/*.yml"}
	c.Storage.Path, c.Storage.Retention, c.Storage.MaxBytes = "data", policy.Duration(30*24*time.Hour), 2<<30
	c.Metrics.Source = policy.SourceEnvoy
	c.Metrics.Prometheus = prometheusConfig{URL: "http://127.0.0.1:9090", HTTP: config.DefaultHTTPClientConfig}
	return c
}

// What is kept at least: less would not hold one release.
const (
	leastRetention = time.Hour
	leastBytes     = 16 << 20
)

// limits are how much of the history and the journal is kept.
func (c *serverConfig) limits() store.Limits {
	return store.Limits{Retention: c.Storage.Retention.Std(), MaxBytes: int64(c.Storage.MaxBytes), Pack: journal.Pack}
}

// loadServerConfig reads canaryd.yml; no file name means the defaults, relative to the working directory.
func loadServerConfig(file string) (serverConfig, error) {
	if file == "" {
		return defaultServerConfig(), nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return serverConfig{}, fmt.Errorf("--config.file: %w", err)
	}
	c, fs := parseServerConfig(file, data)
	if errs := fs.Errors(); len(errs) > 0 {
		return c, errs
	}
	c.relativeTo(filepath.Dir(file))
	return c, nil
}

func parseServerConfig(file string, data []byte) (serverConfig, policy.Findings) {
	c := defaultServerConfig()
	root, fs := policy.LoadOne(file, data)
	if root == nil {
		return c, fs
	}
	unread := policy.Decode(file, root, &c)
	fs = append(fs, unread...)
	find := func(path, message string, warning bool) {
		if policy.Unread(root, path, unread) {
			return
		}
		at := policy.Position(root, path)
		fs = append(fs, policy.Finding{File: file, Line: at.Line, Column: at.Column, Message: message, Warning: warning})
	}
	c.validate(func(path, format string, args ...any) { find(path, fmt.Sprintf(format, args...), false) })
	for path, why := range map[string]string{"xds.listen": c.exposedXDS(), "web.listen": c.exposedWeb()} {
		if why != "" && len(fs.Errors()) == 0 {
			find(path, "serve refuses this without further flags: "+why, true)
		}
	}
	for i := range fs {
		fs[i].Message = userinfo.ReplaceAllString(fs[i].Message, "://"+policy.Hidden+"@…: write %, / and the like of a password as %25, %2F")
	}
	fs.Sort()
	return c, fs
}

// userinfo of an address that cannot be read, because of a character in its password, is in what is said against it.
var userinfo = regexp.MustCompile(`(?s)://.*@.*`)

// validate says what the types do not.
func (c *serverConfig) validate(say func(path, format string, args ...any)) {
	if s := c.Metrics.Source; s != policy.SourceEnvoy && s != policy.SourcePrometheus {
		say("metrics.source", "%q is not a source of evidence: write %s or %s", s, policy.SourceEnvoy, policy.SourcePrometheus)
	}
	c.validateAddresses(say)
	if i := c.Metrics.Interval; i != 0 && time.Duration(i) < 100*time.Millisecond {
		say("metrics.interval", "the interval must be 100ms at least, or auto")
	}
	c.XDS.validate(say)
	for i, h := range c.Web.Hosts {
		if err := web.CheckHost(h); err != nil {
			say(fmt.Sprintf("web.hosts[%d]", i), "web.hosts[%d]: %v", i, err)
		}
	}
	if t := c.Docker.TLS; (t.CertFile == "") != (t.KeyFile == "") || t.CertFile != "" && t.CAFile == "" {
		say("docker.tls", "ca_file, cert_file and key_file belong together")
	}
	if c.Storage.Retention.Std() < leastRetention {
		say("storage.retention", "history and journal are kept for %s at least: write 30d, say", policy.Duration(leastRetention))
	}
	if c.Storage.MaxBytes < leastBytes {
		say("storage.max_bytes", "history and journal need 16MiB at least: write 2GiB, say")
	}
	if err := c.bounds().Check(); err != nil {
		say("docker", "docker: %v", err)
	}
	if len(c.Storage.Etcd.Endpoints) > 0 { // to run on a file instead would be worse than not to run
		say("storage.etcd.endpoints", "this build has no etcd store yet: leave the endpoints empty to store in %s", c.Storage.Path)
	}
	if u := c.Metrics.Prometheus.URL; !isWebAddress(u) {
		if strings.ContainsAny(u, "@?") { // it may have a password
			u = policy.Hidden
		}
		say("metrics.prometheus.url", "%q: url must be an address such as http://127.0.0.1:9090", u)
	}
	if err := c.Metrics.Prometheus.HTTP.Validate(); err != nil {
		say("metrics.prometheus", "%v", err)
	}
	c.validateAccess(say)
	c.validateLists(say)
}

func (c *serverConfig) validateAddresses(say func(path, format string, args ...any)) {
	good := true
	for _, a := range []struct{ key, address string }{{"xds.listen", c.XDS.Listen}, {"web.listen", c.Web.Listen}} {
		if err := listenAddress(a.address); err != nil {
			say(a.key, "%v", err)
			good = false
		}
	}
	if good && overlap(c.XDS.Listen, c.Web.Listen) {
		say("web.listen", "web.listen %s and xds.listen %s are one address: give each its own port", c.Web.Listen, c.XDS.Listen)
	}
}

// bounds are what containers may be.
func (c *serverConfig) bounds() *docker.Bounds {
	return &docker.Bounds{Allow: c.Docker.Allow, Volumes: c.Docker.Volumes}
}

func listenAddress(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%q is not host:port, as in 127.0.0.1:8080, or :8080 for all addresses", s)
	}
	return nil
}

// overlap reports whether two listeners cannot both be opened; port 0 is any free one.
func overlap(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	all := []string{"", "0.0.0.0", "::"}
	return portA == portB && portA != "0" && (hostA == hostB || slices.Contains(all, hostA) || slices.Contains(all, hostB))
}

func (c *serverConfig) validateLists(say func(path, format string, args ...any)) {
	for i, p := range c.Policies {
		if _, err := filepath.Match(p, ""); err != nil {
			say(fmt.Sprintf("policies[%d]", i), "%q is not a valid glob: write a file name, or a pattern such as policies/*.yml", p)
		}
	}
	for i := range c.FileSD {
		if len(c.FileSD[i].Files) == 0 {
			say(fmt.Sprintf("file_sd_configs[%d].files", i), "file_sd_configs[%d]: name the files, as in [targets/*.json]", i)
		}
		if err := (registry.File{Files: c.FileSD[i].Files}).Check(); err != nil {
			say(fmt.Sprintf("file_sd_configs[%d].files", i), "file_sd_configs[%d]: %v", i, err)
		}
	}
	for i, h := range c.HTTPSD {
		if !isWebAddress(h.URL) {
			say(fmt.Sprintf("http_sd_configs[%d].url", i), "http_sd_configs[%d]: url must be an address such as http://127.0.0.1:8500/targets", i)
		}
	}
	for i := range c.Notify {
		if err := c.Notify[i].check(); err != nil {
			say(fmt.Sprintf("notify[%d]", i), "notify[%d]: %v", i, err)
		}
	}
}

func isWebAddress(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https")
}

func (n *notifyConfig) check() error {
	if n.URL.Value == "" && n.URL.String() != "" {
		return n.HTTP.Validate()
	}
	if !isWebAddress(n.URL.Value) {
		return errors.New("url must be an address such as https://hooks.example.com/x")
	}
	for _, e := range n.Events {
		if !slices.Contains(rollout.Kinds(), e) {
			return noEvent(string(e))
		}
	}
	if n.Format != "" && n.Format != notify.JSON && n.Format != notify.Slack {
		return fmt.Errorf("format %q: write %s or %s", n.Format, notify.JSON, notify.Slack)
	}
	return n.HTTP.Validate()
}

func noEvent(name string) error {
	var kinds []string
	for _, k := range rollout.Kinds() {
		kinds = append(kinds, string(k))
	}
	if near := policy.Nearest(name, kinds); near != "" {
		return fmt.Errorf("there is no event %q: did you mean %q?", name, near)
	}
	return fmt.Errorf("there is no event %q: write some of %s", name, strings.Join(kinds, ", "))
}

// registry builds the discovery of versions, or nil if none is configured.
func (c *serverConfig) registry(log *logrus.Logger) *registry.Registry {
	o := registry.Options{Log: log}
	for _, f := range c.FileSD {
		o.Files = append(o.Files, registry.File{Files: f.Files, Refresh: cmp.Or(f.Refresh.Std(), 5*time.Minute)})
	}
	for _, u := range c.HTTPSD {
		o.URLs = append(o.URLs, registry.URL{URL: u.URL, Refresh: cmp.Or(u.Refresh.Std(), time.Minute), HTTP: u.HTTP})
	}
	if len(o.Files)+len(o.URLs) == 0 {
		return nil
	}
	return registry.New(o)
}

// notifier builds the webhook notifier, or nil if none is configured.
func (c *serverConfig) notifier(log logrus.FieldLogger) (*notify.Notifier, error) {
	var targets []notify.Target
	for i, n := range c.Notify {
		client, err := config.NewClientFromConfig(n.HTTP, "canaryd")
		if err != nil {
			return nil, fmt.Errorf("notify[%d]: %w", i, err)
		}
		address, err := secret.Read(n.URL)
		if err == nil && !isWebAddress(address) {
			err = errors.New("url is no address such as https://hooks.example.com/x")
		}
		if err != nil {
			return nil, fmt.Errorf("notify[%d]: %w", i, err)
		}
		targets = append(targets, notify.Target{URL: address, Events: n.Events, Format: n.Format, Client: client})
	}
	if len(targets) == 0 {
		return nil, nil
	}
	return notify.New(log, targets), nil
}

// relativeTo makes relative paths relative to the file that names them.
func (c *serverConfig) relativeTo(dir string) {
	abs := func(p string) string {
		if p == "" || filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(dir, p)
	}
	for i := range c.Policies {
		c.Policies[i] = abs(c.Policies[i])
	}
	c.Storage.Path, c.Web.TokensFile = abs(c.Storage.Path), abs(c.Web.TokensFile)
	t := &c.XDS.TLS
	t.CertFile, t.KeyFile, t.ClientCA = abs(t.CertFile), abs(t.KeyFile), abs(t.ClientCA)
	d := &c.Docker.TLS
	d.CAFile, d.CertFile, d.KeyFile = abs(d.CAFile), abs(d.CertFile), abs(d.KeyFile)
	c.Metrics.Prometheus.HTTP.SetDirectory(dir)
	c.Docker.HookToken.RelativeTo(dir)
	for i := range c.Notify {
		c.Notify[i].URL.RelativeTo(dir)
		c.Notify[i].HTTP.SetDirectory(dir)
	}
	for i := range c.FileSD {
		for k := range c.FileSD[i].Files {
			c.FileSD[i].Files[k] = abs(c.FileSD[i].Files[k])
		}
	}
	for i := range c.HTTPSD {
		c.HTTPSD[i].HTTP.SetDirectory(dir)
	}
}
