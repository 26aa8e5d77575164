package policy

import (
	"errors"
	"time"

	yaml "go.yaml.in/yaml/v4"
)

// Defaults are set before the file is decoded, never after: a zero that is written, in a merged mapping
// too, is not taken for a missing key.

// Default returns the policy of a service that says nothing but its name.
func Default() Policy {
	return Policy{
		Route: Route{Domains: []string{"*"}, Timeout: Duration(15 * time.Second), Protocol: ProtocolHTTP, Probe: ProbeOn},
		Ramp:  Ramp{Hold: Duration(time.Minute), Per: PerRequest, Canaries: 3},
		Judge: Judge{
			FalseRollback: 0.001, FalsePromotion: 0.01,
			Tolerate:      Bound{Ratio: 1.1, Margin: 0.0001},
			PromoteWithin: Within{Ratio: 1.5, Margin: 0.0005, Cost: 20},
			Budget:        20,
			Burst:         Duration(300 * time.Millisecond),
			Exercise:      3,
			Hang:          Hang(5 * time.Second),
			NoEvidence:    NoEvidence{For: Duration(10 * time.Minute), Then: ThenHold},
			Deadline:      Deadline{After: Duration(24 * time.Hour), Then: ThenHold},
		},
		Drain:          Drain{AtMost: Duration(24 * time.Hour)},
		AfterPromotion: AfterPromotion{Watch: Duration(30 * time.Minute)},
	}
}

// unwritten stands for a key whose default depends on others, until complete; no file can say it.
const unwritten = Duration(-1)

// toDecode is what a document is decoded over.
func toDecode() Policy {
	p := Default()
	p.Route.Timeout = unwritten
	return p
}

// complete sets the defaults that depend on what else is written.
func (p *Policy) complete() {
	if p.Route.Timeout == unwritten {
		p.Route.Timeout = Default().Route.Timeout
		if p.Route.GRPC() { // calls have deadlines of their own and may be streams
			p.Route.Timeout = 0
		}
	}
	if p.Ramp.Per == PerUser && p.Route.UserKey == nil {
		p.Route.UserKey = &UserKey{Cookie: "canaryd-user"}
	}
}

// UnmarshalYAML reads a health check over its defaults.
func (h *HealthCheck) UnmarshalYAML(n *yaml.Node) error {
	type keys HealthCheck
	*h = HealthCheck{Interval: Duration(5 * time.Second), Timeout: Duration(time.Second), Unhealthy: 3, Healthy: 1}
	return decode(n, (*keys)(h))
}

// UnmarshalYAML reads an outlier detection over its defaults.
func (o *Outlier) UnmarshalYAML(n *yaml.Node) error {
	type keys Outlier
	*o = Outlier{Errors: 5, EjectFor: Duration(30 * time.Second), AtMost: 0.5}
	return decode(n, (*keys)(o))
}

// UnmarshalYAML reads sessions over their defaults.
func (s *Sessions) UnmarshalYAML(n *yaml.Node) error {
	type keys Sessions
	*s = Sessions{TTL: Duration(30 * time.Minute)}
	return decode(n, (*keys)(s))
}

// UnmarshalYAML reads a container over its defaults.
func (d *Docker) UnmarshalYAML(n *yaml.Node) error {
	type keys Docker
	*d = Docker{Replicas: 1, StartWithin: Duration(2 * time.Minute), StopIdleAfter: Duration(time.Hour), Keep: 3}
	return decode(n, (*keys)(d))
}

// decode is Decode within an UnmarshalYAML: the library keeps the position of an error only if it comes
// in a list.
func decode(n *yaml.Node, v any) error {
	err := n.Load(v, yaml.WithKnownFields())
	var many *yaml.LoadErrors
	var one *yaml.LoadError
	if !errors.As(err, &many) && errors.As(err, &one) {
		return &yaml.LoadErrors{Errors: []*yaml.LoadError{one}}
	}
	return err
}
