package analysis

import (
	"math"
	"time"
)

// Outcome of a judgement.
type Outcome string

// The three outcomes: missing evidence is never a failure and never a success.
const (
	Pass Outcome = "pass"
	Fail Outcome = "fail"
	Wait Outcome = "wait"
)

// Code says in one word why.
type Code string

// The codes of a verdict.
const (
	Passed            Code = "passed"
	Worse             Code = "worse"
	CeilingPassed     Code = "ceiling"
	Holding           Code = "holding"
	Budget            Code = "budget"
	Dwell             Code = "dwell"
	IncidentShared    Code = "incident"
	Starved           Code = "starved"
	SourceUnreachable Code = "source_unreachable"
	QueryError        Code = "query_error"
	NoSeries          Code = "no_series"
	TargetDown        Code = "target_down"
	Stale             Code = "stale"
	NoTraffic         Code = "no_traffic"
	NotInForce        Code = "not_in_force"
	Nack              Code = "nack"
	Unreachable       Code = "unreachable"
	DeadlinePassed    Code = "deadline"
	Paused            Code = "paused"
	ByHand            Code = "by_hand"
	Aborted           Code = "aborted"
	Superseded        Code = "superseded"
	Unexercised       Code = "unexercised" // too little was seen of a class of requests that stable serves
	Slower            Code = "slower"      // its answers take longer than stable's
	Recalled          Code = "recalled"    // it had been cut when canaryd ended before it could store that
)

// Verdict carries its reason and the numbers behind it.
type Verdict struct {
	Outcome Outcome   `json:"outcome"`
	Code    Code      `json:"code"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
	Numbers
	Cause   []Cause `json:"cause,omitempty"`           // why it fails more often than stable, the largest first
	Slow    []Paces `json:"slow,omitempty"`            // how long its answers take, at each edge; none: that is not judged
	Unpaced string  `json:"slow_not_judged,omitempty"` // why, where the policy wants it to be

	// Unbound: the bounds among its numbers are still to be worked out, from the judge as it was then. It is never stored.
	Unbound bool `json:"-"`
}

// Numbers are what a verdict rests on. Rates are fractions of 1.
type Numbers struct {
	Requests        float64  `json:"canary_requests"` // decayed over 10 minutes
	Errors          float64  `json:"canary_errors"`
	StableRequests  float64  `json:"stable_requests"`
	StableErrors    float64  `json:"stable_errors"`
	Evidence        float64  `json:"evidence"`               // E: cut at Threshold
	Threshold       float64  `json:"threshold"`              // 1/false_rollback
	Promotion       float64  `json:"promotion"`              // E of the promotion test
	PromoteAt       float64  `json:"promote_at"`             // 1/false_promotion
	PValue          float64  `json:"p_value"`                // anytime-valid
	ExcessAtMost    float64  `json:"excess_at_most"`         // 95 % bound on the excess error rate
	Clump           float64  `json:"clump"`                  // m in force
	Moments         int      `json:"moments,omitzero"`       // hiccups of one instance that count as one error each
	MomentErrors    float64  `json:"moment_errors,omitzero"` // the errors in them
	RatioAtLeast    float64  `json:"ratio_at_least"`         // 95 % confidence sequence of the rate ratio
	RatioAtMost     *float64 `json:"ratio_at_most"`          // null: open
	SecondsToDecide *float64 `json:"seconds_to_decide"`      // expected time to promotion at this weight; null: unknown
}

// Numbers returns the judge's present figures, but for the bounds, which cost more than all others (Bounds).
func (j *Judge) Numbers(cfg *Config) Numbers {
	return Numbers{
		Requests: round3(j.Exposure.Canary.Requests), Errors: round3(j.Exposure.Canary.Errors),
		StableRequests: round3(j.Exposure.Stable.Requests), StableErrors: round3(j.Exposure.Stable.Errors),
		Evidence: j.E(cfg), Threshold: 1 / cfg.Alpha,
		Promotion: j.Promotion.E, PromoteAt: 1 / cfg.Beta,
		PValue: min(1, 1/max(1, j.highest())), Clump: j.M,
		Moments: j.Moments.Count, MomentErrors: round3(j.Moments.Errors),
	}
}

// Bounds adds the 95 % bounds to figures, for people to look at.
func (j *Judge) Bounds(cfg *Config, n *Numbers) {
	n.ExcessAtMost = j.Exposure.Upper(cfg, max(j.M, 1))
	lo, hi := j.Interval.Bounds()
	if n.RatioAtLeast, n.RatioAtMost = lo, &hi; math.IsInf(hi, 1) {
		n.RatioAtMost = nil
	}
}

// highest is the most that there ever was of the evidence that is no ceiling's.
func (j *Judge) highest() float64 {
	if j.Classes != nil {
		return j.Classes.MaxE
	}
	return j.Relative.MaxE
}

func round3(x float64) float64 { return math.Round(x*1000) / 1000 }
