package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// Document is one policy, with what was written.
type Document struct {
	Policy Policy
	File   string
	Text   string     // of this document alone: it parses to the same policy without the rest of its file
	Shown  string     // Text without its secrets
	Hash   string     // 12 hex digits of the SHA-256 of Text
	above  int        // lines of the file above Text
	root   *yaml.Node // while it is being read: it is several times the text
}

// Finding makes a finding about a key of the document, at its position in the file.
func (d *Document) Finding(path, message string) Finding {
	m := d.position(path)
	return Finding{File: d.File, Line: m.Line, Column: m.Column, Message: message}
}

func (d *Document) place(path string) string {
	m := d.position(path)
	return fmt.Sprintf("%s:%d:%d", d.File, m.Line, m.Column)
}

// position is where a key stands in the file. What was read before is read again for it.
func (d *Document) position(path string) yaml.Mark {
	if d.root != nil {
		return Position(d.root, path)
	}
	var root *yaml.Node
	if nodes, err := load([]byte(d.Text)); err == nil && len(nodes) > 0 {
		root = content(nodes[0])
	}
	m := Position(root, path)
	m.Line += d.above
	return m
}

// documents are those of a file that hold something, with their texts and nodes.
func documents(file string, data []byte) ([]Document, error) {
	nodes, err := load(data)
	if err != nil {
		return nil, err
	}
	var docs []Document
	texts, above := split(string(data), nodes)
	for i, text := range texts {
		if root := content(nodes[i]); root != nil {
			sum := sha256.Sum256([]byte(text))
			docs = append(docs, Document{File: file, Text: text, Hash: hex.EncodeToString(sum[:6]), above: above[i], root: root})
		}
	}
	return docs, nil
}

// load reads all documents of a file, those too that hold nothing.
func load(data []byte) ([]*yaml.Node, error) {
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithAllDocuments())
	if err != nil {
		return nil, err
	}
	var nodes []*yaml.Node
	for {
		n := &yaml.Node{}
		if err := loader.Load(n); errors.Is(err, io.EOF) {
			return nodes, nil
		} else if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
}

// content is what a document holds; nil for nothing.
func content(n *yaml.Node) *yaml.Node {
	if n.Kind != yaml.DocumentNode || len(n.Content) == 0 || n.Content[0].Tag == "!!null" {
		return nil
	}
	return n.Content[0]
}

// split cuts a file before the line where each document begins: its `---`, or its first directive. A line
// of nothing but `---` belongs to nobody, so that a document reads the same wherever it stands in a file. It also returns
// how many lines are above each.
func split(text string, nodes []*yaml.Node) (texts []string, above []int) {
	starts := lineStarts(text)
	texts, above = make([]string, len(nodes)), make([]int, len(nodes))
	for i := range slices.Backward(nodes) {
		line := 0 // what comes before the first document is its own
		if i > 0 {
			line = nodes[i].Line - 1
		}
		begin := starts[line]
		if line+1 < len(starts) && strings.TrimSpace(text[begin:starts[line+1]]) == "---" {
			line++
		}
		texts[i], above[i], text = text[starts[line]:], line, text[:begin]
	}
	return texts, above
}

// lineStarts are the offsets of the lines as YAML counts them.
func lineStarts(text string) []int {
	starts := []int{0}
	for i, r := range text {
		switch r {
		case '\r':
			if strings.HasPrefix(text[i:], "\r\n") {
				continue // the line ends with the \n
			}
			starts = append(starts, i+1)
		case '\n':
			starts = append(starts, i+1)
		case '\u0085':
			starts = append(starts, i+2)
		case '\u2028', '\u2029':
			starts = append(starts, i+3)
		}
	}
	return starts
}
