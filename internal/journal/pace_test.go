package journal

import (
	"reflect"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// What was judged of durations between two points is in the bucket of the later one, at edges that both know.
func TestSlowAnswersAreInTheBuckets(t *testing.T) {
	at := time.Unix(1_800_000_000, 0).UTC()
	d := document(t, usual)
	began, _, err := rollout.Step(rollout.State{}, rollout.PolicyChanged{At: at, Policy: d.Policy, Hash: d.Hash, By: "test"})
	if err != nil {
		t.Fatal(err)
	}
	w := Begin(1, Header{Service: "shop", At: at, Why: Continued}, began)
	w.Took(rollout.Tick{At: at}, nil)
	stand := func(attempt int, n float64, edges ...float64) Stand {
		s := Stand{Version: "v2", Attempt: attempt, Phase: rollout.Canary, Counts: analysis.Counts{Requests: n}}
		for _, after := range edges {
			s.Paces = append(s.Paces, Pace{after, analysis.Counts{Requests: n, Errors: n / 20}, analysis.Counts{Requests: 10 * n, Errors: n / 10}, 1.5})
		}
		return s
	}
	points := []Point{
		{At: at, Stable: "v1", Versions: []Stand{{Version: "v1", Phase: rollout.Stable}, stand(1, 0)}},
		{At: at.Add(5 * time.Second), Stable: "v1", Versions: []Stand{stand(1, 1000, 0.2)}}, // the first that knows the edge
		{At: at.Add(10 * time.Second), Stable: "v1", Versions: []Stand{stand(1, 1200, 0.2, 1)}},
		{At: at.Add(15 * time.Second), Stable: "v1", Versions: []Stand{stand(1, 1300, 0.2, 1)}},
		{At: at.Add(20 * time.Second), Stable: "v1", Versions: []Stand{stand(2, 9000, 0.2)}}, // another attempt
	}
	for _, p := range points[:4] {
		w.Point(p)
	}
	raw, err := w.Cut(points[4], true).Encode()
	if err != nil {
		t.Fatal(err)
	}
	rd, err := NewReader()
	if err != nil {
		t.Fatal(err)
	}
	redacted, err := rd.Redacted([][]byte{raw}, func(string) string { return policy.Hidden })
	if err != nil {
		t.Fatal(err)
	}
	for _, parts := range [][][]byte{{raw}, redacted} {
		c, err := rd.Read(parts)
		if err != nil || !reflect.DeepEqual(c.Points, points) {
			t.Fatalf("%v\nwritten %+v\nread    %+v", err, points, c.Points)
		}
		p := Plot{Service: "shop", Version: "v2", From: at}
		if err := p.Take(&c, nil); err != nil {
			t.Fatal(err)
		}
		e, err := p.Buckets(10 * time.Second)
		if err != nil || len(e.Buckets) != 3 {
			t.Fatalf("%+v %v", e, err)
		}
		want := [][]SlowBucket{
			{{Edge: 0.2, Evidence: 1.5}},
			{{0.2, 300, 15, 3000, 30, 1.5}, {1, 100, 5, 1000, 10, 1.5}},
			{{Edge: 0.2, Evidence: 1.5}},
		}
		for i, b := range e.Buckets {
			if !reflect.DeepEqual(b.Slow, want[i]) {
				t.Errorf("bucket %d: %+v, want %+v", i, b.Slow, want[i])
			}
		}
	}
}
