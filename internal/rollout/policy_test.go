package rollout

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// What a person announced is undone by nothing but another word of a person, or another seed.
func TestSeedsDoNotUndoWhatWasAnnounced(t *testing.T) {
	r := newRun(t, seedV1)
	r.step(Announced{At: r.at, Version: "v1", Endpoints: []string{"10.9.9.9:80"}, By: "ann"})
	at := func() string { return strings.Join(r.s.Version("v1").Endpoints, " ") }
	r.policy(seedV1) // a reload
	r.restart(r.at)
	r.policy(seedV1) // and what a start brings
	r.policy(seedV1 + "ramp: {hold: 5m}\n")
	if at() != "10.9.9.9:80" {
		t.Fatalf("v1 was announced at 10.9.9.9:80 and is at %s after reloads of the same seed", at())
	}
	r.step(Orphaned{At: r.at})
	r.policy(seedV1)
	if at() != "10.9.9.9:80" {
		t.Fatalf("the policy came back, and v1 is at %s", at())
	}
	r.policy(strings.ReplaceAll(seedV1, "10.0.0.1", "10.0.0.7"))
	if at() != "10.0.0.7:80" {
		t.Fatalf("the seed was edited, and v1 is at %s", at())
	}
}

// A policy that says what is in force already changes nothing, whatever was edited beside it in its file.
func TestAPolicyThatSaysTheSameChangesNothing(t *testing.T) {
	r := newRun(t, seedV1+"ramp: {steps: [1%, 10%, 50%, 100%], hold: 2s}\njudge: {clump: 1, budget: 100000}\n")
	r.announce("v2", "10.0.0.2:80")
	r.fleet = false
	r.observe(4, counts("v1", 990, 0, "v2", 10, 0))
	r.step(Rejected{At: r.at, Generation: r.s.Generation, Node: "edge-1", Message: "no"})
	before, n := mustEncode(t, r.s), len(r.log)
	same := PolicyChanged{At: r.s.At, Policy: mustDecode(t, before).Policy, Hash: r.s.PolicyHash, By: "reload"}
	r.step(same)
	if after := mustEncode(t, r.s); !bytes.Equal(before, after) {
		t.Errorf("the same policy changed the state %s", difference(before, after))
	}
	same.Hash = "another"
	r.step(same)
	if r.s.PolicyHash != "another" {
		t.Error("the hash of the file is not kept")
	}
	r.s.PolicyHash = mustDecode(t, before).PolicyHash
	if after := mustEncode(t, r.s); !bytes.Equal(before, after) || len(r.log) != n {
		t.Errorf("another policy of the same file was edited: %v, and the state changed %s", r.log[n:], difference(before, after))
	}
	same.Policy.Ramp.Hold *= 2
	r.step(same)
	if len(r.log) != n+1 || !slices.ContainsFunc(r.log[n:], func(x Record) bool { return x.Kind == KindPolicy }) {
		t.Errorf("an edit wrote %v", r.log[n:])
	}
}
