package metrics

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Report is what one Envoy counted over one interval, by service and version.
type Report struct {
	Node     string
	Stream   uint64 // that it came on: Envoys that share a node.id are kept apart
	Proxy    rollout.Proxy
	From, To time.Time
	Counts   map[string]map[string]analysis.Counts            // service, version
	Slices   map[string]map[string]map[string]analysis.Counts // service, version, endpoint
	Dropped  map[string]map[string]float64                    // service, version
	Answers  map[string]map[string]Answers                    // service, version; of those whose answers are measured
	Served   map[string]Served                                // service, where known
}

// Served is what an Envoy served of a service at the end of an interval, and since when: one that lags, or came
// back with an older table, says nothing for a step up, and something against a canary.
type Served struct {
	Slots []rollout.Run
	Since time.Time
}

// Envoy is the source of evidence that needs nothing but Envoy: load reports over xDS.
type Envoy struct {
	tally
	often func() time.Duration // what is under judgement is reported at present
	nodes func() []string      // Envoys that report at present, in order

	mu      sync.Mutex
	targets map[string]*seen
	flushed time.Time
	ready   chan struct{}
}

// seen is what is known of a target.
type seen struct {
	Target
	since  time.Time
	taken  time.Time // last round that had it
	last   time.Time // last report that spoke of it
	node   string
	counts map[reporter][]rollout.Cell // since the last round
	active map[activeOf]unended        // requests that were open at the last report
	tidied time.Time                   // when those of gone connections were forgotten
}

// reporter is who counted; a node may be an Envoy and a gRPC client at once.
type reporter struct {
	node   string
	stream uint64
	proxy  rollout.Proxy
}

// apartMost is how many reports of one Envoy are kept apart between two rounds; later ones are joined. Apart,
// one of them may lie wholly within the time of a weight; joined, they straddle its beginning.
const apartMost = 4

// reportersMost bounds what is kept of one service between two rounds.
const reportersMost = 10_000

// NewEnvoy makes the source; often tells how often Envoys report what is under judgement, nodes which of them send load
// reports at present.
func NewEnvoy(often func() time.Duration, nodes func() []string) *Envoy {
	return &Envoy{often: often, nodes: nodes, targets: map[string]*seen{}, ready: make(chan struct{}, 1)}
}

// every is how often a target is looked at: one that is not under judgement no more than once a second.
func (e *Envoy) every(t *seen) time.Duration {
	if t.Judged {
		return e.often()
	}
	return max(e.often(), unhurried)
}

const unhurried = time.Second

// Watch implements Source.
func (e *Envoy) Watch(targets []Target) {
	e.drops.keep(targets, time.Now())
	e.mu.Lock()
	defer e.mu.Unlock()
	next := map[string]*seen{}
	for _, t := range targets {
		s := e.targets[t.Service]
		if s == nil {
			s = &seen{since: time.Now(), counts: map[reporter][]rollout.Cell{}}
		}
		s.Target = t
		next[t.Service] = s
	}
	e.targets = next
}

// Add takes a report in. It is taken apart at once, so that while the loop is busy no more is kept than a
// few cells for each Envoy and service. One round gathers the reports of all Envoys; with a single Envoy each
// report is judged as it comes.
func (e *Envoy) Add(r Report) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queries.Add(1)
	e.saw(r.To)
	now := time.Now()
	for service := range r.Counts {
		t := e.targets[service]
		if t == nil {
			continue
		}
		if !t.add(r, now) {
			e.failures.Add(1)
		}
		for _, v := range t.Versions {
			e.drops.add(service, v, r.Dropped[service][v], now)
		}
	}
	if time.Since(e.flushed) >= e.often()*9/10 {
		select {
		case e.ready <- struct{}{}:
		default:
		}
	}
}

// add sums what a report says of the target; false when there is no room for another Envoy's.
func (t *seen) add(r Report, now time.Time) bool {
	c, ok := t.cell(r)
	if !ok {
		return true
	}
	by := reporter{r.Node, r.Stream, r.Proxy}
	cells := t.counts[by]
	switch {
	case len(cells) == 0 && len(t.counts) >= reportersMost:
		return false
	case len(cells) < apartMost:
		t.counts[by] = append(cells, c)
	default:
		cells[apartMost-1].Join(c)
	}
	t.last, t.node = now, r.Node
	return true
}

// take returns what was counted since it was last asked, in an order that does not change.
func (t *seen) take() []rollout.Cell {
	cells := make([]rollout.Cell, 0, len(t.counts))
	for _, cs := range t.counts {
		cells = append(cells, cs...)
	}
	clear(t.counts)
	slices.SortStableFunc(cells, func(a, b rollout.Cell) int {
		return cmp.Or(cmp.Compare(a.Slice, b.Slice), cmp.Compare(a.Proxy, b.Proxy))
	})
	return cells
}

// Run implements Source.
func (e *Envoy) Run(ctx context.Context, deliver func([]Evidence)) error {
	t := time.NewTimer(e.often())
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.ready:
			deliver(e.round(time.Now()))
		case now := <-t.C:
			if e.idle(now) {
				deliver(e.round(now))
			}
			t.Reset(e.often())
		}
	}
}

func (e *Envoy) idle(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return now.Sub(e.flushed) >= e.often()*3/2
}

func (e *Envoy) round(now time.Time) []Evidence {
	nodes := e.nodes()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.flushed = now
	var out []Evidence
	for _, name := range slices.Sorted(maps.Keys(e.targets)) {
		t := e.targets[name]
		every := e.every(t)
		if now.Sub(t.taken) < every*9/10 {
			continue
		}
		t.taken = now
		ev := Evidence{Service: name, Batch: every, Cells: t.take()}
		if len(ev.Cells) == 0 {
			if t.AtRest {
				t.since = now
				continue
			}
			if ev.Missing = e.missing(t, nodes, now); ev.Missing == nil {
				continue
			}
			e.failures.Add(1)
		}
		out = append(out, ev)
	}
	return out
}

func (t *seen) cell(r Report) (rollout.Cell, bool) {
	counts := r.Counts[t.Service]
	if _, ok := counts[t.Stable]; !ok {
		return rollout.Cell{}, false
	}
	served := r.Served[t.Service]
	c := rollout.Cell{Slice: r.Node, Proxy: r.Proxy, From: r.From, To: r.To, Has: served.Slots, HasSince: served.Since, Unknown: served.Slots == nil,
		Counts: map[string]analysis.Counts{}, Endpoints: map[string][]analysis.Slice{}}
	for _, v := range t.Versions {
		if n, ok := counts[v]; ok {
			c.Counts[v] = without(n, t.booked(r, v))
		}
	}
	for _, v := range t.Versions {
		var es []analysis.Slice
		for name, n := range r.Slices[t.Service][v] { // which of them was meant is not reported
			es = append(es, analysis.Slice{Name: name, Counts: without(n, t.booked(r, v)*share(n.Errors, counts[v].Errors))})
		}
		slices.SortFunc(es, func(a, b analysis.Slice) int { return cmp.Compare(a.Name, b.Name) })
		if len(es) > 0 {
			c.Endpoints[v] = es
		}
	}
	t.answers(&c, r)
	return c, true
}

// booked is how many of a version's errors are requests that Envoy dropped. What route.limits.requests drops is
// in both numbers of an Envoy's report, what route.limits.pending drops is no error there, nor what a gRPC client
// drops.
func (t *seen) booked(r Report, version string) float64 {
	if !t.Limited || r.Proxy == rollout.Client {
		return 0
	}
	return min(r.Dropped[t.Service][version], r.Counts[t.Service][version].Errors)
}

// without takes dropped requests out of counts that have them as errors.
func without(n analysis.Counts, dropped float64) analysis.Counts {
	return n.Add(analysis.Counts{Requests: -dropped, Errors: -dropped})
}

func share(part, whole float64) float64 {
	if whole == 0 {
		return 0
	}
	return min(1, part/whole)
}

// missing says why there was no report of a target, where these nodes send some, in order; nil while it is too early to say.
func (e *Envoy) missing(t *seen, nodes []string, now time.Time) *rollout.Missing {
	patience := max(3*e.every(t), 2*time.Second)
	waited := now.Sub(t.since)
	if !t.last.IsZero() {
		waited = now.Sub(t.last)
	}
	if waited < patience {
		return nil
	}
	_, connected := slices.BinarySearch(nodes, t.node)
	switch {
	case t.node != "" && !connected:
		return &rollout.Missing{Code: analysis.TargetDown, Reason: fmt.Sprintf("Envoy %s, which reported %s, is no longer connected", t.node, t.Service)}
	case len(nodes) == 0:
		return &rollout.Missing{Code: analysis.SourceUnreachable, Reason: "no Envoy sends load reports: its bootstrap needs cluster_manager.load_stats_config (`canaryd bootstrap` prints one)"}
	case t.last.IsZero():
		return &rollout.Missing{Code: analysis.NoSeries, Reason: fmt.Sprintf("no Envoy has ever reported %s/%s: does its route use the RDS resource %s?", t.Service, t.Stable, t.Service)}
	default:
		return &rollout.Missing{Code: analysis.Stale, Reason: fmt.Sprintf("the last load report of %s is %s old", t.Service, waited.Round(time.Second))}
	}
}
