// Package analysis is the judge: it turns counts of requests and errors of a canary and of the stable
// version into a verdict. It is pure, allocates nothing per judgement, and knows time only as seconds
// that come with the evidence. The tests are e-processes: E is the capital of a gambler who bets that
// the canary is worse; under the null its mean never exceeds 1, so by Ville's inequality it ever
// reaches 1/alpha with a probability of at most alpha, however often one looks.
package analysis

import "math"

// Config is what the policy says to the judge.
type Config struct {
	Alpha, Beta float64    // false rollback, false promotion
	R0, D0      float64    // tolerated: rate <= R0 * stable's + D0
	R1, D1      float64    // promoted: proven rate < R1 * stable's + D1
	Budget      float64    // failed requests that the next step may cost
	Ceiling     float64    // absolute error rate; 0 = none
	Clump       float64    // errors of one cause; 0 = estimated
	WarmUp      float64    // seconds of evidence to ignore
	Burst       float64    `json:",omitzero"` // seconds for which one cause may fail everything, where batches are shorter; 0: no longer than one batch
	Exercise    float64    `json:",omitzero"` // successes in every class that is due, before a promotion; 0: none are asked for
	Slow        SlowConfig `json:",omitzero"` // zero: how long answers take is not judged
	Hang        float64    `json:",omitzero"` // seconds after which an open request counts as failed; 0: none does
	Restarts    Restarts   // zero: DefaultRestarts
}

// Restarts say when the rollback test's capital is bet: what is not bet at the start is bet over time,
// so that a regression that begins late meets fresh capital. Any schedule keeps the bound, because
// what is bet never depends on what is yet to come.
type Restarts struct {
	Start float64 // share bet from the start
	Step  float64 // share of the rest bet after a weight change
	After float64 // seconds; at time t the share (1+t/After)^-Power of the rest is left
	Power float64
}

// DefaultRestarts were chosen by simulation (bench/judge -ratio): among schedules that detect a release
// that fails from the start as fast as without restarts, this one detects soonest a release that starts to fail after half an hour.
func DefaultRestarts() Restarts { return Restarts{Start: 0.45, Step: 0.1, After: 300, Power: 0.4} }

// Counts are requests and failed requests of one version over an interval.
type Counts struct {
	Requests float64 `json:"requests"`
	Errors   float64 `json:"errors"`
}

// Add returns the sum.
func (c Counts) Add(o Counts) Counts {
	return Counts{c.Requests + o.Requests, c.Errors + o.Errors}
}

func (c Counts) less(o Counts) Counts {
	return Counts{c.Requests - o.Requests, c.Errors - o.Errors}
}

// Rate is errors per request, 0 without requests.
func (c Counts) Rate() float64 {
	if c.Requests <= 0 {
		return 0
	}
	return c.Errors / c.Requests
}

func (c Counts) clip() Counts {
	c.Requests = max(c.Requests, 0)
	c.Errors = min(max(c.Errors, 0), c.Requests)
	return c
}

// Batch is one judgement's evidence: canary and stable over the same interval of the same proxies.
type Batch struct {
	Canary, Stable Counts
}

// Kinds is how many kinds of proxies there may be that count differently: batches of two kinds are
// never joined.
const Kinds = 2

const (
	tilts      = 12
	tiltsNI    = 8
	maxTilt    = 16.0 // no single error counts for more than ln 16 nats
	minBatches = 2.0  // one batch multiplies E by at most alpha^(-1/2)
	minBatchNI = 10.0 // the same for promotion
	holdE      = 20.0 // evidence at which the ramp freezes
	expLimit   = 300.0
	mostE      = 1e100 // far beyond any threshold; more could overflow when nobody acts on it
	// leastRequests is the least part of a request on either side that is put into a ratio.
	leastRequests = 1e-6
	// OpenBatchLimit is the age in seconds at which a batch without requests on one side is dropped.
	OpenBatchLimit = 300.0
)

// rollbackTilts are the rate ratios bet on: exp(0.12 * 1.45^k).
var rollbackTilts = func() (t [tilts]float64) {
	for k := range t {
		t[k] = math.Exp(0.12 * math.Pow(1.45, float64(k)))
	}
	return t
}()

// promotionTilts are the rate ratios bet on by the promotion test: exp(-0.10 * 1.75^k).
var promotionTilts = func() (t [tiltsNI]float64) {
	for k := range t {
		t[k] = math.Exp(-0.10 * math.Pow(1.75, float64(k)))
	}
	return t
}()
