// Package policy turns policy YAML into a Policy, or into every mistake of the file with its position.
// It is pure: bytes in, values out; no files, no clock, no logs.
package policy

import (
	"math"
	"slices"
	"strings"
)

// Policy is what an operator wants for one service. Only Service is required.
type Policy struct {
	Service        string         `yaml:"service" json:"service"`
	Route          Route          `yaml:"route" json:"route"`
	Versions       []Seed         `yaml:"versions" json:"versions,omitempty"`
	Ramp           Ramp           `yaml:"ramp" json:"ramp"`
	Judge          Judge          `yaml:"judge" json:"judge"`
	Sessions       *Sessions      `yaml:"sessions,omitempty" json:"sessions,omitempty"`
	Drain          Drain          `yaml:"drain" json:"drain"`
	AfterPromotion AfterPromotion `yaml:"after_promotion" json:"after_promotion"`
	Docker         *Docker        `yaml:"docker,omitempty" json:"docker,omitempty"`
}

// Route says which requests belong to the service.
type Route struct {
	Domains           []string `yaml:"domains" json:"domains"`
	Listener          string   `yaml:"listener" json:"listener,omitempty"`
	Nodes             []string `yaml:"nodes" json:"nodes,omitempty"`
	Timeout           Duration `yaml:"timeout" json:"timeout"`
	MaxStreamDuration Duration `yaml:"max_stream_duration" json:"max_stream_duration,omitempty"`
	Protocol          string   `yaml:"protocol" json:"protocol"`
	UserKey           *UserKey `yaml:"user_key,omitempty" json:"user_key,omitempty"`
	Testers           *Testers `yaml:"testers,omitempty" json:"testers,omitempty"`
	HealthPath        string   `yaml:"health_path" json:"health_path,omitempty"`
	Probe             string   `yaml:"probe" json:"probe"`

	HealthCheck *HealthCheck `yaml:"health_check,omitempty" json:"health_check,omitempty"`
	Outlier     *Outlier     `yaml:"outlier,omitempty" json:"outlier,omitempty"`
	Limits      *Limits      `yaml:"limits,omitempty" json:"limits,omitempty"`

	Classes []Class `yaml:"classes,omitempty" json:"classes,omitempty"`
}

// GRPC reports whether the service speaks gRPC.
func (r *Route) GRPC() bool { return r.Protocol == ProtocolGRPC }

// Place is a listener or a host of canaryd's listeners, or what somebody has of the hosts of a listener.
type Place struct {
	Name  string
	Nodes string // the cluster whose nodes have it; empty: all nodes do
	Host  string // of the listener, on any nodes: "*" is all of its hosts
}

// Wider is the place that this one is a part of: the same one on all nodes, or all hosts of the listener. The widest one is a part of itself.
func (p Place) Wider() Place {
	if p.Host != "" {
		return Place{Name: p.Name, Host: "*"}
	}
	return Place{Name: p.Name}
}

// Places are the listeners and hosts that the service has on canaryd's listeners, on each kind of nodes. Who has all hosts of a
// listener shares it with nobody, on no nodes.
func (r *Route) Places() (out []Place) {
	if r.Listener == "" {
		return nil
	}
	nodes := r.Nodes
	if len(nodes) == 0 {
		nodes = []string{""}
	}
	for _, n := range nodes {
		out = append(out, Place{Name: r.Listener, Nodes: n})
		for _, h := range r.Domains {
			if h != "*" {
				out = append(out, Place{Name: strings.ToLower(h), Nodes: n})
			}
		}
	}
	for _, h := range r.Domains {
		out = append(out, Place{Name: r.Listener, Host: strings.ToLower(h)})
	}
	return out
}

// Testers name the header or the cookie by which testers choose a version, whatever its weight. Its
// value is the version's name, behind Key and a colon where there is a key.
type Testers struct {
	Header string `yaml:"header" json:"header,omitempty"`
	Cookie string `yaml:"cookie" json:"cookie,omitempty"`
	Key    string `yaml:"key" json:"key,omitempty"`
}

// Value is what a tester of a version sends.
func (t *Testers) Value(version string) string {
	if t.Key == "" {
		return version
	}
	return t.Key + ":" + version
}

// HealthCheck makes the Envoys ask every endpoint: HealthPath, gRPC health, or a TCP connection.
type HealthCheck struct {
	Interval  Duration `yaml:"interval" json:"interval"`
	Timeout   Duration `yaml:"timeout" json:"timeout"`
	Unhealthy int      `yaml:"unhealthy" json:"unhealthy"` // failures in a row
	Healthy   int      `yaml:"healthy" json:"healthy"`     // successes in a row
}

// Outlier makes an Envoy eject an endpoint whose requests fail in a row.
type Outlier struct {
	Errors   int      `yaml:"errors" json:"errors"` // in a row
	EjectFor Duration `yaml:"eject_for" json:"eject_for"`
	AtMost   Share    `yaml:"at_most" json:"at_most"` // of a version's endpoints
}

// UserKey names the header or the cookie that identifies a user with `ramp.per: user`.
type UserKey struct {
	Header string `yaml:"header" json:"header,omitempty"`
	Cookie string `yaml:"cookie" json:"cookie,omitempty"`
}

// Seed is a version known from the start; it is read only while the service has no stored state.
type Seed struct {
	Version   string   `yaml:"version" json:"version"`
	Endpoints []string `yaml:"endpoints" json:"endpoints"`
	Stable    bool     `yaml:"stable" json:"stable,omitempty"`
}

// Ramp is how a canary's weight may grow.
type Ramp struct {
	Steps    Steps    `yaml:"steps" json:"steps,omitempty"`
	Hold     Duration `yaml:"hold" json:"hold"`
	Per      string   `yaml:"per" json:"per"`
	Canaries int      `yaml:"canaries" json:"canaries"`
}

// Judge is the statistical part of the policy; STATISTICS: alpha, beta, r0/d0, r1/d1, B, m.
type Judge struct {
	FalseRollback  Share      `yaml:"false_rollback" json:"false_rollback"`
	FalsePromotion Share      `yaml:"false_promotion" json:"false_promotion"`
	Tolerate       Bound      `yaml:"tolerate" json:"tolerate"`
	PromoteWithin  Within     `yaml:"promote_within" json:"promote_within"`
	Budget         float64    `yaml:"budget" json:"budget"`
	MaxErrorRate   Share      `yaml:"max_error_rate,omitempty" json:"max_error_rate,omitempty"`
	Clump          Clump      `yaml:"clump" json:"clump,omitempty"`
	Burst          Duration   `yaml:"burst" json:"burst,omitempty"`       // for so long one cause may fail everything
	Exercise       int        `yaml:"exercise" json:"exercise,omitempty"` // successes in every class that stable serves, before a promotion; 0: none
	WarmUp         Duration   `yaml:"warm_up" json:"warm_up,omitempty"`
	NoEvidence     NoEvidence `yaml:"no_evidence" json:"no_evidence"`
	Deadline       Deadline   `yaml:"deadline" json:"deadline"`
	GRPCErrors     []string   `yaml:"grpc_errors" json:"grpc_errors,omitempty"`
	Queries        *Queries   `yaml:"queries,omitempty" json:"queries,omitempty"`
	Slow           *Slow      `yaml:"slow,omitempty" json:"slow,omitempty"`
	Hang           Hang       `yaml:"hang" json:"hang,omitempty"`
}

// Bound reads: error rate <= Ratio x stable's + Margin.
type Bound struct {
	Ratio  float64 `yaml:"ratio" json:"ratio"`
	Margin Share   `yaml:"margin" json:"margin"`
}

// Within reads: error rate <= Ratio x stable's + the larger of Margin and what Cost failed requests an hour are.
type Within struct {
	Ratio  float64 `yaml:"ratio" json:"ratio"`
	Margin Share   `yaml:"margin" json:"margin"`
	Cost   float64 `yaml:"cost" json:"cost,omitempty"`           // 0: the margin alone counts
	Slow   *Swift  `yaml:"slow,omitempty" json:"slow,omitempty"` // the same of slow answers; nil: no proof is asked for
}

// NoEvidence says what happens when nothing was learnt for so long.
type NoEvidence struct {
	For  Duration `yaml:"for" json:"for"`
	Then string   `yaml:"then" json:"then"`
}

// Deadline says what happens to a canary undecided for so long.
type Deadline struct {
	After Duration `yaml:"after" json:"after"`
	Then  string   `yaml:"then" json:"then"`
}

// Queries are plain PromQL counter selectors that replace Envoy's own counters.
type Queries struct {
	Requests string `yaml:"requests" json:"requests"`
	Errors   string `yaml:"errors" json:"errors"`
	Class    string `yaml:"class" json:"class,omitempty"`     // the label that names the class of requests; empty: they are not told apart
	Buckets  string `yaml:"buckets" json:"buckets,omitempty"` // of a histogram of how long answers took; empty: that is not known
}

// ClassLabel is the label that names the class of requests in Prometheus; empty: there is none.
func (j *Judge) ClassLabel() string {
	if j.Queries == nil {
		return ""
	}
	return j.Queries.Class
}

// Sessions are pinned by cookie for TTL.
type Sessions struct {
	Cookie string   `yaml:"cookie" json:"cookie"`
	TTL    Duration `yaml:"ttl" json:"ttl"`
}

// Drain bounds how long an old version keeps its pinned sessions. With Quiet, one that got no request
// for so long is retired sooner.
type Drain struct {
	AtMost Duration `yaml:"at_most" json:"at_most"`
	Quiet  Duration `yaml:"quiet" json:"quiet,omitempty"`
}

// AfterPromotion says how long the old version stays warm, and with what share of traffic.
type AfterPromotion struct {
	Watch   Duration `yaml:"watch" json:"watch"`
	Control Share    `yaml:"control" json:"control,omitempty"`
}

// Docker describes the container that an image tag becomes.
type Docker struct {
	Image         string            `yaml:"image" json:"image"`
	Port          int               `yaml:"port" json:"port"`
	Command       []string          `yaml:"command" json:"command,omitempty"` // in the place of the image's own
	Env           map[string]Secret `yaml:"env" json:"env,omitempty"`
	Volumes       []string          `yaml:"volumes" json:"volumes,omitempty"` // as in `docker run -v`
	Labels        map[string]string `yaml:"labels" json:"labels,omitempty"`
	Network       string            `yaml:"network" json:"network,omitempty"` // default: Docker's bridge
	Replicas      int               `yaml:"replicas" json:"replicas"`
	Memory        Bytes             `yaml:"memory" json:"memory,omitempty"` // 0: no limit
	CPUs          float64           `yaml:"cpus" json:"cpus,omitempty"`     // 0: no limit
	Tags          string            `yaml:"tags" json:"tags,omitempty"`     // what a registry's push deploys; empty: nothing
	StartWithin   Duration          `yaml:"start_within" json:"start_within"`
	StopIdleAfter Duration          `yaml:"stop_idle_after" json:"stop_idle_after"` // without a request, of versions that are out of service
	Keep          int               `yaml:"keep" json:"keep"`                       // ended versions whose image, and stopped container, stay
	Publish       string            `yaml:"publish" json:"publish,omitempty"`       // address of the Docker host at which ports are published; empty: containers are reached at their own
	Healthcheck   *Healthcheck      `yaml:"healthcheck,omitempty" json:"healthcheck,omitempty"`
	Discover      string            `yaml:"discover,omitempty" json:"discover,omitempty"` // labels: containers that others start and label are versions of the service

	User          string   `yaml:"user" json:"user,omitempty"`                     // empty: the image's
	Capabilities  []string `yaml:"capabilities" json:"capabilities,omitempty"`     // that its processes may have; none
	NewPrivileges bool     `yaml:"new_privileges" json:"new_privileges,omitempty"` // by setuid programs and the like
	ReadOnly      bool     `yaml:"read_only" json:"read_only,omitempty"`           // its file system
}

// DiscoverLabels has containers that others started, and labelled, taken for versions of the service.
const DiscoverLabels = "labels"

// Labelled reports whether containers that others start are versions of the service.
func (d *Docker) Labelled() bool { return d != nil && d.Discover == DiscoverLabels }

// Healthcheck is what Docker runs in a container to learn whether it is well, written as in a compose
// file. It takes the place of the image's own.
type Healthcheck struct {
	Test        []string `yaml:"test" json:"test"` // [CMD, /app, -check], [CMD-SHELL, "curl …"] or [NONE]
	Interval    Duration `yaml:"interval" json:"interval,omitempty"`
	Timeout     Duration `yaml:"timeout" json:"timeout,omitempty"`
	StartPeriod Duration `yaml:"start_period" json:"start_period,omitempty"`
	Retries     int      `yaml:"retries" json:"retries,omitempty"`
}

// Repository is the image's name within its registry.
func (d *Docker) Repository() string {
	first, rest, more := strings.Cut(d.Image, "/")
	if more && (strings.ContainsAny(first, ".:") || first == "localhost") {
		return rest
	}
	return d.Image
}

// Reference is the full name of the image that a tag or a full name means.
func (d *Docker) Reference(image string) string {
	if d.Image == "" || strings.ContainsAny(image, "/:@") {
		return image
	}
	return d.Image + ":" + image
}

// What a canary past its deadline, or without evidence, falls to.
const (
	ThenHold     = "hold"
	ThenRollback = "rollback"
)

// What a weight is a share of.
const (
	PerRequest = "request"
	PerUser    = "user"
)

// Whether canaryd asks the endpoints itself.
const (
	ProbeOn  = "on"
	ProbeOff = "off"
)

// What the service speaks.
const (
	ProtocolHTTP = "http"
	ProtocolGRPC = "grpc"
)

// GRPCErrors are the statuses that count as errors where the policy names none: those that Envoy's
// load reports count.
func GRPCErrors() []string {
	return []string{"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
}

// GRPCStatuses are the numbers of the statuses that count as errors; nil for a service that is not gRPC.
func (p *Policy) GRPCStatuses() []int {
	if !p.Route.GRPC() {
		return nil
	}
	names := p.Judge.GRPCErrors
	if len(names) == 0 {
		names = GRPCErrors()
	}
	var numbers []int
	for _, name := range names {
		numbers = append(numbers, slices.Index(GRPCStatuses(), name))
	}
	slices.Sort(numbers)
	return slices.Compact(numbers)
}

// GRPCStatuses are the names of the gRPC statuses in order of their numbers.
func GRPCStatuses() []string {
	return []string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
		"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}
}

// FullWeight is all of a service's traffic: weights are integers out of 10 000.
const FullWeight = 10000

// autoSteps is the ladder of `steps: auto` (STATISTICS.md 2.7).
func autoSteps() []int {
	return []int{10, 20, 50, 100, 200, 500, 1000, 2500, 5000, FullWeight}
}

// Auto reports whether the ramp chooses its own first step.
func (r Ramp) Auto() bool { return len(r.Steps) == 0 }

// Weights are the configured steps in parts of 10 000, strictly rising, the last one 10 000.
func (r Ramp) Weights() []int {
	if r.Auto() {
		return autoSteps()
	}
	w := make([]int, len(r.Steps))
	for i, s := range r.Steps {
		w[i] = s.Weight()
	}
	return w
}

// Next is the first configured step above weight, whatever the weight is: a policy edited in flight
// never causes a jump. 10 000 when there is none.
func (r Ramp) Next(weight int) int {
	if r.Auto() {
		for _, w := range autoSteps() {
			if w > weight {
				return w
			}
		}
	}
	for _, s := range r.Steps {
		if w := s.Weight(); w > weight {
			return w
		}
	}
	return FullWeight
}

// First is the lowest step.
func (r Ramp) First() int { return r.Next(0) }

// Weight is the share in parts of 10 000, rounded.
func (s Share) Weight() int { return int(math.Round(float64(s) * FullWeight)) }
