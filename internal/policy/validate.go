package policy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

type check struct {
	d      *Document
	unread Findings // what the decoder could not read
	fs     Findings
}

func (c *check) fail(path, format string, args ...any) { c.say(false, path, format, args...) }

func (c *check) warn(path, format string, args ...any) { c.say(true, path, format, args...) }

func (c *check) say(warning bool, path, format string, args ...any) {
	if Unread(c.d.root, path, c.unread) {
		return
	}
	f := c.d.Finding(path, fmt.Sprintf(format, args...))
	f.Warning = warning
	c.fs = append(c.fs, f)
}

func (c *check) oneOf(path, got string, want ...string) {
	if !slices.Contains(want, got) {
		c.fail(path, "%q is not possible here: write %s", got, strings.Join(want, " or "))
	}
}

func (d *Document) validate(unread Findings) Findings {
	c := &check{d: d, unread: unread}
	p := &d.Policy
	if err := ServiceName(p.Service); err != nil {
		c.fail("service", "%v", err)
	}
	c.route(&p.Route)
	c.protocol(p)
	c.testers(p.Route.Testers)
	c.health(&p.Route)
	c.limits(&p.Route)
	c.classes(&p.Route)
	c.versions(p.Versions)
	c.ramp(&p.Ramp)
	c.judge(&p.Judge)
	c.sessions(p)
	c.after(p.AfterPromotion)
	c.docker(p.Docker)
	return c.fs
}

func (c *check) route(r *Route) {
	if len(r.Domains) == 0 {
		c.fail("route.domains", "no domains: leave the key out for [\"*\"], or name at least one host")
	}
	seen := map[string]bool{}
	for i, d := range r.Domains {
		path := fmt.Sprintf("route.domains[%d]", i)
		if d != "*" && !hostName(d) {
			c.fail(path, "%q is not a host: write a plain host name, or \"*\" for all", d)
		}
		if seen[strings.ToLower(d)] {
			c.fail(path, "host %s is listed twice", d)
		}
		seen[strings.ToLower(d)] = true
	}
	if seen["*"] && len(seen) > 1 {
		c.fail("route.domains", "\"*\" already covers the other hosts: keep one or the other")
	}
	c.listener(r.Listener)
	c.oneOf("route.probe", r.Probe, ProbeOn, ProbeOff)
	if r.HealthPath != "" && !strings.HasPrefix(r.HealthPath, "/") {
		c.fail("route.health_path", "%q is not a path: begin it with /", r.HealthPath)
	}
	if k := r.UserKey; k != nil {
		if (k.Header == "") == (k.Cookie == "") {
			c.fail("route.user_key", "name either a header or a cookie")
		} else if !token(k.Header + k.Cookie) {
			c.fail("route.user_key", "%q cannot be the name of a header or cookie: write letters, digits, hyphens and underscores", k.Header+k.Cookie)
		}
	}
}

// protocol checks what differs for gRPC.
func (c *check) protocol(p *Policy) {
	c.oneOf("route.protocol", p.Route.Protocol, ProtocolHTTP, ProtocolGRPC)
	if len(p.Judge.GRPCErrors) > 0 && !p.Route.GRPC() {
		c.fail("judge.grpc_errors", "grpc_errors needs `route: {protocol: grpc}`")
	}
	for i, name := range p.Judge.GRPCErrors {
		if n := slices.Index(GRPCStatuses(), name); n < 1 {
			c.fail(fmt.Sprintf("judge.grpc_errors[%d]", i), "%q is not a gRPC status that can be an error: write one of %s", name, strings.Join(GRPCStatuses()[1:], ", "))
		}
	}
}

func (c *check) testers(t *Testers) {
	if t == nil {
		return
	}
	switch {
	case (t.Header == "") == (t.Cookie == ""):
		c.fail("route.testers", "name either a header or a cookie")
	case !token(t.Header + t.Cookie):
		c.fail("route.testers", "%q cannot be the name of a header or cookie: write letters, digits, hyphens and underscores", t.Header+t.Cookie)
	case t.Key == "":
		c.warn("route.testers", "without a key any client that knows the name %s can choose its version: write key, or remove the header at your edge", t.Header+t.Cookie)
	case !token(t.Key):
		c.fail("route.testers.key", "the key must be 1 to 64 letters, digits, hyphens and underscores")
	}
}

func (c *check) health(r *Route) {
	if h := r.HealthCheck; h != nil {
		if h.Interval.Std() < 100*time.Millisecond || h.Timeout <= 0 {
			c.fail("route.health_check", "interval must be 100ms or more, and timeout above 0s")
		}
		if h.Unhealthy < 1 || h.Healthy < 1 {
			c.fail("route.health_check", "unhealthy and healthy are numbers of answers in a row, 1 or more")
		}
	}
	if o := r.Outlier; o != nil {
		if o.Errors < 1 || o.EjectFor <= 0 || o.AtMost < 0 || o.AtMost > 1 {
			c.fail("route.outlier", "errors must be 1 or more, eject_for above 0s, at_most 0%% to 100%%")
		}
	}
}

func (c *check) listener(l string) {
	if l == "" {
		return
	}
	host, _, err := net.SplitHostPort(l)
	if err == nil {
		err = endpoint(l)
	}
	if err != nil {
		c.fail("route.listener", "%q is not an address to listen on: write IP:PORT, as in 0.0.0.0:10000", l)
		return
	}
	if _, err := netip.ParseAddr(host); err != nil {
		c.fail("route.listener", "%q: Envoy listens on an IP address, not on a name; 0.0.0.0 means all", l)
	}
}

func (c *check) versions(seeds []Seed) {
	stable := 0
	wire := map[string]string{}
	for i, s := range seeds {
		path := fmt.Sprintf("versions[%d]", i)
		if err := VersionName(s.Version); err != nil {
			c.fail(path+".version", "%v", err)
		}
		if err := EndpointList(s.Endpoints); err != nil {
			c.fail(path+".endpoints", "%v", err)
		}
		switch other, taken := wire[WireName(s.Version)]; {
		case taken && other == s.Version:
			c.fail(path+".version", "version %s is listed twice", s.Version)
		case taken:
			c.fail(path+".version", "versions %s and %s have the same name in Envoy's statistics (dots become underscores): rename one", other, s.Version)
		}
		wire[WireName(s.Version)] = s.Version
		if s.Stable {
			stable++
		}
	}
	if len(seeds) > 0 && stable != 1 {
		c.fail("versions", "%d versions are marked `stable: true`: mark exactly one", stable)
	}
}

func (c *check) ramp(r *Ramp) {
	weights := r.Weights()
	if !r.Auto() {
		for i, s := range r.Steps {
			path := fmt.Sprintf("ramp.steps[%d]", i)
			if d := float64(s)*FullWeight - float64(s.Weight()); d > 1e-6 || d < -1e-6 || s.Weight() == 0 {
				c.fail(path, "%s: a step is a whole number of hundredths of a percent, 0.01%% at least", s)
			}
			if i > 0 && weights[i] <= weights[i-1] {
				c.fail(path, "steps must rise: %s does not follow %s", s, r.Steps[i-1])
			}
		}
		if last := len(weights) - 1; weights[last] != FullWeight {
			c.fail(fmt.Sprintf("ramp.steps[%d]", last), "the last step must be 100%%")
		} else if last == 0 || weights[last-1] > 9000 {
			c.fail("ramp.steps", "write at least one step, of at most 90%%, right before 100%%: promotion is decided there, against stable's own traffic")
		}
	}
	c.oneOf("ramp.per", r.Per, PerRequest, PerUser)
	if r.Canaries < 1 || r.Canaries > 100 {
		c.fail("ramp.canaries", "%d canaries: write 1 to 100", r.Canaries)
	}
}

func (c *check) judge(j *Judge) {
	for _, s := range []struct {
		key string
		v   Share
		max Share
	}{{"false_rollback", j.FalseRollback, 0.2}, {"false_promotion", j.FalsePromotion, 0.5}} {
		if s.v <= 0 || s.v > s.max {
			c.fail("judge."+s.key, "%s is out of range: above 0%% and at most %s", s.v, s.max)
		}
	}
	t, w := j.Tolerate, j.PromoteWithin
	if !(t.Ratio >= 1 && t.Ratio <= 100) {
		c.fail("judge.tolerate.ratio", "ratio must be 1 to 100")
	}
	if !(w.Ratio >= t.Ratio && w.Ratio <= 100) {
		c.fail("judge.promote_within.ratio", "promote_within.ratio must be at least tolerate.ratio (%g) and at most 100: otherwise the same numbers could both roll a release back and promote it", t.Ratio)
	}
	if w.Margin <= 0 {
		c.fail("judge.promote_within.margin", "promote_within.margin must be above 0%%: otherwise a version without errors could never be proven equal to another one")
	} else if w.Margin < t.Margin {
		c.fail("judge.promote_within.margin", "promote_within.margin must be at least tolerate.margin (%s)", t.Margin)
	}
	if !(w.Cost >= 0 && w.Cost <= 1e9) {
		c.fail("judge.promote_within.cost", "cost is a number of failed requests an hour, or 0 for none")
	}
	if !(j.Budget > 0 && j.Budget <= 1e9) {
		c.fail("judge.budget", "budget is a number of failed requests above 0")
	}
	if j.Exercise < 0 || j.Exercise > 1000 {
		c.fail("judge.exercise", "exercise is %d: write 0 (off) to 1000 successful answers", j.Exercise)
	}
	if j.Burst > Duration(5*time.Second) {
		c.fail("judge.burst", "burst is %s: write 0s to 5s", j.Burst)
	}
	if j.MaxErrorRate == 0 && Has(c.d.root, "judge.max_error_rate") {
		c.fail("judge.max_error_rate", "max_error_rate 0%% would roll back at the first error: write a rate above 0%%, or leave the key out for no ceiling")
	}
	c.slow(j)
	c.oneOf("judge.no_evidence.then", j.NoEvidence.Then, ThenHold, ThenRollback)
	c.oneOf("judge.deadline.then", j.Deadline.Then, ThenHold, ThenRollback)
	if j.Deadline.After <= 0 {
		c.fail("judge.deadline.after", "the deadline must be above 0s")
	}
	if j.NoEvidence.For <= 0 {
		c.fail("judge.no_evidence.for", "no_evidence.for must be above 0s")
	}
	if q := j.Queries; q != nil {
		c.selector("judge.queries.requests", q.Requests)
		c.selector("judge.queries.errors", q.Errors)
		c.classLabel(q)
		c.buckets(q.Buckets)
	}
}

func (c *check) sessions(p *Policy) {
	s := p.Sessions
	if s == nil {
		return
	}
	if !token(s.Cookie) {
		c.fail("sessions.cookie", "%q cannot be a cookie name: write letters, digits, hyphens and underscores", s.Cookie)
	}
	if s.TTL <= 0 {
		c.fail("sessions.ttl", "ttl must be above 0s: it is how long a session lasts")
	} else if k := p.Route.UserKey; k != nil && k.Cookie == s.Cookie {
		c.fail("sessions.cookie", "cookie %s is route.user_key's already: the pin of a session and the key of a user are two cookies", s.Cookie)
	} else if t := p.Route.Testers; t != nil && t.Cookie == s.Cookie {
		c.fail("sessions.cookie", "cookie %s is that of route.testers already: take another name", s.Cookie)
	} else if s.TTL > p.Drain.AtMost {
		c.fail("sessions.ttl", "a session may live %s but drain.at_most is %s: sessions would end early; raise drain.at_most", s.TTL, p.Drain.AtMost)
	}
}

func (c *check) after(a AfterPromotion) {
	if a.Control > 0.5 {
		c.fail("after_promotion.control", "%s: at most 50%% may stay on the old version", a.Control)
	}
	if a.Control > 0 && a.Watch == 0 {
		c.fail("after_promotion.control", "a control share needs a watch: set after_promotion.watch")
	}
}
