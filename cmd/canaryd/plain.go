package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// What the daemon says may be the words of a container, of an Envoy, or of whoever called the API: on a terminal a
// sequence of theirs could write over what stands there, and in the log of a CI job a line of theirs could be a command.

// commands are what GitHub's, GitLab's and Azure's runners take for one, at the begin of a line or anywhere in it.
var commands = regexp.MustCompile(`(?:^|\s)::[A-Za-z]|##(?:\[|vso)`)

// plain is a text without control characters and commands of runners. Its lines but the first are marked as such.
func plain(s string) string {
	var b strings.Builder
	for i, line := range strings.Split(strings.TrimRight(strings.ReplaceAll(s, "\r\n", "\n"), "\n"), "\n") {
		if i > 0 {
			b.WriteString("\n  | ")
		}
		for _, r := range strings.ToValidUTF8(line, "?") {
			switch {
			case r == '\t':
				b.WriteByte(' ')
			case unicode.IsPrint(r):
				b.WriteRune(r)
			case r < 0x100:
				fmt.Fprintf(&b, `\x%02x`, r)
			default:
				fmt.Fprintf(&b, `\u%04x`, r)
			}
		}
	}
	return commands.ReplaceAllStringFunc(b.String(), func(c string) string {
		return strings.NewReplacer("::", ": :", "##", "# #").Replace(c)
	})
}

// escaped leaves JSON the same to who reads it as JSON: DEL, the control characters from U+0080 on and others that are not
// printed are not escaped by encoding/json, and Azure's runners look for commands anywhere in a line.
func escaped(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for i, r := range string(raw) {
		switch {
		case r >= 0x10000 && !unicode.IsPrint(r):
			a, b := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, a, b)
		case r >= 0x7f && !unicode.IsPrint(r), r == '#' && i > 0 && raw[i-1] == '#':
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			out = utf8.AppendRune(out, r)
		}
	}
	return out
}

// plainJSON does so with every text in an answer.
func plainJSON(raw []byte) ([]byte, error) {
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return json.Marshal(plainly(v))
}

func plainly(v any) any {
	switch v := v.(type) {
	case string:
		return plain(v)
	case []any:
		for i := range v {
			v[i] = plainly(v[i])
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			out[plain(k)] = plainly(x)
		}
		return out
	}
	return v
}
