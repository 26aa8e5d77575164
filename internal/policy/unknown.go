package policy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// unknownKey says of a key that a struct does not have which one may be meant: one that is spelled like it, or the same
// one where it belongs.
func unknownKey(root *yaml.Node, at yaml.Mark, key string, whole reflect.Type) string {
	path, _ := pathTo(root, at)
	text := fmt.Sprintf("unknown key %q", key)
	if len(path) > 0 {
		text += " in " + strings.Join(path, ".")
	}
	if near := Nearest(key, keysIn(typeAt(whole, path))); near != "" {
		return fmt.Sprintf("%s: did you mean %q?", text, near)
	}
	if typeAt(whole, path) == reflect.TypeFor[secretKeys]() { // the key may be a password that begins with {
		return fmt.Sprintf("%s has a key that it cannot have: write text in quotes, {from_file: PATH} or {from_env: NAME}", strings.Join(path, "."))
	}
	if slices.Contains(keysIn(whole), key) {
		return text + ": it belongs at the top level"
	}
	if place := placeOf(key, whole, ""); place != "" {
		return fmt.Sprintf("%s: it belongs under %s", text, place)
	}
	if keys := keysIn(typeAt(whole, path)); len(keys) > 0 {
		return fmt.Sprintf("%s: possible are %s", text, strings.Join(keys, ", "))
	}
	return text
}

// pathTo are the keys above the one that stands at a mark.
func pathTo(n *yaml.Node, at yaml.Mark) (path []string, found bool) {
	if n == nil {
		return nil, false
	}
	for i, c := range n.Content {
		key := n.Kind == yaml.MappingNode && i%2 == 0
		if key && c.Line == at.Line && c.Column == at.Column {
			return nil, true
		}
		below, found := pathTo(c, at)
		switch {
		case !found:
		case n.Kind == yaml.MappingNode && !key:
			return append([]string{n.Content[i-1].Value}, below...), true
		default:
			return below, true
		}
	}
	return nil, false
}

// typeAt is the struct that is written under a path of keys; nil: none.
func typeAt(t reflect.Type, path []string) reflect.Type {
	for t != nil && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map && len(path) > 0) {
		if t.Kind() == reflect.Map { // its keys are names
			path = path[1:]
		}
		t = t.Elem()
	}
	if t == reflect.TypeFor[Secret]() {
		t = reflect.TypeFor[secretKeys]()
	}
	if t == nil || t.Kind() != reflect.Struct || len(path) == 0 {
		return t
	}
	for f := range t.Fields() {
		key, inline := keyOf(f)
		if inline {
			if below := typeAt(f.Type, path); below != nil {
				return below
			}
		}
		if key == path[0] {
			return typeAt(f.Type, path[1:])
		}
	}
	return nil
}

// keysIn are the keys of a struct, those of inlined ones too.
func keysIn(t reflect.Type) (keys []string) {
	if t = typeAt(t, nil); t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	for f := range t.Fields() {
		switch key, inline := keyOf(f); {
		case inline:
			keys = append(keys, keysIn(f.Type)...)
		case key != "" && key != "-":
			keys = append(keys, key)
		}
	}
	return keys
}

func keyOf(f reflect.StructField) (key string, inline bool) {
	key, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return key, strings.Contains(options, "inline")
}

// placeOf is the path of the mapping that has a key; empty: none has, or the topmost.
func placeOf(key string, t reflect.Type, path string) string {
	if t = typeAt(t, nil); t == nil || t.Kind() != reflect.Struct {
		return ""
	}
	for f := range t.Fields() {
		own, _ := keyOf(f)
		if own == "" {
			continue
		}
		below := strings.TrimPrefix(path+"."+own, ".")
		if slices.Contains(keysIn(f.Type), key) {
			return below
		}
		if place := placeOf(key, f.Type, below); place != "" {
			return place
		}
	}
	return ""
}

// Nearest is the key that is spelled most like another one, with one change in three letters at most; empty: none is.
func Nearest(key string, keys []string) (near string) {
	most := max(1, len(key)/3)
	for _, k := range keys {
		d := distance(key, k)
		switch {
		case letters(k) == letters(key): // two of them changed places
			d = 1
		case len(key) >= 3 && strings.HasPrefix(k, key):
			d = min(d, most)
		}
		if d <= most {
			near, most = k, d-1
		}
	}
	return near
}

func letters(s string) string {
	b := []byte(s)
	slices.Sort(b)
	return string(b)
}

// distance is how many letters have to be changed, added or taken out (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j := range b {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal, row[j+1] = row[j+1], min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
