package journal

import (
	"reflect"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// drawn is what plots of v2 are made of points that were written and read again, as they are and without secrets: three buckets of ten
// seconds each.
func drawn(t *testing.T, points []Point) (plots []Evidence) {
	t.Helper()
	at, last := points[0].At, len(points)-1
	d := document(t, usual)
	began, _, err := rollout.Step(rollout.State{}, rollout.PolicyChanged{At: at, Policy: d.Policy, Hash: d.Hash, By: "test"})
	if err != nil {
		t.Fatal(err)
	}
	w := Begin(1, Header{Service: "shop", At: at, Why: Continued}, began)
	w.Took(rollout.Tick{At: at}, nil)
	for _, p := range points[:last] {
		w.Point(p)
	}
	raw, err := w.Cut(points[last], true).Encode()
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
		plots = append(plots, e)
	}
	return plots
}
