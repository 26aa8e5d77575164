package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func event1(action, pkg, test, output string) string {
	return `{"Action":"` + action + `","Package":"` + pkg + `","Test":"` + test + `","Output":"` + output + `"}` + "\n"
}

// What passes is counted, what fails or is skipped is shown too, and what never ends has failed.
func TestWhatIsCounted(t *testing.T) {
	good := event1("run", "p", "A", "") + event1("output", "p", "A", `fine\n`) + event1("pass", "p", "A", "")
	for name, c := range map[string]struct {
		in, want, shown string
		failed          bool
	}{
		"a pass":                          {good, "x: 1 passed, 0 failed, 0 skipped\n", "", false},
		"a skip":                          {good + event1("run", "p", "B", "") + event1("output", "p", "B", `no time\n`) + event1("skip", "p", "B", ""), "x: 1 passed, 0 failed, 1 skipped\n", "no time\n", false},
		"a subtest that fails":            {event1("output", "p", "A/b", `bad\n`) + event1("fail", "p", "A/b", "") + event1("fail", "p", "A", "") + event1("fail", "p", "", ""), "x: 0 passed, 2 failed, 0 skipped\n", "bad\n", true},
		"a package that does not compile": {event1("build-output", "p", "", `syntax error\n`) + event1("fail", "p", "", ""), "x: 0 passed, 1 failed, 0 skipped\n", "syntax error\n", true},
		"a test that never ends":          {good + event1("run", "p", "B", "") + event1("output", "p", "B", `panic\n`) + event1("fail", "p", "", ""), "x: 1 passed, 1 failed, 0 skipped\n", "panic\n", true},
		"what it said, again":             {event1("output", "p", "B", `   b_test.go:7: bad\n`) + event1("output", "p", "B", `long log\n`) + event1("fail", "p", "B", ""), "x: 0 passed, 1 failed, 0 skipped\n", "long log\nB: b_test.go:7: bad\n", true},
		"a line of the go command":        {"no such directory\n" + good, "x: 1 passed, 0 failed, 0 skipped\n", "no such directory\n", false},
	} {
		var out strings.Builder
		failed, err := count(strings.NewReader(c.in), &out, "x", "", false)
		if err != nil || failed != c.failed || !strings.HasSuffix(out.String(), c.want) || !strings.Contains(out.String(), c.shown) || strings.Contains(out.String(), "fine") {
			t.Errorf("%s: failed %v, %v:\n%s", name, failed, err, out.String())
		}
	}
}

// Groups are added up in their order; a sum without a test is a failure.
func TestTheSum(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tally.txt")
	for text, want := range map[string]string{
		"unit: 3 passed, 0 failed, 0 skipped\nfuzz: 1 passed, 0 failed, 0 skipped\nfuzz: 2 passed, 0 failed, 1 skipped\n": "unit: 3 passed, 0 failed, 0 skipped\nfuzz: 3 passed, 0 failed, 1 skipped\n6 tests were run\nall: 6 passed, 0 failed, 1 skipped\n",
		"unit: 3 passed, 2 failed, 0 skipped\n": "unit: 3 passed, 2 failed, 0 skipped\n5 tests were run\nall: 3 passed, 2 failed, 0 skipped\n",
		"":                                      "0 tests were run\nall: 0 passed, 0 failed, 0 skipped\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		failed, err := add(&out, file)
		if err != nil || failed != !strings.Contains(want, "6 passed, 0 failed") || out.String() != want {
			t.Errorf("failed %v, %v:\n%s", failed, err, out.String())
		}
	}
}
