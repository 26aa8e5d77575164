package e2e

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// Only here the README's first command is run to its end, on its own policy of real holds: as `make demo` runs it: from the
// top of the repository, with relative paths.
func TestDemo(t *testing.T) {
	t.Parallel()
	part(t, "canaryd")
	cmd := exec.CommandContext(t.Context(), "bin/canaryd", "demo", "--envoy=.tools/bin/envoy-newest")
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"exit 0 after", "exit 10 after", "0 of these were not answered by a failing version"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the demo does not say %q:\n%s", want, out)
		}
	}
	if !regexp.MustCompile(`v3 +\d+ +\d+ +\d\.\d\d s`).Match(out) {
		t.Errorf("the table has no time to zero for v3:\n%s", out)
	}
}
