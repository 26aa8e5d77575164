package metrics

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

const (
	longestGap    = 5 * time.Minute // counters further apart tell too little
	namesPerQuery = 2500
	queryTimeout  = 10 * time.Second
	restRound     = 30 * time.Second // how often services at rest are asked about
)

// The parts of a version's two counters, in Envoy's own metrics.
var envoyParts = map[string]int{
	"envoy_cluster_upstream_rq_completed":       0,
	"envoy_cluster_retry_upstream_rq_completed": 1,
	"envoy_cluster_upstream_rq_xx":              2,
	"envoy_cluster_retry_upstream_rq_xx":        3,
}

// Prometheus is the source of evidence that reads counters, sample by sample, from a Prometheus
// server that scrapes the Envoys.
type Prometheus struct {
	tally
	api      promv1.API
	interval time.Duration

	mu      sync.Mutex
	targets []Target

	progress map[string]*progress // by service
	scrape   time.Duration        // longest distance of two samples seen lately
	asked    time.Time            // last round that worked
	restedAt time.Time            // last round with services at rest
}

// progress is how far a service's counters were read.
type progress struct {
	refs  map[string]sample // by instance
	fresh time.Time         // newest cell
	since time.Time

	atRest bool
}

// parts are the counters of one version: requests, retried ones, errors, retried errors, gRPC errors.
type parts [5]float64

// sample are the counters of all versions in one scrape of one instance.
type sample struct {
	at       time.Time
	versions map[string]parts
}

// NewPrometheus makes the source. The transport carries auth and TLS.
func NewPrometheus(url string, rt http.RoundTripper, interval time.Duration) (*Prometheus, error) {
	c, err := api.NewClient(api.Config{Address: url, RoundTripper: rt})
	if err != nil {
		return nil, fmt.Errorf("prometheus %s: %w", url, err)
	}
	return &Prometheus{api: promv1.NewAPI(c), interval: interval, progress: map[string]*progress{}}, nil
}

// Watch implements Source.
func (p *Prometheus) Watch(targets []Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.targets = slices.Clone(targets)
}

// Run implements Source.
func (p *Prometheus) Run(ctx context.Context, deliver func([]Evidence)) error {
	t := time.NewTicker(p.interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			p.mu.Lock()
			targets := p.targets
			p.mu.Unlock()
			if len(targets) > 0 {
				deliver(p.Round(ctx, targets))
			}
		}
	}
}

// Round asks once for everything.
func (p *Prometheus) Round(ctx context.Context, targets []Target) []Evidence {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	now := time.Now()
	p.keep(targets, now)
	window := p.window(now)
	targets, window = p.withRest(targets, window, now)
	failures := map[string]error{}
	samples := map[string]map[string]map[int64]sample{} // service, instance, time
	p.envoyCounters(ctx, now, window, targets, samples, failures)
	p.ownCounters(ctx, now, window, targets, samples, failures)
	var out []Evidence
	var silent []Target
	for _, t := range targets {
		ev := Evidence{Service: t.Service}
		if err := failures[t.Service]; err != nil && t.AtRest {
			continue
		} else if err != nil {
			ev.Missing = failureOf(err)
			out = append(out, ev)
			continue
		}
		ev.Cells = p.cells(t, samples[t.Service])
		if t.AtRest && len(ev.Cells) == 0 {
			continue
		}
		if len(ev.Cells) == 0 && p.overdue(t, now) {
			silent = append(silent, t)
			continue
		}
		if len(ev.Cells) > 0 {
			ev.Batch = p.scrape
			out = append(out, ev)
		}
	}
	if len(failures) == 0 {
		p.asked = now
	}
	if len(silent) > 0 {
		out = append(out, p.silence(ctx, now, silent)...)
	}
	return out
}

func (p *Prometheus) keep(targets []Target, now time.Time) {
	next := map[string]*progress{}
	for _, t := range targets {
		if next[t.Service] = p.progress[t.Service]; next[t.Service] == nil {
			next[t.Service] = &progress{refs: map[string]sample{}, since: now}
		}
		if pr := next[t.Service]; pr.atRest != t.AtRest {
			pr.atRest, pr.since = t.AtRest, now
		}
	}
	p.progress = next
}

// withRest leaves services at rest out of most rounds; those that they are in reach back further.
func (p *Prometheus) withRest(targets []Target, window time.Duration, now time.Time) ([]Target, time.Duration) {
	ago := now.Sub(p.restedAt)
	if ago >= restRound {
		p.restedAt = now
		return targets, max(window, min(ago+2*p.scrape+5*time.Second, longestGap).Truncate(time.Second))
	}
	return slices.DeleteFunc(slices.Clone(targets), func(t Target) bool { return t.AtRest }), window
}

// window reaches back to the samples of the last round, five minutes at most.
func (p *Prometheus) window(now time.Time) time.Duration {
	for _, pr := range p.progress {
		if len(pr.refs) == 0 && !pr.atRest {
			return longestGap
		}
	}
	if p.asked.IsZero() || p.scrape == 0 {
		return longestGap
	}
	w := now.Sub(p.asked) + 2*p.scrape + 5*time.Second
	return min(w.Truncate(time.Second), longestGap)
}

func (p *Prometheus) query(ctx context.Context, selector string, now time.Time, window time.Duration) (model.Matrix, error) {
	p.queries.Add(1)
	q := fmt.Sprintf("%s[%ds]", selector, int(window.Seconds()))
	v, _, _, err := p.api.Query(ctx, q, now)
	if err != nil {
		p.failures.Add(1)
		return nil, err
	}
	m, ok := v.(model.Matrix)
	if !ok {
		return nil, fmt.Errorf("prometheus answered a %s to %s", v.Type(), q)
	}
	return m, nil
}

// envoyCounters reads Envoy's counters of all services in queries split by size only.
func (p *Prometheus) envoyCounters(ctx context.Context, now time.Time, window time.Duration, targets []Target,
	into map[string]map[string]map[int64]sample, failures map[string]error) {
	owner := map[string][2]string{} // envoy_cluster_name: service, version
	for _, t := range targets {
		for _, v := range t.Versions {
			if t.Queries == nil {
				owner[t.Service+"/"+policy.WireName(v)] = [2]string{t.Service, v}
			}
		}
	}
	metrics := strings.Join(append(slices.Sorted(maps.Keys(envoyParts)), statusMetrics(targets)...), "|")
	statuses := map[string][]int{}
	for _, t := range targets {
		statuses[t.Service] = t.Statuses
	}
	for chunk := range slices.Chunk(slices.Sorted(maps.Keys(owner)), namesPerQuery) {
		quoted := make([]string, len(chunk))
		for i, n := range chunk {
			quoted[i] = regexp.QuoteMeta(n)
		}
		sel := fmt.Sprintf(`{__name__=~"%s",envoy_cluster_name=~%q}`, metrics, strings.Join(quoted, "|"))
		m, err := p.query(ctx, sel, now, window)
		if err != nil {
			for _, n := range chunk {
				failures[owner[n][0]] = err
			}
			continue
		}
		for _, s := range m {
			o := owner[string(s.Metric["envoy_cluster_name"])]
			part, ok := partOf(s.Metric, statuses[o[0]])
			if !ok {
				continue
			}
			gather(into, o[0], o[1], part, s)
		}
	}
}

const statusPrefix = "envoy_cluster_grpc_" // of the grpc_stats filter: a counter for each status

// statusMetrics are the counters of the statuses that are errors to any of the targets.
func statusMetrics(targets []Target) []string {
	var names []string
	for _, t := range targets {
		for _, n := range t.Statuses {
			names = append(names, statusPrefix+strconv.Itoa(n))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// partOf says which of a version's counters a series belongs to.
func partOf(m model.Metric, statuses []int) (part int, ok bool) {
	name := string(m[model.MetricNameLabel])
	if status, is := strings.CutPrefix(name, statusPrefix); is {
		n, err := strconv.Atoi(status)
		return 4, err == nil && slices.Contains(statuses, n)
	}
	part, ok = envoyParts[name]
	return part, ok && (part < 2 || m["envoy_response_code_class"] == "5")
}

// ownCounters reads the counters that a policy names instead: two queries a service, because two
// selectors cannot be joined into one range selector.
func (p *Prometheus) ownCounters(ctx context.Context, now time.Time, window time.Duration, targets []Target,
	into map[string]map[string]map[int64]sample, failures map[string]error) {
	for _, t := range targets {
		if t.Queries == nil {
			continue
		}
		for part, sel := range map[int]string{0: t.Queries.Requests, 2: t.Queries.Errors} {
			m, err := p.query(ctx, withVersions(sel, t.Versions), now, window)
			if err != nil {
				failures[t.Service] = err
				break
			}
			for _, s := range m {
				gather(into, t.Service, string(s.Metric["version"]), part, s)
			}
		}
	}
}

// withVersions adds the versions to a plain selector, which `check` has seen to be one.
func withVersions(selector string, versions []string) string {
	quoted := make([]string, len(versions))
	for i, v := range versions {
		quoted[i] = regexp.QuoteMeta(v)
	}
	matcher := fmt.Sprintf("version=~%q", strings.Join(quoted, "|"))
	selector = strings.TrimSpace(selector)
	body, ok := strings.CutSuffix(selector, "}")
	switch {
	case !ok:
		return selector + "{" + matcher + "}"
	case strings.HasSuffix(strings.TrimSpace(body), "{"), strings.HasSuffix(strings.TrimSpace(body), ","):
		return body + matcher + "}"
	default:
		return body + "," + matcher + "}"
	}
}

// gather sums a series into the samples of its instance; NaN is no sample.
func gather(into map[string]map[string]map[int64]sample, service, version string, part int, s *model.SampleStream) {
	instance := string(s.Metric["job"]) + "/" + string(s.Metric["instance"])
	byInstance := into[service]
	if byInstance == nil {
		byInstance = map[string]map[int64]sample{}
		into[service] = byInstance
	}
	byTime := byInstance[instance]
	if byTime == nil {
		byTime = map[int64]sample{}
		byInstance[instance] = byTime
	}
	for _, pair := range s.Values {
		v := float64(pair.Value)
		if math.IsNaN(v) {
			continue
		}
		t := int64(pair.Timestamp)
		sm, ok := byTime[t]
		if !ok {
			sm = sample{at: pair.Timestamp.Time(), versions: map[string]parts{}}
			byTime[t] = sm
		}
		parts := sm.versions[version]
		parts[part] += v
		sm.versions[version] = parts
	}
}

// cells turns samples into increments. A scrape counts only when it shows stable's total; what else
// is absent from it is 0. A decrease of anything drops the cell for every version.
func (p *Prometheus) cells(t Target, byInstance map[string]map[int64]sample) []rollout.Cell {
	pr := p.progress[t.Service]
	var out []rollout.Cell
	for _, instance := range slices.Sorted(maps.Keys(byInstance)) {
		byTime := byInstance[instance]
		for _, ts := range slices.Sorted(maps.Keys(byTime)) {
			s := byTime[ts]
			ref, known := pr.refs[instance]
			if _, ok := s.versions[t.Stable]; !ok || known && !s.at.After(ref.at) {
				continue
			}
			pr.refs[instance] = s
			if !known || s.at.Sub(ref.at) > longestGap {
				continue
			}
			p.scrape = max(p.scrape-p.scrape/64, s.at.Sub(ref.at))
			if c, ok := increment(t, instance, ref, s); ok {
				out = append(out, c)
				pr.fresh = s.at
				p.saw(s.at)
			}
		}
	}
	return out
}

func increment(t Target, instance string, from, to sample) (rollout.Cell, bool) {
	c := rollout.Cell{Slice: instance, From: from.at, To: to.at, Counts: map[string]analysis.Counts{}}
	for _, v := range t.Versions {
		a, b := from.versions[v], to.versions[v]
		for i := range a {
			if b[i] < a[i] {
				return c, false
			}
			b[i] -= a[i]
		}
		c.Counts[v] = analysis.Counts{Requests: b[0] + b[1], Errors: min(b[2]+b[3]+b[4], b[0]+b[1])}
	}
	return c, true
}

// overdue reports that a target has had no cell for three scrapes.
func (p *Prometheus) overdue(t Target, now time.Time) bool {
	pr := p.progress[t.Service]
	last := pr.fresh
	if last.Before(pr.since) {
		last = pr.since
	}
	return now.Sub(last) > max(3*p.scrape+2*p.interval, 5*time.Second)
}

// silence finds out why targets without an error have no samples.
func (p *Prometheus) silence(ctx context.Context, now time.Time, targets []Target) []Evidence {
	p.queries.Add(1)
	up := map[string]bool{}
	v, _, _, err := p.api.Query(ctx, "up", now)
	if vec, ok := v.(model.Vector); err == nil && ok {
		for _, s := range vec {
			up[string(s.Metric["job"])+"/"+string(s.Metric["instance"])] = s.Value == 1
		}
	}
	var out []Evidence
	for _, t := range targets {
		out = append(out, Evidence{Service: t.Service, Batch: p.scrape, Missing: p.whySilent(t, up, now)})
	}
	return out
}

func (p *Prometheus) whySilent(t Target, up map[string]bool, now time.Time) *rollout.Missing {
	pr := p.progress[t.Service]
	if len(pr.refs) == 0 {
		return &rollout.Missing{Code: analysis.NoSeries, Reason: fmt.Sprintf("Prometheus has no series of %s/%s: does it scrape the Envoys, and do their statistics include the cluster?", t.Service, policy.WireName(t.Stable))}
	}
	var down []string
	var newest time.Time
	for instance, ref := range pr.refs {
		if !up[instance] {
			down = append(down, instance)
		}
		if ref.at.After(newest) {
			newest = ref.at
		}
	}
	if len(down) == len(pr.refs) {
		slices.Sort(down)
		return &rollout.Missing{Code: analysis.TargetDown, Reason: "Prometheus cannot scrape " + strings.Join(down, ", ")}
	}
	return &rollout.Missing{Code: analysis.Stale, Reason: fmt.Sprintf("the newest sample of %s is %s old", t.Service, now.Sub(newest).Round(time.Second))}
}

// failureOf tells a wrong query from a Prometheus that is away.
func failureOf(err error) *rollout.Missing {
	var pe *promv1.Error
	if errors.As(err, &pe) && (pe.Type == promv1.ErrBadData || pe.Type == promv1.ErrExec || pe.Type == promv1.ErrClient) {
		return &rollout.Missing{Code: analysis.QueryError, Reason: "Prometheus refused the query: " + pe.Msg}
	}
	return &rollout.Missing{Code: analysis.SourceUnreachable, Reason: "Prometheus does not answer: " + err.Error()}
}
