package policy

import (
	"net/url"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// Redacted is the text of a policy without its secrets: values of docker.env, keys of testers, user and query of URLs.
// A text that has none stays as it is; another one is written anew, without the comments in what was hidden.
func Redacted(text string) string {
	nodes, err := load([]byte(text))
	if err != nil {
		return "# this text cannot be read any more, and may hold secrets\n"
	}
	var r redaction
	for _, n := range nodes {
		r.walk(n, "")
	}
	if !r.hid {
		return text
	}
	var b strings.Builder
	d, err := yaml.NewDumper(&b, yaml.WithIndent(2))
	for _, n := range nodes {
		if err == nil {
			err = d.Dump(n)
		}
	}
	if err == nil {
		err = d.Close()
	}
	if err != nil {
		return "# this text cannot be written without its secrets\n"
	}
	return b.String()
}

// show ends the reading of a document: what it was read from is used up to find out whether it has secrets. Few have any.
func (d *Document) show() {
	d.Shown = d.Text
	var r redaction
	if r.walk(d.root, ""); r.hid {
		d.Shown = Redacted(d.Text)
	}
	d.root = nil
}

// redaction notes whether anything was hidden.
type redaction struct{ hid bool }

// walk looks at a node that stands under a key. Aliases lead to what was, or will be, looked at where it is written.
func (r *redaction) walk(n *yaml.Node, under string) {
	if n.Kind != yaml.MappingNode {
		if n.Kind == yaml.ScalarNode {
			r.address(n)
		}
		for _, c := range n.Content {
			r.walk(c, under)
		}
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.Value == "env":
			r.values(value)
		case under == "testers" && key.Value == "key":
			r.hide(value)
		default:
			r.walk(value, key.Value)
		}
	}
}

// values hides the values of a mapping, and what is said beside them; where a value is read is no secret.
func (r *redaction) values(n *yaml.Node) {
	n = aliased(n)
	if n == nil || n.Kind != yaml.MappingNode {
		r.hide(n)
		return
	}
	silence(n)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], aliased(n.Content[i+1])
		silence(key)
		switch {
		case key.Value == "<<":
			r.values(value)
		case value != nil && value.Kind == yaml.MappingNode:
			silence(value)
		default:
			r.hide(value)
		}
	}
}

func (r *redaction) hide(n *yaml.Node) {
	if n = aliased(n); n == nil {
		return
	}
	silence(n)
	r.hid = true
	n.Kind, n.Tag, n.Style, n.Value, n.Content = yaml.ScalarNode, "!!str", 0, Hidden, nil
}

func silence(n *yaml.Node) { n.HeadComment, n.LineComment, n.FootComment = "", "", "" }

// address hides what a URL has that may be a credential.
func (r *redaction) address(n *yaml.Node) {
	u, err := url.Parse(n.Value)
	if err != nil || u.Host == "" || u.User == nil && u.RawQuery == "" {
		return
	}
	shown := u.Scheme + "://"
	if u.User != nil {
		shown += Hidden + "@"
	}
	shown += u.Host + u.EscapedPath()
	if u.RawQuery != "" {
		shown += "?" + Hidden
	}
	r.hid = true
	n.Value = shown
}
