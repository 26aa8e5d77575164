package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/canaryd/canaryd/internal/world"
)

// A slower release is held, and cut where the policy asks for it; one that is no slower is promoted.
func TestSimulateSaysWhatHappensToASlowerRelease(t *testing.T) {
	file := filepath.Join(t.TempDir(), "shop.yml")
	if err := os.WriteFile(file, []byte("service: shop\njudge: {slow: {edges: [50ms, 1s], then: rollback, warm_up: 10s}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := []string{"simulate", "--runs", "2", "--rate", "200", "--past", "10m", "--most", "20m", "--canary", "100%"}
	simulate := func(args ...string) (got struct {
		Good   world.Answer  `json:"as_good_as_stable"`
		Slower *world.Answer `json:"slower"`
	}) {
		code, out, errOut := runCLI(t, "", append(append(flags, "-o", "json"), args...)...)
		if err := json.Unmarshal([]byte(out), &got); code != 0 || err != nil {
			t.Fatalf("exit %d, %v:\n%s%s", code, err, out, errOut)
		}
		return got
	}
	if got := simulate("--canary-slow", "40%"); got.Good.Slower != 0 || got.Slower.Slower != 2 || got.Slower.Promoted+got.Slower.Cut != 0 || got.Slower.SlowerAt.Median == nil {
		t.Errorf("%+v", got)
	}
	if got := simulate("--canary-slow", "40%", file); got.Good.Cut != 0 || got.Slower.Cut != 2 {
		t.Errorf("%+v", got)
	}
	if got := simulate(); got.Slower != nil || got.Good.Slower != 0 {
		t.Errorf("%+v", got)
	}
	code, out, errOut := runCLI(t, "", append(flags, "--canary-slow", "40%", file)...)
	for _, said := range []string{"1% of its answers take longer than 1s", "HELD AS SLOWER", "40% slow"} {
		if code != 0 || !strings.Contains(out, said) {
			t.Errorf("exit %d, want %q:\n%s%s", code, said, out, errOut)
		}
	}
	if code, _, errOut := runCLI(t, "", append(flags, "--canary-slow", "much")...); code != 2 || !strings.Contains(errOut, "--canary-slow") {
		t.Errorf("exit %d: %s", code, errOut)
	}
}
