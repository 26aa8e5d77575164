package journal

import (
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

const (
	usual    = "service: shop\nversions: [{version: v1, endpoints: [\"10.0.0.1:80\"], stable: true}]\nroute: {probe: off}\nramp: {steps: [5%, 50%, 100%], hold: 10s}\njudge: {clump: 1, budget: 100000}\n"
	stricter = "service: shop\nramp: {steps: [5%, 50%, 100%], hold: 10s}\njudge: {clump: 1, budget: 100000, false_rollback: 5%}\n"
	laxer    = "service: shop\nramp: {steps: [5%, 50%, 100%], hold: 10s}\njudge: {clump: 1, budget: 100000, tolerate: {ratio: 20, margin: 5%}, promote_within: {ratio: 30, margin: 9%}}\n"
)

func document(t *testing.T, text string) *policy.Document {
	t.Helper()
	docs, fs := policy.Parse("test.yml", []byte(text))
	if len(fs.Errors()) > 0 {
		t.Fatal(fs)
	}
	return &docs[0]
}

// releases is a service with releases that fail at some rates, one after the other, and what was journalled of it.
type releases struct {
	t  *testing.T
	s  rollout.State
	at time.Time
	w  *Writer
}

func (r *releases) tell(e rollout.Event) {
	for e != nil {
		next, records, err := rollout.Step(r.s, e)
		if err != nil {
			r.t.Fatal(err)
		}
		if r.w == nil && r.s.Policy.Service != "" {
			r.w = Begin(1, Header{Service: "shop", At: r.at, Why: Began}, r.s)
		}
		if r.w != nil {
			r.w.Took(e, records)
		}
		r.s, e = next, nil
		if !next.InForce {
			r.at = r.at.Add(3 * time.Millisecond)
			e = rollout.Applied{At: r.at, Generation: next.Generation, InForce: true, Subscribers: 1}
		}
	}
}

func (r *releases) serve(seconds int, rates map[string]float64) {
	for n := range seconds {
		from := r.at
		r.at = r.at.Add(time.Second)
		c := rollout.Cell{Slice: "edge", From: from, To: r.at, Counts: map[string]analysis.Counts{}, Has: r.s.Accepted, HasSince: r.s.Since}
		for v, w := range r.s.Weights() {
			requests := float64(w) / 10
			failed := requests * rates[v]
			c.Counts[v] = analysis.Counts{Requests: requests, Errors: float64(int(failed*float64(n+1)) - int(failed*float64(n)))}
		}
		r.tell(rollout.Observed{At: r.at, Batch: time.Second, Cells: []rollout.Cell{c}})
		r.tell(rollout.Tick{At: r.at})
	}
}

func someReleases(t *testing.T) *releases {
	r := &releases{t: t, at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	d := document(t, usual)
	r.tell(rollout.PolicyChanged{At: r.at, Policy: d.Policy, Hash: d.Hash, Secret: "s", By: "test"})
	rates := map[string]float64{"v1": 0.001, "v2": 0.012, "v3": 0.001, "v4": 0.001}
	for _, v := range []string{"v2", "v3", "v4"} {
		r.tell(rollout.Announced{At: r.at, Version: v, Endpoints: []string{"10.0.0.2:80"}, Secret: "s", By: "ci"})
		for i := 0; i < 100 && r.s.Version(v).Phase.Waiting(); i++ {
			r.serve(10, rates)
		}
	}
	return r
}

func (r *releases) replayed(d *policy.Document) *Replay {
	r.t.Helper()
	raw, err := r.w.Cut(PointOf(&r.s), true).Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	rd, err := NewReader()
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := rd.Read([][]byte{raw})
	if err != nil {
		r.t.Fatal(err)
	}
	re := &Replay{Policy: d}
	re.Take(&c, nil)
	re.Finish()
	return re
}

// Under the policy that it had, each release taken alone is decided as it was; under others otherwise.
func TestReleasesUnderAnotherPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		policy string
		would  []string
		sooner bool // v2 is cut
		same   bool // the moments are the same, but for how long a table takes to be in force
	}{
		"the same": {policy: usual, would: []string{"rolled_back", "promoted", "promoted"}, same: true},
		"stricter": {policy: stricter, would: []string{"rolled_back", "promoted", "promoted"}, sooner: true},
		"laxer":    {policy: laxer, would: []string{"undecided", "promoted", "promoted"}},
	} {
		t.Run(name, func(t *testing.T) {
			re := someReleases(t).replayed(document(t, c.policy))
			if len(re.Otherwise) > 0 || re.Same == 0 || re.Same != re.Decisions || len(re.Releases) != 3 {
				t.Fatalf("%d releases, %d of %d decisions came out: %+v", len(re.Releases), re.Same, re.Decisions, re.Otherwise)
			}
			for i, rel := range re.Releases {
				if want := []string{"rolled_back", "promoted", "promoted"}[i]; rel.Then.Decided != want || rel.Then.Receipt == nil || !rel.Whole {
					t.Errorf("%s was %+v", rel.Version, rel.Then)
				}
				if rel.Would == nil || rel.Would.Decided != c.would[i] {
					t.Errorf("%s would have been %+v", rel.Version, rel.Would)
					continue
				}
				if d := rel.Would.At.Sub(rel.Then.At).Abs(); c.same && d > 2*time.Second {
					t.Errorf("%s would have been decided %s earlier or later", rel.Version, d)
				}
			}
			if v2 := re.Releases[0]; c.sooner && !v2.Would.At.Before(v2.Then.At) {
				t.Errorf("v2 would have been cut at %s, and was at %s", v2.Would.At, v2.Then.At)
			}
		})
	}
}

func TestAReceiptSaysWhatAReleaseCost(t *testing.T) {
	re := someReleases(t).replayed(nil)
	bad, good := re.Releases[0].Then.Receipt, re.Releases[1].Then.Receipt
	if bad.Errors < 3 || bad.Beyond < 0.9*bad.Errors || bad.Beyond >= bad.Errors || bad.Beside.Requests < bad.Requests {
		t.Errorf("the one that failed cost %+v", bad)
	}
	if good.Requests < 1000 || good.Beyond > 0.5*good.Errors+1 {
		t.Errorf("the one that was well cost %+v", good)
	}
}
