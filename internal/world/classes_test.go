package world

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

func shop(classes ...Class) Question {
	p := policy.Default()
	p.Service = "shop"
	p.Route.Classes = Named(classes)
	return Question{Policy: p, PerSecond: 200, Stable: 0.01, Canary: 0.01, Classes: classes, Instances: Instances{Stable: 3, Canary: 2}, Past: time.Hour, Horizon: time.Hour, Batch: time.Second, Runs: 4, Seed: 1}
}

// What is told of answers is all that was counted, but for failures that nobody answered.
func TestAnswersAreWhatIsCounted(t *testing.T) {
	q := shop(Class{Name: "checkout", Share: 0.1, Mixed: 0.3, Canary: 1}, Class{Name: "rest", Share: 0.9, Mixed: 0.7, Stable: 0.1, Canary: 0.1})
	q.Told.Unanswered = 0.5
	r := rand.New(rand.NewPCG(1, 1))
	release, _ := newCrew(2, "127.0.0.2")
	var all, answered, checkout, endpoints analysis.Counts
	for range 200 {
		c := rollout.Cell{Counts: map[string]analysis.Counts{}, Endpoints: map[string][]analysis.Slice{}}
		q.count(r, &c, one{"release", true, 50, 0.01, release}, true)
		all = all.Add(c.Counts["release"])
		for _, e := range c.Endpoints["release"] {
			endpoints = endpoints.Add(e.Counts)
		}
		for _, a := range c.Answers["release"] {
			answered = answered.Add(a.Counts)
			if a.Class == "checkout" {
				checkout = checkout.Add(a.Counts)
			}
		}
	}
	if endpoints != all {
		t.Errorf("by endpoint %v, in all %v", endpoints, all)
	}
	if all.Requests-all.Errors != answered.Requests-answered.Errors {
		t.Errorf("%v went well, %v of them are told", all.Requests-all.Errors, answered.Requests-answered.Errors)
	}
	if part := answered.Errors / all.Errors; part < 0.45 || part > 0.55 {
		t.Errorf("%v of the failures were answered, want half", part)
	}
	if part := all.Errors / all.Requests; part < 0.35 || part > 0.4 { // 0.3 and 0.7 * 0.11
		t.Errorf("%v failed, want 0.377", part)
	}
	if checkout.Errors != checkout.Requests {
		t.Errorf("of the class that fails wholly %v answers", checkout)
	}
}

// The very state machine cuts a release of which a small class fails wholly, and takes none for it where it is not told the classes.
func TestReleasesWithAClassThatFails(t *testing.T) {
	q := shop(Class{Name: "checkout", Share: 0.001, Canary: 1}, Class{Name: "rest", Share: 0.999})
	if a := q.Ask(); a.Cut != q.Runs {
		t.Errorf("told the classes: %+v", a)
	}
	q.Policy.Route.Classes, q.Told.Nothing = nil, true
	if a := q.Ask(); a.Promoted == 0 {
		t.Errorf("not told the classes: %+v", a)
	}
}

// Releases that share a past are different ones, and what they do changes nothing of it.
func TestSharedPasts(t *testing.T) {
	q := shop(Class{Name: "checkout", Share: 0.02, Canary: 1}, Class{Name: "rest", Share: 0.98})
	q.Pasts = 1
	first, again := q.Fates(), q.Fates()
	for i := range first {
		if !reflect.DeepEqual(first[i], again[i]) {
			t.Errorf("run %d: %+v, again %+v", i, first[i], again[i])
		}
	}
	if first[0].After == first[1].After && first[1].After == first[2].After {
		t.Errorf("all releases were cut after %s", first[0].After)
	}
}
