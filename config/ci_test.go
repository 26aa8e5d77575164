package config

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What the script of config/ci says for each exit code of canaryd, on GitHub and elsewhere. The end-to-end tests run it with the real one.
func TestTheCIScriptSaysEveryOutcome(t *testing.T) {
	for _, c := range []struct {
		code                int
		stdout, stderr      string
		github, plain, said string
	}{
		{0, "shop v2: stable. proven at 50%", "12:00:00 v2 canary", "::notice title=canaryd: shop v2 promoted::shop v2: stable. proven at 50%25\n", "canaryd: shop v2 promoted: shop v2: stable. proven at 50%\n", "promoted"},
		{10, "shop v2: failed. error rate 50%. Nothing was started", "", "::error title=canaryd: shop v2 rolled back::shop v2: failed. error rate 50%25. Nothing was started\n", "rolled back: shop v2: failed", "rolled back"},
		{11, "shop v2: undecided, canary at 5%. budget: more", "shop v2 is undecided", "::warning title=canaryd: shop v2 undecided::shop v2: undecided, canary at 5%25. budget: more\n", "undecided: shop v2: undecided", "undecided"},
		{12, "shop v2: aborted. aborted by hand", "", "::error title=canaryd: shop v2 aborted::shop v2: aborted. aborted by hand\n", "aborted: shop v2: aborted. aborted by hand\n", "aborted"},
		{13, "shop v2: superseded. v3 was promoted first", "", "::warning title=canaryd: shop v2 superseded::shop v2: superseded. v3 was promoted first\n", "superseded: shop v2: superseded", "superseded"},
		{1, "", "canaryd: no canaryd answers at http://c: refused\nTry: start it", "::error title=canaryd: shop v2 failed::canaryd: no canaryd answers at http://c: refused\n", "failed: canaryd: no canaryd answers at http://c: refused\n", "failed"},
		{2, "", "unknown flag", "::error title=canaryd: shop v2 failed::unknown flag\n", "failed: unknown flag\n", "failed"},
	} {
		dir := t.TempDir()
		fake := "#!/bin/sh\n[ \"$*\" = 'deploy shop v2 --endpoint h:1 --wait --timeout 2h' ] || exit 99\n[ -z \"$OUT\" ] || echo \"$OUT\"\n[ -z \"$ERR\" ] || echo \"$ERR\" >&2\nexit $CODE\n"
		if err := os.WriteFile(filepath.Join(dir, "canaryd"), []byte(fake), 0o700); err != nil {
			t.Fatal(err)
		}
		outputs := filepath.Join(dir, "outputs")
		for github, want := range map[string]string{"true": c.github, "": c.plain} {
			cmd := exec.Command("ci/deploy.sh")
			cmd.Env = append(os.Environ(), "SERVICE=shop", "VERSION=v2", "ENDPOINTS=h:1", "IMAGE=", "TIMEOUT=", "GITHUB_ACTIONS="+github, "GITHUB_OUTPUT="+outputs,
				"PATH="+dir+":"+os.Getenv("PATH"), "OUT="+c.stdout, "ERR="+c.stderr, "CODE="+string(rune('0'+c.code/10))+string(rune('0'+c.code%10)))
			var told strings.Builder
			cmd.Stderr = &told
			out, err := cmd.Output()
			code := 0
			var ee *exec.ExitError
			if errors.As(err, &ee) {
				code = ee.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if code != c.code || !strings.Contains(string(out), want) || strings.TrimSpace(told.String()) != c.stderr {
				t.Errorf("exit %d, want %d and %q; stderr %q\n%s", code, c.code, want, told.String(), out)
			}
		}
		if b, _ := os.ReadFile(outputs); string(b) != "outcome="+c.said+"\n" {
			t.Errorf("outputs: %q", b)
		}
	}
}
