package main

import (
	"os"
	"strings"
	"testing"
)

// docs/policy.md is what `canaryd schema --markdown` prints, and each key in it is described.
func TestThePolicyReferenceIsUpToDate(t *testing.T) {
	code, text, errOut := runCLI(t, "", "schema", "--markdown")
	if code != exitOK {
		t.Fatalf("exit %d: %s", code, errOut)
	}
	const page = "../../docs/policy.md"
	if *update {
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(kept) != text {
		t.Error("docs/policy.md is out of date: canaryd schema --markdown >docs/policy.md")
	}
	rows := 0
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "| `") {
			rows++
		}
		if strings.HasPrefix(line, "| `") && strings.HasSuffix(line, "|  |\n") {
			t.Errorf("the schema does not describe %s", line)
		}
	}
	if rows < 85 {
		t.Errorf("%d keys", rows)
	}
}
