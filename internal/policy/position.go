package policy

import (
	"slices"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// Position is where the value of a key stands, as in ramp.steps[2]; of a key that is not written, where
// the nearest one above it stands.
func Position(root *yaml.Node, path string) yaml.Mark {
	n, _ := lookup(root, path)
	if n == nil {
		return yaml.Mark{Line: 1, Column: 1}
	}
	return yaml.Mark{Line: max(1, n.Line), Column: max(1, n.Column)}
}

// Has reports whether a key is written, be it in a mapping that is merged in.
func Has(root *yaml.Node, path string) bool {
	_, written := lookup(root, path)
	return written
}

// Unread reports whether something in the value of a key could not be read or, where the key is not written, a key beside it:
// it may be misspelt. What would be said against that value is then said because of it, and is better not said.
func Unread(root *yaml.Node, path string, fs Findings) bool {
	n, written := lookup(root, path)
	if n = aliased(n); n == nil {
		return false
	}
	return slices.ContainsFunc(fs, func(f Finding) bool { return holds(n, f, written) })
}

func holds(n *yaml.Node, f Finding, deep bool) bool {
	if f.Line == n.Line && f.Column == n.Column && len(n.Content) == 0 {
		return true
	}
	for i, c := range n.Content {
		if key := n.Kind == yaml.MappingNode && i%2 == 0; (deep || key) && holds(c, f, deep) {
			return true
		}
	}
	return false
}

// lookup follows a path as the decoder does, through aliases and merge keys. It returns the last node on
// the way, and whether that is the one of the path.
func lookup(n *yaml.Node, path string) (*yaml.Node, bool) {
	for _, key := range strings.FieldsFunc(path, func(r rune) bool { return strings.ContainsRune(".[]", r) }) {
		next := child(n, key)
		if next == nil {
			return n, false
		}
		n = next
	}
	return n, n != nil
}

func child(n *yaml.Node, key string) *yaml.Node {
	n = aliased(n)
	if n == nil || n.Kind != yaml.SequenceNode {
		return member(n, key, map[*yaml.Node]bool{})
	}
	if i, err := strconv.Atoi(key); err == nil && i < len(n.Content) {
		return n.Content[i]
	}
	return nil
}

// member finds the value of a key: the mapping's own before merged ones, the first merged one before the
// others. A mapping that was looked at is not looked at again, because merges may go in circles.
func member(n *yaml.Node, key string, seen map[*yaml.Node]bool) *yaml.Node {
	n = aliased(n)
	if n == nil || n.Kind != yaml.MappingNode || seen[n] {
		return nil
	}
	seen[n] = true
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch k, v := aliased(n.Content[i]), n.Content[i+1]; {
		case k.ShortTag() == "!!merge" && v.Kind == yaml.SequenceNode:
			merged = append(merged, v.Content...)
		case k.ShortTag() == "!!merge":
			merged = append(merged, v)
		case k.Kind == yaml.ScalarNode && k.Value == key:
			return v
		}
	}
	for _, m := range merged {
		if v := member(m, key, seen); v != nil {
			return v
		}
	}
	return nil
}

func aliased(n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}
