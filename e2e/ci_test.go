package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The script of config/ci waits for a release's fate, passes canaryd's exit code on, and says the reason as an annotation.
func TestTheCIScript(t *testing.T) {
	t.Parallel()
	s := newScene(t, setting{ramp: "ramp: {steps: [20%, 100%], hold: 1s}\njudge: {clump: 1, budget: 100000, promote_within: {ratio: 2, margin: 2%}}\n"})
	s.load(300)
	good, bad := s.version("v2"), s.version("v3")
	bad.Fail(1)
	for _, c := range []struct {
		version, address, timeout string
		code                      int
		says                      string
	}{
		{"v2", good.Address, "60s", 0, "::notice title=canaryd: shop v2 promoted::shop v2: stable."},
		{"v3", bad.Address, "60s", 10, "::error title=canaryd: shop v3 rolled back::shop v3: failed. error rate"},
		{"v4", good.Address, "100ms", 11, "::warning title=canaryd: shop v4 undecided::"},
	} {
		cmd := exec.Command("../config/ci/deploy.sh")
		outputs := filepath.Join(t.TempDir(), "outputs")
		cmd.Env = append(os.Environ(), "CANARYD_URL=http://"+s.Web, "SERVICE=shop", "VERSION="+c.version, "ENDPOINTS="+c.address, "TIMEOUT="+c.timeout,
			"GITHUB_ACTIONS=true", "GITHUB_OUTPUT="+outputs, "PATH="+filepath.Dir(part(t, "canaryd"))+":"+os.Getenv("PATH"))
		out, err := cmd.Output()
		code := 0
		var ee *exec.ExitError
		if errors.As(err, &ee) {
			code = ee.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if code != c.code || !strings.Contains(string(out), c.says) {
			t.Errorf("%s: exit %d, want %d; it says\n%s", c.version, code, c.code, out)
		}
		if b, _ := os.ReadFile(outputs); !strings.HasPrefix(string(b), "outcome=") {
			t.Errorf("outputs: %q", b)
		}
	}
}
