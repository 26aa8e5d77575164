package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The shipped alerts fire when they should, the first refusal of an Envoy included, and each one has a page that says what to do.
func TestAlertsFire(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"check", "rules", "../config/alerts.yml"}, {"test", "rules", "../config/alerts_test.yml"}} {
		if out, err := tool(t, "promtool", args...); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	rules, tests, runbook, metrics := read(t, "../config/alerts.yml"), read(t, "../config/alerts_test.yml"), read(t, "../docs/runbook.md"), read(t, "../internal/web/metrics.go")
	names := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(rules, -1)
	if len(names) < 10 || strings.Count(rules, "severity:") != len(names) {
		t.Errorf("%d alerts, %d severities", len(names), strings.Count(rules, "severity:"))
	}
	for _, n := range names {
		if !strings.Contains(runbook, "\n## "+n[1]+"\n") || !strings.Contains(rules, "docs/runbook.md#"+strings.ToLower(n[1])) {
			t.Errorf("%s: nobody says what to do", n[1])
		}
		if !strings.Contains(tests, n[1]) {
			t.Errorf("%s: nothing shows that it fires", n[1])
		}
	}
	for _, m := range regexp.MustCompile(`canaryd_(\w+)`).FindAllStringSubmatch(rules, -1) {
		if !strings.Contains(metrics, `"`+m[1]+`"`) {
			t.Errorf("there is no metric %s", m[0])
		}
	}
}

// The shipped unit leaves canaryd what it needs, and not much else.
func TestTheUnitIsConfined(t *testing.T) {
	t.Parallel()
	if out, err := tool(t, "systemd-analyze", "security", "--offline=true", "--threshold=25", "../config/canaryd.service"); err != nil {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
}

// What SECURITY.md says is tested is.
func TestTheThreatsAreTested(t *testing.T) {
	t.Parallel()
	var tests strings.Builder
	for _, pattern := range []string{"../cmd/canaryd/*_test.go", "../internal/*/*_test.go", "*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			tests.WriteString(read(t, f))
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(read(t, "../SECURITY.md"), -1)
	if len(named) < 12 {
		t.Errorf("%d tests are named", len(named))
	}
	for _, n := range named {
		if !strings.Contains(tests.String(), "\nfunc "+n[1]+"(") {
			t.Errorf("there is no %s", n[1])
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
