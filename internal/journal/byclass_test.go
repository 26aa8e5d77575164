package journal

import (
	"reflect"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// What was answered of a class between two points is in the bucket of the later one; of another attempt nothing is taken.
func TestClassesAreInTheBuckets(t *testing.T) {
	at := time.Unix(1_800_000_000, 0).UTC()
	stand := func(attempt int, n float64, classes ...string) Stand {
		s := Stand{Version: "v2", Attempt: attempt, Phase: rollout.Canary, Counts: analysis.Counts{Requests: 2 * n}}
		for i, c := range classes {
			s.Classes = append(s.Classes, Class{rollout.Exercise{Name: c, Canary: analysis.Counts{Requests: n, Errors: n * float64(i) / 4}, Stable: analysis.Counts{Requests: 10 * n}}, 1.5})
		}
		return s
	}
	points := []Point{
		{At: at, Stable: "v1", Versions: []Stand{{Version: "v1", Phase: rollout.Stable}, stand(1, 0)}},
		{At: at.Add(5 * time.Second), Stable: "v1", Versions: []Stand{stand(1, 100, "checkout", policy.Rest)}}, // they are fixed
		{At: at.Add(10 * time.Second), Stable: "v1", Versions: []Stand{stand(1, 300, "checkout", policy.Rest)}},
		{At: at.Add(15 * time.Second), Stable: "v1", Versions: []Stand{stand(1, 400, "checkout", policy.Rest)}},
		{At: at.Add(20 * time.Second), Stable: "v1", Versions: []Stand{stand(2, 9000, "checkout", policy.Rest)}},
	}
	none := analysis.Counts{}
	want := [][]ClassBucket{
		{{"checkout", 100, 0, analysis.Counts{Requests: 1000}, 1.5}, {policy.Rest, 100, 25, analysis.Counts{Requests: 1000}, 1.5}},
		{{"checkout", 300, 0, analysis.Counts{Requests: 3000}, 1.5}, {policy.Rest, 300, 75, analysis.Counts{Requests: 3000}, 1.5}},
		{{"checkout", 0, 0, none, 1.5}, {policy.Rest, 0, 0, none, 1.5}},
	}
	for _, e := range drawn(t, points) {
		for i, b := range e.Buckets {
			if !reflect.DeepEqual(b.Classes, want[i]) {
				t.Errorf("bucket %d: %+v, want %+v", i, b.Classes, want[i])
			}
		}
	}
}
