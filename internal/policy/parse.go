package policy

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v4"
)

// Parse reads the policies of a file, one YAML document each. The documents are usable only when
// the findings hold no error.
func Parse(file string, data []byte) ([]Document, Findings) {
	if !utf8.Valid(data) {
		return nil, Findings{{File: file, Line: 1, Column: 1, Message: "this is not UTF-8 text: save the file as UTF-8"}}
	}
	docs, err := documents(file, data)
	if err != nil {
		return nil, loadFindings(file, err)
	}
	var all Findings
	for i := range docs {
		all = append(all, docs[i].decode()...)
		docs[i].show()
	}
	if len(docs) == 0 {
		all = append(all, Finding{File: file, Line: 1, Column: 1, Message: "no policy here: write at least `service: NAME`"})
	}
	all.Sort()
	return docs, all
}

func (d *Document) decode() Findings {
	d.Policy = toDecode()
	fs := Decode(d.File, d.root, &d.Policy)
	d.Policy.complete()
	d.placed()
	mapping := d.root.Kind == yaml.MappingNode
	if !mapping && len(fs) == 0 {
		fs = append(fs, d.Finding("", "this does not fit here: expected a mapping of keys, as in `service: NAME`"))
	}
	if mapping && (len(fs) == 0 || d.Policy.Service != "" || !Has(d.root, "service")) {
		fs = append(fs, d.validate(fs)...) // when decoding stopped early, the values are not there to be checked
	}
	return fs
}

// LoadOne reads a file that holds one YAML document, for Decode; nil when it holds nothing.
func LoadOne(file string, data []byte) (*yaml.Node, Findings) {
	nodes, err := load(data)
	if err != nil {
		return nil, loadFindings(file, err)
	}
	if len(nodes) == 0 {
		return nil, nil
	}
	var fs Findings
	for _, n := range nodes[1:] {
		if content(n) != nil {
			fs = append(fs, Finding{File: file, Line: n.Line, Column: n.Column, Message: "a second YAML document: this file holds one only"})
		}
	}
	return content(nodes[0]), fs
}

// Decode fills v from the node, refusing unknown keys, and returns every mistake with its position.
// A key that fails keeps v's value.
func Decode(file string, n *yaml.Node, v any) Findings {
	fs := loadFindings(file, n.Load(v, yaml.WithKnownFields()))
	for i, f := range fs {
		if key, unknown := strings.CutPrefix(f.Message, unknownPrefix); unknown {
			fs[i].Message = unknownKey(n, yaml.Mark{Line: f.Line, Column: f.Column}, key, reflect.TypeOf(v))
		}
	}
	return fs
}

// unknownPrefix stands before a key that a struct does not have.
const unknownPrefix = "unknown key "

func loadFindings(file string, err error) Findings {
	if err == nil {
		return nil
	}
	var many *yaml.LoadErrors
	if errors.As(err, &many) {
		var fs Findings
		for _, e := range many.Errors {
			fs = append(fs, markFinding(file, e))
		}
		return fs
	}
	var one *yaml.LoadError
	if errors.As(err, &one) {
		return Findings{markFinding(file, one)}
	}
	return Findings{{File: file, Line: 1, Column: 1, Message: err.Error()}}
}

func markFinding(file string, e *yaml.LoadError) Finding {
	return Finding{File: file, Line: max(1, e.Mark.Line), Column: max(1, e.Mark.Column), Message: plainWords(e.Message)}
}

// inLibrary is where in the YAML library something was found out.
var inLibrary = regexp.MustCompile(`^go-yaml load error in \w+ at [^:]*: `)

// plainWords says what the YAML library says without Go's type names, which mean nothing to an operator, and without what may be a
// secret: passwords begin with * and {, too, and a mapping may be the one that has them.
func plainWords(s string) string {
	s = inLibrary.ReplaceAllString(s, "")
	if strings.HasPrefix(s, "unknown anchor ") {
		return "text that begins with * stands for an anchor, and there is none of this name: put it in quotes"
	}
	if i := strings.LastIndex(s, " as a !!"); i >= 0 && strings.HasPrefix(s, "cannot construct ") {
		return "this is not a value of its tag " + s[i+len(" as a "):]
	}
	if rest, ok := strings.CutPrefix(s, "field "); ok {
		if i := strings.LastIndex(rest, " not found in type "); i >= 0 {
			return unknownPrefix + rest[:i]
		}
	}
	if rest, ok := strings.CutPrefix(s, "cannot construct "); ok {
		i := strings.LastIndex(rest, " into ")
		if i < 0 {
			return "this does not fit here"
		}
		value, expected := rest[:i], goTypeWords(rest[i+len(" into "):])
		from, to := strings.Index(value, "`"), strings.LastIndex(value, "`")
		if from < 0 || from == to || strings.Contains(expected, aMapping) {
			return "this does not fit here: expected " + expected
		}
		return fmt.Sprintf("%q does not fit here: expected %s", value[from+1:to], expected)
	}
	if strings.Contains(s, "cannot start any token") {
		return "this character cannot stand here: indent with spaces, not with tabs, and quote text that begins with one of @ ` %"
	}
	if strings.Contains(s, "tab character") {
		return s + ": indent with spaces"
	}
	if strings.HasPrefix(s, "did not find expected") {
		return s + ": is a [, a { or a quote above not closed, or a line indented wrongly?"
	}
	return strings.TrimPrefix(s, "yaml: ")
}

const aMapping = "a mapping of keys"

func goTypeWords(t string) string {
	switch {
	case t == "string":
		return "text"
	case t == "bool":
		return "true or false"
	case strings.HasPrefix(t, "int"), strings.HasPrefix(t, "float"):
		return "a number"
	case strings.HasPrefix(t, "[]"):
		return "a list, as in [a, b]"
	case t == "time.Duration":
		return "a time, as in 30s"
	case strings.HasSuffix(t, ".plain"): // Prometheus' settings, and their secrets
		return "text, or " + aMapping
	default:
		return aMapping
	}
}
