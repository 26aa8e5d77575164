package controller

import (
	"os/exec"
	"testing"
	"testing/synctest"

	"github.com/canaryd/canaryd/internal/world"
)

// Each record names the policy in force, by text and hash, and the commit of its directory.
func TestHistoryKnowsPolicyAndCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, bubblePolicy, 0, world.Traffic{Service: "shop"})
		git := func(args ...string) {
			t.Helper()
			args = append([]string{"-C", b.dir, "-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)
			if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
				t.Fatalf("git: %v %s", err, out)
			}
		}
		git("init", "-q")
		git("add", "shop.yml")
		git("commit", "-qm", "policy")
		reload := func(text string) Entry {
			t.Helper()
			b.write(text)
			if err := b.daemon.Reload(t.Context(), "test"); err != nil {
				t.Fatal(err)
			}
			b.announce("v2") // waits until all is stored
			h, err := b.daemon.History(t.Context(), "shop", 100)
			if err != nil || len(h) == 0 {
				t.Fatalf("%d records, %v", len(h), err)
			}
			return h[len(h)-1]
		}
		e := reload(bubblePolicy + "ramp: {canaries: 1}\n")
		if len(e.Commit) != 40 || e.Clean == nil || *e.Clean || e.By == "" || e.PolicyHash == "" || e.Policy != bubblePolicy+"ramp: {canaries: 1}\n" {
			t.Errorf("uncommitted: %+v", e)
		}
		git("add", "shop.yml")
		git("commit", "-qm", "one at a time")
		if err := b.daemon.Reload(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
		b.announce("v3")
		h, err := b.daemon.History(t.Context(), "shop", 1)
		if err != nil || len(h) != 1 {
			t.Fatal(err)
		}
		if h[0].Version != "v3" || h[0].Clean == nil || !*h[0].Clean || h[0].Commit == e.Commit {
			t.Errorf("committed: %+v", h[0])
		}
	})
}
