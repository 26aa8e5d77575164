package main

import (
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The samples hold.
func TestSampleTestsHold(t *testing.T) {
	files, err := filepath.Glob("../../config/tests/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v %v", files, err)
	}
	code, out, errOut := runCLI(t, "", append([]string{"test"}, files...)...)
	if code != 0 || !strings.Contains(out, "0 failed") {
		t.Errorf("exit %d\n%s%s", code, out, errOut)
	}
}

// What tests nothing does not hold.
func TestAPatternThatMatchesNoCase(t *testing.T) {
	code, out, errOut := runCLI(t, "", "test", "--run", "no such case", "../../config/tests/shop.yml")
	if code != exitError || !strings.Contains(errOut, "no case matches") {
		t.Errorf("exit %d\n%s%s", code, out, errOut)
	}
}

// Each case that does not hold is shown with its place and with what was so instead; the others run all the same.
func TestACaseThatFails(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "shop.yml"), []byte("service: shop\nramp: {steps: [5%, 100%], hold: 10s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	write := func(cases string) string {
		p := filepath.Join(dir, "tests.yml")
		if err := os.WriteFile(p, []byte("policy: shop.yml\ncases:\n"+cases), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	begins := "- name: a\n  errors: {v2: 100%}\n  story:\n  - {at: 0s, announce: v2}\n"
	for name, c := range map[string]struct{ cases, want string }{
		"a phase":               {begins + "  - {at: 1m, expect: {v2: {phase: stable}}}\n", `tests.yml:7:22: at 1m: v2 is failed at 0%, fail worse (error rate 100% `},
		"never within the time": {begins + "  - at: 1m\n    within: 10s\n    expect: {v2: {weight: \">=1%\"}}\n", "tests.yml:9:13: at 1m10s: v2 is failed at 0%"},
		"a version":             {begins + "  - {at: 1m, expect: {v3: {phase: stable}}}\n", "there is no version v3"},
		"a command":             {begins + "  - {at: 1m, promote: v2}\n", "refused: version v2"},
		"no refusal":            {begins + "  - {at: 0s, pause: v2, refused: nothing}\n", "it was to be refused (nothing), and was done"},
		"a refusing Envoy":      {"- name: a\n  story:\n  - {at: 0s, envoy: \"no such filter\"}\n  - {at: 1s, announce: v2}\n  - {at: 1m, expect: {v2: {phase: stable}}}\n", "no such filter"},
		"an unknown key":        {"- name: a\n  story:\n  - {at: 0s, anounce: v2}\n", "tests.yml:5:"},
		"an unknown phase":      {"- name: a\n  story:\n  - {at: 0s, expect: {v2: {phase: fine}}}\n", `there is no phase "fine"`},
		"a weight":              {"- name: a\n  story:\n  - {at: 0s, expect: {v2: {weight: 5}}}\n", `"5" is not a percentage`},
		"time runs backwards":   {"- name: a\n  story:\n  - {at: 1m}\n  - {at: 0s}\n", "goes back in time"},
		"no story":              {"- name: a\n", "nothing happens and nothing is expected"},
		"a rate":                {"- name: a\n  story:\n  - {at: 0s, rate: -5}\n", "tests.yml:5:20: rate is a number"},
		"two of one name":       {"- {name: a}\n- {name: a}\n", `"a" is not`},
		"too long a story":      {"- name: a\n  story:\n  - {at: 100y, announce: v2}\n", "a story takes 30d at most"},
		"too long a past":       {"- name: a\n  past: 100y\n  story:\n  - {at: 0s, announce: v2}\n", "past is at most 30d"},
		"no cases":              {"", "there are no cases"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errOut := runCLI(t, "", "test", write(c.cases))
			if code != exitFindings || !strings.Contains(out, c.want) || !strings.Contains(out, "FAILED") {
				t.Errorf("exit %d, want %q\n%s%s", code, c.want, out, errOut)
			}
		})
	}
}

func TestTheResultsOfTestsAsCIReadsThem(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"shop.yml": "service: shop\n---\nservice: pay\n",
		"tests.yml": "policy: shop.yml\nservice: pay\ncases:\n- {name: good, story: [{at: 0s, announce: v2}]}\n- {name: bad <&>, story: [{at: 0s, promote: v9}]}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	junit, file := filepath.Join(dir, "junit.xml"), filepath.Join(dir, "tests.yml")
	if code, out, errOut := runCLI(t, "", "test", "--junit", junit, file); code != exitFindings {
		t.Errorf("exit %d\n%s%s", code, out, errOut)
	}
	raw, err := os.ReadFile(junit)
	if err != nil {
		t.Fatal(err)
	}
	var s junitSuite
	if err := xml.Unmarshal(raw, &s); err != nil || s.Tests != 2 || s.Failures != 1 || s.Cases[1].Name != "bad <&>" || !strings.Contains(s.Cases[1].Failure.Text, "tests.yml:5:") {
		t.Errorf("%v: %s", err, raw)
	}
	code, out, _ := runCLI(t, "", "test", "-o", "json", "--run", "^good$", file)
	var results []caseResult
	if err := json.Unmarshal([]byte(out), &results); err != nil || code != 0 || len(results) != 1 || results[0].Name != "good" {
		t.Errorf("exit %d, %v: %s", code, err, out)
	}
}
