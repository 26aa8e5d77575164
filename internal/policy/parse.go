package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// Document is one parsed policy with its text and the position of each of its keys.
type Document struct {
	Policy Policy
	File   string
	Text   string
	Hash   string // 12 hex digits of the SHA-256 of Text
	root   *yaml.Node
}

// Finding makes a finding about a key of the document.
func (d Document) Finding(path, message string) Finding {
	m := Position(d.root, path)
	return Finding{File: d.File, Line: m.Line, Column: m.Column, Message: message}
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
	d := Document{Policy: toDecode(), File: file, Text: string(data), root: n}
	sum := sha256.Sum256(data)
	d.Hash = hex.EncodeToString(sum[:6])
	fs := Decode(file, n, &d.Policy)
	d.Policy.complete()
	if n.Kind != yaml.MappingNode && len(fs) == 0 {
		fs = append(fs, d.Finding("", "this does not fit here: expected a mapping of keys, as in `service: NAME`"))
	}
	if _, named := lookup(n, "service"); n.Kind == yaml.MappingNode && (len(fs) == 0 || d.Policy.Service != "" || !named) {
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
			return fmt.Sprintf("unknown key %q (check spelling and indentation)", rest[:i])
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
