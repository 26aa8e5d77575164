package policy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// Finding is one mistake, where it stands, and what to write instead.
type Finding struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
	Warning bool   `json:"warning,omitempty"`
}

func (f Finding) String() string {
	return fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.Message)
}

// Findings are all the mistakes of a file, in order of position.
type Findings []Finding

func (fs Findings) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Errors are the findings that are no mere warnings.
func (fs Findings) Errors() Findings {
	return slices.DeleteFunc(slices.Clone(fs), func(f Finding) bool { return f.Warning })
}

// Warnings are the findings that do not stop a policy from being used.
func (fs Findings) Warnings() Findings {
	return slices.DeleteFunc(slices.Clone(fs), func(f Finding) bool { return !f.Warning })
}

// Document is one parsed policy with its text and the position of each of its keys.
type Document struct {
	Policy Policy
	File   string
	Text   string
	Hash   string // 12 hex digits of the SHA-256 of Text
	marks  marks
}

// Finding makes a finding about a key of the document.
func (d Document) Finding(path, message string) Finding {
	m := d.marks.at(path)
	return Finding{File: d.File, Line: m.Line, Column: m.Column, Message: message}
}

// has reports whether the document writes a key itself.
func (d Document) has(path string) bool {
	_, written := d.marks[path]
	return written
}

// Parse reads the policies of a file, one YAML document each. The documents are usable only when
// the findings hold no error.
func Parse(file string, data []byte) ([]Document, Findings) {
	nodes, err := documents(data)
	if err != nil {
		return nil, loadFindings(file, err)
	}
	var docs []Document
	var all Findings
	for _, n := range nodes {
		d, fs := parseDocument(file, data, n)
		docs, all = append(docs, d), append(all, fs...)
	}
	if len(docs) == 0 {
		all = append(all, Finding{File: file, Line: 1, Column: 1, Message: "no policy here: write at least `service: NAME`"})
	}
	sortFindings(all)
	return docs, all
}

func sortFindings(fs Findings) {
	slices.SortStableFunc(fs, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

func documents(data []byte) ([]*yaml.Node, error) {
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithAllDocuments())
	if err != nil {
		return nil, err
	}
	var nodes []*yaml.Node
	for {
		var n yaml.Node
		err := loader.Load(&n)
		if errors.Is(err, io.EOF) {
			return nodes, nil
		}
		if err != nil {
			return nil, err
		}
		if n.Kind == yaml.DocumentNode && len(n.Content) > 0 && n.Content[0].Tag != "!!null" {
			nodes = append(nodes, n.Content[0])
		}
	}
}

func parseDocument(file string, data []byte, n *yaml.Node) (Document, Findings) {
	d := Document{Policy: Default(), File: file, Text: string(data), marks: marks{}}
	sum := sha256.Sum256(data)
	d.Hash = hex.EncodeToString(sum[:6])
	d.marks.walk("", n)
	fs := Decode(file, n, &d.Policy)
	if n.Kind != yaml.MappingNode && len(fs) == 0 {
		fs = append(fs, d.Finding("", "this does not fit here: expected a mapping of keys, as in `service: NAME`"))
	}
	if _, named := d.marks["service"]; n.Kind == yaml.MappingNode && (len(fs) == 0 || d.Policy.Service != "" || !named) {
		fs = append(fs, d.validate()...) // when decoding stopped early, the values are not there to be checked
	}
	return d, fs
}

// Decode fills v from the node, refusing unknown keys, and returns every mistake with its position.
// A key that fails keeps v's value.
func Decode(file string, n *yaml.Node, v any) Findings {
	return loadFindings(file, n.Load(v, yaml.WithKnownFields()))
}

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

// plainWords says what the YAML library says without Go's type names, which mean nothing to an operator.
func plainWords(s string) string {
	if rest, ok := strings.CutPrefix(s, "field "); ok {
		if i := strings.LastIndex(rest, " not found in type "); i >= 0 {
			return fmt.Sprintf("unknown key %q: no such key exists here; mind spelling and indentation", rest[:i])
		}
	}
	if rest, ok := strings.CutPrefix(s, "cannot construct "); ok {
		i := strings.LastIndex(rest, " into ")
		if i < 0 {
			return "this does not fit here"
		}
		value, expected := rest[:i], goTypeWords(rest[i+len(" into "):])
		from, to := strings.Index(value, "`"), strings.LastIndex(value, "`")
		if from < 0 || from == to {
			return "this does not fit here: expected " + expected
		}
		return fmt.Sprintf("%q does not fit here: expected %s", value[from+1:to], expected)
	}
	return strings.TrimPrefix(s, "yaml: ")
}

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
	default:
		return "a mapping of keys"
	}
}

// marks are the positions of keys by path: ramp.steps[2].
type marks map[string]yaml.Mark

func (m marks) walk(path string, n *yaml.Node) {
	m[path] = yaml.Mark{Line: n.Line, Column: n.Column}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			m.walk(strings.TrimPrefix(path+"."+n.Content[i].Value, "."), n.Content[i+1])
		}
	case yaml.SequenceNode:
		for i, c := range n.Content {
			m.walk(fmt.Sprintf("%s[%d]", path, i), c)
		}
	}
}

// at is the position of a path, or of the nearest key above it that is written down.
func (m marks) at(path string) yaml.Mark {
	for {
		if mark, ok := m[path]; ok {
			return mark
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return yaml.Mark{Line: 1, Column: 1}
		}
		path = path[:i]
	}
}
