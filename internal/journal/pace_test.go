package journal

import (
	"reflect"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// What was judged of durations between two points is in the bucket of the later one, at edges that both know.
func TestSlowAnswersAreInTheBuckets(t *testing.T) {
	at := time.Unix(1_800_000_000, 0).UTC()
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
	want := [][]SlowBucket{
		{{Edge: 0.2, Evidence: 1.5}},
		{{0.2, 300, 15, 3000, 30, 1.5}, {1, 100, 5, 1000, 10, 1.5}},
		{{Edge: 0.2, Evidence: 1.5}},
	}
	for _, e := range drawn(t, points) {
		for i, b := range e.Buckets {
			if !reflect.DeepEqual(b.Slow, want[i]) {
				t.Errorf("bucket %d: %+v, want %+v", i, b.Slow, want[i])
			}
		}
	}
}
