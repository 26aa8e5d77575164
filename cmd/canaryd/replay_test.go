package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// A release is promoted, one is cut: both come out of the journal as they were, over a restart, and otherwise under another policy.
func TestReleasesAreReplayed(t *testing.T) {
	t.Parallel()
	w := newTown(t, townPolicy)
	w.want("replay shop", exitError, "|nothing is in the journal of shop")
	w.want("deploy shop v2 --endpoint 127.0.0.1:2 --wait", exitOK, "shop v2: stable.")
	w.want("deploy shop v3 --endpoint 127.0.0.1:3 --wait", exitRolledBack, "failed")
	w.want("replay shop", exitOK, "decisions came out as they were, byte for byte")
	w.stop()
	w.start()
	w.want("deploy shop v4 --endpoint 127.0.0.1:4 --wait", exitOK, "shop v4: stable.")

	code, out, errOut := w.say("", "replay", "shop")
	for _, want := range []string{`v2 .* promoted `, `v3 .* rolled back .*  [1-9]`, `v4 .* promoted `, "all [0-9]+ decisions came out as they were, byte for byte"} {
		if !regexp.MustCompile(want).MatchString(out) || code != exitOK {
			t.Errorf("exit %d, without %q:\n%s%s", code, want, out, errOut)
		}
	}
	// A policy that tolerates what v3 did.
	w.write("lax.yml", "service: shop\nroute: {probe: \"off\"}\nramp: {steps: [50%, 100%], hold: 1s}\njudge: {clump: 1, budget: 100000, tolerate: {ratio: 1, margin: 60%}, promote_within: {ratio: 1, margin: 90%}}\n")
	lax := filepath.Join(w.dir, "lax.yml")
	code, out, errOut = w.say("", "replay", "--policy", lax, "shop", "v3")
	if code != exitOK || !regexp.MustCompile(`v3 .* rolled back .* undecided \(against it`).MatchString(out) || strings.Contains(out, "v2") || !strings.Contains(out, "It cannot tell more: the weights would have been others") {
		t.Errorf("exit %d\n%s%s", code, out, errOut)
	}
	code, out, errOut = w.say("", "replay", "--policy", filepath.Join(w.dir, "shop.policy"), "shop", "-o", "json")
	var r replayed
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitOK {
		t.Fatalf("exit %d, %v\n%s%s", code, err, out, errOut)
	}
	if len(r.Releases) != 3 || r.Same != r.Decisions || len(r.Otherwise) > 0 || r.Note == "" {
		t.Errorf("%+v", r)
	}
	for _, rel := range r.Releases {
		if rel.Would == nil || rel.Would.Decided != rel.Then.Decided || rel.Would.At.Sub(rel.Then.At).Abs() > 3*time.Second {
			t.Errorf("%s was %+v, and would have been %+v under the policy that it had", rel.Version, rel.Then, rel.Would)
		}
	}
	w.replaysOnly(t)

	code, out, errOut = w.say("", "history", "shop")
	for _, want := range []string{`receipt of v2: under test for .* \(50% for .*\); 0 of its [1-9][0-9]* requests failed, 0 more than at stable's rate; promoted by canaryd`,
		`receipt of v3: under test for .*; [1-9][0-9]* of its [1-9][0-9]* requests failed, [1-9][0-9]* more than at stable's rate; rolled back by canaryd`} {
		if !regexp.MustCompile(want).MatchString(out) || code != exitOK {
			t.Errorf("exit %d, without %q:\n%s%s", code, want, out, errOut)
		}
	}
}

func (w *town) replaysOnly(t *testing.T) {
	w.want("replay shop v9", exitError, "|nothing is in the journal of shop v9")
	w.want("replay nosuch", exitError, "|no service nosuch")
	w.want("replay shop --from yesterday", exitUsage, "|--from \"yesterday\": write a time")
	w.want("replay shop --to 1h", exitError, "|nothing is in the journal of shop")
	w.want("replay shop --from 1h", exitOK, "byte for byte")
	w.want("replay --policy nowhere.yml shop", exitError, "|--policy: open nowhere.yml")
	w.write("other.yml", "service: other\n")
	w.want("replay --policy "+filepath.Join(w.dir, "other.yml")+" shop", exitError, "|it has no document with `service: shop`")
	s := w.service()
	if v := s.Find("v4"); v == nil || v.Phase != rollout.Stable {
		t.Errorf("a replay has changed something: %+v", v)
	}
}

// Ctrl-C ends a long test.
func TestATestIsInterrupted(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	write("shop.yml", "service: shop\nramp: {steps: [5%, 100%], hold: 10s}\n")
	tests := write("tests.yml", "policy: shop.yml\ncases:\n- name: a year\n  story:\n  - {at: 0s, announce: v2}\n  - {at: 29d, expect: {v2: {phase: stable}}}\n")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var out, errOut strings.Builder
	begin := time.Now()
	code := execute(ctx, []string{"test", tests}, strings.NewReader(""), &out, &errOut)
	if took := time.Since(begin); code != exitError || !strings.Contains(errOut.String(), "interrupted") || took > 10*time.Second {
		t.Errorf("exit %d after %s: %s%s", code, took, &out, &errOut)
	}
}
