package main

import (
	"math"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/xds"
)

// xdsConfig is what canaryd.yml says of the Envoys.
type xdsConfig struct {
	Listen      string          `yaml:"listen"`
	Insecure    bool            `yaml:"insecure"` // listens beyond loopback without TLS, and that is meant
	TLS         tlsConfig       `yaml:"tls"`
	Nodes       []nodeConfig    `yaml:"nodes"`        // as which nodes certificates may speak
	StrictNodes bool            `yaml:"strict_nodes"` // without nodes: who is not the node of its certificate is refused
	Limits      limitsConfig    `yaml:"limits"`
	ForgetAfter policy.Duration `yaml:"forget_after"` // an Envoy that is not connected: so long nothing is stopped that it may still send users to
}

// nodeConfig is an xds.NodeRule.
type nodeConfig struct {
	SAN      string   `yaml:"san"`
	ID       string   `yaml:"id"`
	Cluster  string   `yaml:"cluster"`
	Services []string `yaml:"services"`
}

// limitsConfig are the xds.Limits.
type limitsConfig struct {
	StreamsPerPeer     int             `yaml:"streams_per_peer"`
	FirstMessage       policy.Duration `yaml:"first_message"`
	NamesPerType       int             `yaml:"names_per_type"`
	NamesPerPeer       int             `yaml:"names_per_peer"`
	BytesPerPeer       int             `yaml:"bytes_per_peer"`
	BytesPerSecond     int             `yaml:"bytes_per_second"`
	RequestBytes       int             `yaml:"request_bytes"`
	RefusalBytes       int             `yaml:"refusal_bytes"`
	ReportsPerSecond   int             `yaml:"reports_per_second"`
	EndpointsPerReport int             `yaml:"endpoints_per_report"`
	MetricsPerReport   int             `yaml:"metrics_per_report"`
	ConnectionAge      policy.Duration `yaml:"connection_age"`
}

func defaultXDSConfig() xdsConfig {
	l := xds.DefaultLimits()
	return xdsConfig{Listen: "127.0.0.1:18000", ForgetAfter: policy.Duration(xds.ForgetAfter), Limits: limitsConfig{
		StreamsPerPeer: l.StreamsPerPeer, FirstMessage: policy.Duration(l.FirstMessage), NamesPerType: l.NamesPerType,
		NamesPerPeer: l.NamesPerPeer, BytesPerPeer: l.BytesPerPeer, BytesPerSecond: l.BytesPerSecond,
		RequestBytes: l.RequestBytes, RefusalBytes: l.RefusalBytes, ReportsPerSecond: l.ReportsPerSecond,
		EndpointsPerReport: l.EndpointsPerReport, MetricsPerReport: l.MetricsPerReport, ConnectionAge: policy.Duration(l.ConnectionAge),
	}}
}

// admission is what the server is told.
func (c *xdsConfig) admission() xds.Admission {
	l := c.Limits
	a := xds.Admission{Strict: c.StrictNodes, Limits: xds.Limits{
		StreamsPerPeer: l.StreamsPerPeer, FirstMessage: l.FirstMessage.Std(), NamesPerType: l.NamesPerType,
		NamesPerPeer: l.NamesPerPeer, BytesPerPeer: l.BytesPerPeer, BytesPerSecond: l.BytesPerSecond,
		RequestBytes: l.RequestBytes, RefusalBytes: l.RefusalBytes, ReportsPerSecond: l.ReportsPerSecond,
		EndpointsPerReport: l.EndpointsPerReport, MetricsPerReport: l.MetricsPerReport, ConnectionAge: l.ConnectionAge.Std(),
	}}
	for _, n := range c.Nodes {
		a.Nodes = append(a.Nodes, xds.NodeRule(n))
	}
	return a
}

func (c *xdsConfig) validate(say func(path, format string, args ...any)) {
	if c.ForgetAfter.Std() < time.Minute {
		say("xds.forget_after", "must be 1m at least: an Envoy that reconnects is not gone")
	}
	switch t := c.TLS; {
	case (t.CertFile == "") != (t.KeyFile == ""):
		say("xds.tls", "cert_file and key_file belong together")
	case t.ClientCA != "" && t.CertFile == "":
		say("xds.tls.client_ca_file", "client_ca_file needs cert_file and key_file: without them there is no TLS, and nobody shows a certificate")
	}
	if len(c.Nodes) > 0 && c.TLS.ClientCA == "" {
		say("xds.nodes", "xds.nodes needs xds.tls.client_ca_file: without it no Envoy proves who it is")
	}
	if c.StrictNodes && c.TLS.ClientCA == "" {
		say("xds.strict_nodes", "xds.strict_nodes needs xds.tls.client_ca_file: without it no Envoy proves who it is")
	}
	for i, n := range c.Nodes {
		if err := xds.NodeRule(n).Check(); err != nil {
			say("xds.nodes", "xds.nodes[%d]: %v", i, err)
		}
	}
	c.Limits.validate(say)
}

// What is more is none, and sums of it might be less than nothing.
const (
	limitMost = math.MaxInt / 16
	ageMost   = policy.Duration(10 * 365 * 24 * time.Hour)
)

func (l *limitsConfig) validate(say func(path, format string, args ...any)) {
	for _, k := range []struct {
		key    string
		is, at int
	}{
		{"streams_per_peer", l.StreamsPerPeer, 2}, {"names_per_type", l.NamesPerType, 1},
		{"names_per_peer", l.NamesPerPeer, l.NamesPerType}, {"bytes_per_peer", l.BytesPerPeer, 2 * l.RequestBytes}, {"bytes_per_second", l.BytesPerSecond, 65536}, {"request_bytes", l.RequestBytes, 256 << 10},
		{"refusal_bytes", l.RefusalBytes, 64}, {"reports_per_second", l.ReportsPerSecond, 2}, {"endpoints_per_report", l.EndpointsPerReport, 1}, {"metrics_per_report", l.MetricsPerReport, 1},
	} {
		switch {
		case k.is > limitMost:
			say("xds.limits."+k.key, "xds.limits.%s must be %d at most", k.key, limitMost)
		case k.is < k.at:
			say("xds.limits."+k.key, "xds.limits.%s must be %d at least", k.key, k.at)
		}
	}
	for _, k := range []struct {
		key    string
		is, at policy.Duration
	}{{"first_message", l.FirstMessage, policy.Duration(time.Second)}, {"connection_age", l.ConnectionAge, policy.Duration(10 * time.Second)}} {
		switch {
		case k.is > ageMost:
			say("xds.limits."+k.key, "xds.limits.%s must be %s at most", k.key, ageMost)
		case k.is < k.at:
			say("xds.limits."+k.key, "xds.limits.%s must be %s at least", k.key, k.at)
		}
	}
}
