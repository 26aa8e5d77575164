package policy

import yaml "go.yaml.in/yaml/v4"

// NoLimit is Envoy's largest threshold.
const NoLimit = 1<<32 - 1

// Limits are how much one Envoy lets one version have at a time. A request beyond Pending or Requests is
// dropped with 503, and is no error of the version.
type Limits struct {
	Connections int `yaml:"connections" json:"connections"` // HTTP/1: requests in progress; further ones wait
	Pending     int `yaml:"pending" json:"pending"`         // requests that wait for a connection
	Requests    int `yaml:"requests" json:"requests"`       // in progress, over all connections
	Retries     int `yaml:"retries" json:"retries"`         // in progress; beyond it the first answer is final
}

// defaultLimits hurt no healthy version, and leave room for others when one hangs: docs/decisions.md has the
// reasons.
func defaultLimits() Limits {
	return Limits{Connections: 20_000, Pending: 20_000, Requests: NoLimit, Retries: 3}
}

// UnmarshalYAML reads limits over their defaults.
func (l *Limits) UnmarshalYAML(n *yaml.Node) error {
	type keys Limits
	*l = defaultLimits()
	return decode(n, (*keys)(l))
}

// Thresholds are the limits, written or not.
func (r *Route) Thresholds() Limits {
	if r.Limits == nil {
		return defaultLimits()
	}
	return *r.Limits
}

func (c *check) limits(r *Route) {
	if r.Limits == nil {
		return
	}
	l := r.Thresholds()
	for _, k := range []struct {
		key         string
		v, least    int
		consequence string
	}{
		{"connections", l.Connections, 1, "no request would reach a version"},
		{"pending", l.Pending, 1, "a request that needs a new connection waits for it, so none would reach a version"},
		{"requests", l.Requests, 1, "every request would be dropped"},
		{"retries", l.Retries, 0, ""},
	} {
		switch path := "route.limits." + k.key; {
		case k.v == 0 && k.least == 1:
			c.fail(path, "with %s 0 %s: write 1 or more, or leave the key out", k.key, k.consequence)
		case k.v < k.least || k.v > NoLimit:
			c.fail(path, "%s must be %d to %d", k.key, k.least, NoLimit)
		}
	}
	if l.Requests < NoLimit && l.Pending < defaultLimits().Pending {
		c.warn("route.limits", "with both requests and pending, load reports do not say which of the two dropped a request: as long as pending drops some, as many failures of the version go uncounted; write one of them")
	}
}
