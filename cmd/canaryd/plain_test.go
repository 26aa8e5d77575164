package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

// What a container wrote is no command to a terminal, nor to the runner of a CI job.
func TestWhatOthersSayIsPlain(t *testing.T) {
	for said, want := range map[string]string{
		"ended 3 times: panic: nil\n":                  "ended 3 times: panic: nil",
		"exit 1: \x1b[2J\x1b]0;owned\x07 gone":         `exit 1: \x1b[2J\x1b]0;owned\x07 gone`,
		"back\rwards":                                  `back\x0dwards`,
		"\u202egnp.exe \u2028next":                     `\u202egnp.exe \u2028next`,
		"a\r\nb\n\nc":                                  "a\n  | b\n  | \n  | c",
		"::error::x":                                   ": :error::x",
		"why: ::set-output name=a::b":                  "why: : :set-output name=a::b",
		"one\n::add-mask::secret":                      "one\n  | : :add-mask::secret",
		"[::1]:80 and ::1 refuse":                      "[::1]:80 and ::1 refuse",
		"##[error]x ##vso[task] # # ##":                "# #[error]x # #vso[task] # # ##",
		"tab\tbed, café, 東京, \xff":                     "tab bed, café, 東京, ?",
		"section_start:1:x[collapsed=true]\r\x1b[0Khi": `section_start:1:x[collapsed=true]\x0d\x1b[0Khi`,
	} {
		if got := plain(said); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
	got, err := plainJSON([]byte(`{"reason": "a\u001b[31m\n::warning::x", "at": 1234567890123456789, "list": ["\u0007"], "weights": {"v\u001b": 1}}`))
	if err != nil || string(got) != `{"at":1234567890123456789,"list":["\\x07"],"reason":"a\\x1b[31m\n  | : :warning::x","weights":{"v\\x1b":1}}` {
		t.Errorf("%s %v", got, err)
	}
}

// Nothing that comes out can be a command, whatever goes in.
func FuzzPlain(f *testing.F) {
	f.Add("a\n::b\x1b[0m ##[x]")
	f.Fuzz(func(t *testing.T, said string) {
		for line := range strings.Lines(plain(said)) {
			trimmed := strings.TrimLeft(strings.TrimSpace(line), "| ")
			if strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\x00\x07\x08\x0d\x1b\x7f") || strings.Contains(line, "##[") || len(trimmed) > 2 && strings.HasPrefix(trimmed, "::") && (trimmed[2]|0x20 >= 'a' && trimmed[2]|0x20 <= 'z') {
				t.Errorf("%q becomes %q", said, line)
			}
		}
	})
}

// JSON says the same, and commands neither a terminal nor a runner.
func TestJSONCommandsNothing(t *testing.T) {
	said := "a\u009b2Jb\x7f\u202ec\U000e0001 ##vso[task.setvariable variable=x]y ##[error]z ### \ufffd ü•"
	var out bytes.Buffer
	if err := printJSON(&out, []string{said}); err != nil {
		t.Fatal(err)
	}
	for _, r := range out.String() {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%q is in %q", r, out.String())
		}
	}
	var back []string
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || back[0] != said || strings.Contains(out.String(), "##") || !strings.Contains(out.String(), "ü•") {
		t.Errorf("%v %q is written as %s", err, back, out.String())
	}
}
