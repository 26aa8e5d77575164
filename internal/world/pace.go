package world

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Lags are releases whose answers are slower than stable's, or never come. Shares are fractions of 1.
type Lags struct {
	Policy         policy.Policy
	PerSecond      float64
	Errors         float64 // share of the requests that fail, of both
	Stable, Canary float64 // share of answers that are slow; the canary's from its first request on
	Instances      Instances
	Pauses         Moments       // of an instance: all its requests are slow in them
	Cold           float64       // share of slow answers of an instance that has just begun, beyond the usual one, fading with 15 s
	Hangs          time.Duration // since the announcement, within the batch by chance: from then on the canary answers nothing; 0: never
	Timeout        time.Duration // after which Envoy gives a request up
	Past           time.Duration
	Horizon        time.Duration
	Batch          time.Duration
	Envoys         bool                                          // nobody tells the instances
	Seen           func(since time.Duration, v *rollout.Version) // called after each batch since the announcement; nil: nobody looks
}

// Lag is what became of one of them.
type Lag struct {
	Phase  rollout.Phase
	Held   time.Duration   // since the announcement, when it was held for slow answers first; 0: never
	Spells []time.Duration // for how long each time
	Cut    time.Duration   // since the announcement, or since it hung; 0: never
	Hung   float64         // requests that got no answer until then
}

// lagging is one run.
type lagging struct {
	Lags
	Release
	r            *rand.Rand
	at, begin    time.Time
	stable, crew crew
	hangs        time.Time
	open         []issue // of the canary's requests that hang
}

type issue struct {
	at time.Time
	n  float64
}

// edge is where slow answers are told apart: what is slow takes longer.
const edge = 0.2

// Run is one release from its announcement to its fate.
func (q Lags) Run(r *rand.Rand) (f Lag) {
	l := lagging{Lags: q, r: r, at: time.Unix(0, 0).UTC().Add(time.Hour)}
	p := q.Policy
	p.Route.Probe = policy.ProbeOff
	l.stable, _ = newCrew(q.Instances.Stable, "127.0.0.1")
	l.crew, _ = newCrew(q.Instances.Canary, "127.0.0.2")
	p.Versions = []policy.Seed{{Version: "stable", Endpoints: l.stable.names(), Stable: true}}
	l.Take(l.at, rollout.PolicyChanged{At: l.at, Policy: p, By: "simulation"})
	for began := l.at; l.at.Sub(began) < q.Past; {
		l.tick(pastBatch)
	}
	l.begin = l.at
	if q.Hangs > 0 {
		l.hangs = l.at.Add(q.Hangs + time.Duration(r.Float64()*float64(q.Batch)))
	}
	l.Take(l.at, rollout.Announced{At: l.at, Version: "release", Endpoints: l.crew.names(), By: "simulation"})
	var since time.Time
	for l.at.Sub(l.begin) < q.Horizon {
		l.tick(q.Batch)
		v := l.Version("release")
		if q.Seen != nil {
			q.Seen(l.at.Sub(l.begin), v)
		}
		held := v.Phase.Waiting() && v.Verdict.Code == analysis.Slower
		switch {
		case held && since.IsZero():
			since = l.at
			if f.Held == 0 {
				f.Held = l.at.Sub(l.begin)
			}
		case !held && !since.IsZero():
			f.Spells, since = append(f.Spells, l.at.Sub(since)), time.Time{}
		}
		if f.Phase = v.Phase; !v.Phase.Waiting() {
			break
		}
	}
	if !since.IsZero() {
		f.Spells = append(f.Spells, l.at.Sub(since))
	}
	if f.Phase.Cut() {
		f.Cut = l.at.Sub(l.begin)
		if q.Hangs > 0 {
			f.Cut = l.at.Sub(l.hangs)
		}
	}
	for _, o := range l.open {
		f.Hung += o.n
	}
	return f
}

// tick is one batch.
func (l *lagging) tick(batch time.Duration) {
	from := l.at
	l.at = l.at.Add(batch)
	c := rollout.Cell{Slice: "envoy", From: from, To: l.at, Counts: map[string]analysis.Counts{}, Endpoints: map[string][]analysis.Slice{}, Times: map[string][]analysis.Times{}, Issued: map[string]float64{}}
	weight := float64(l.Weight("release")) / policy.FullWeight
	l.count(&c, "stable", l.stable, l.Stable, l.PerSecond*batch.Seconds()*(1-weight), 0)
	if weight > 0 {
		l.count(&c, "release", l.crew, l.Canary, l.PerSecond*batch.Seconds()*weight, l.hung(from))
	}
	l.Take(l.at, rollout.Observed{At: l.at, Batch: batch, Cells: []rollout.Cell{c}})
}

// hung is which part of an interval's requests is not answered.
func (l *lagging) hung(from time.Time) float64 {
	if l.hangs.IsZero() {
		return 0
	}
	return overlap(from, l.at, l.hangs, l.at) / l.at.Sub(from).Seconds()
}

// count draws what an Envoy counts of a version.
func (l *lagging) count(c *rollout.Cell, version string, crew crew, share, mean, hung float64) {
	ended, bad := 0.0, 0.0
	for _, x := range crew {
		n := poisson(l.r, mean/float64(len(crew)))
		c.Issued[version] += n
		lost := failed(l.r, n, hung)
		if lost > 0 {
			l.open = append(l.open, issue{c.To, lost})
		}
		n -= lost
		slow := failed(l.r, n, min(1, share+l.cold(version)))
		if l.Pauses.PerHour > 0 {
			slow = min(n, slow+math.Round(n*x.failing(l.r, l.Pauses, c.From, c.To)/c.To.Sub(c.From).Seconds()))
		}
		t := analysis.Times{Name: x.name, UpTo: []float64{edge / 4, edge}, N: []float64{n - slow, 0, slow}}
		if l.Envoys {
			t.Name = ""
		}
		c.Times[version] = append(c.Times[version], t)
		c.Endpoints[version] = append(c.Endpoints[version], analysis.Slice{Name: x.name, Counts: analysis.Counts{Requests: n, Errors: failed(l.r, n, l.Errors)}})
		ended, bad = ended+n, bad+c.Endpoints[version][len(c.Endpoints[version])-1].Errors
	}
	timedOut := 0.0
	if version == "release" && l.Timeout > 0 {
		for len(l.open) > 0 && c.To.Sub(l.open[0].at) >= l.Timeout {
			timedOut, l.open = timedOut+l.open[0].n, l.open[1:]
		}
	}
	c.Counts[version] = analysis.Counts{Requests: ended + timedOut, Errors: bad + timedOut}
}

// cold is how many answers more are slow because the canary's instances have just begun.
func (l *lagging) cold(version string) float64 {
	v := l.Version("release")
	if version != "release" || l.Cold == 0 || v.FirstWeight.IsZero() {
		return 0
	}
	return l.Cold * math.Exp(-l.at.Sub(v.FirstWeight).Seconds()/15)
}
