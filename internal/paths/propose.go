package paths

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/canaryd/canaryd/internal/policy"
)

const (
	alike     = 20  // names in one place of otherwise equal paths are ids
	alikeRoot = 100 // the same of the first segment
)

// Proposed is a class that a table could have.
type Proposed struct {
	policy.Class
	Requests float64 `json:"requests"` // that were seen of it
	Share    float64 `json:"share"`    // of all that were seen
}

// Propose makes a table of classes of what was seen most; what is matched by several comes first where it is matched more closely.
func Propose(t *Tally, grpc bool) []Proposed {
	n := maps.Clone(t.n)
	for joined := true; joined; {
		n, joined = join(n)
	}
	most := Tally{n: n}
	var all []Proposed
	for _, k := range most.ordered() {
		if len(all) == policy.ClassesMost {
			break
		}
		if c, ok := classOf(k, grpc); ok {
			all = append(all, Proposed{c, n[k], n[k] / t.all})
		}
	}
	slices.SortStableFunc(all, func(a, b Proposed) int { return cmp.Compare(loose(a.Class), loose(b.Class)) })
	name(all)
	return all
}

// loose is how little a class says of its paths.
func loose(c policy.Class) int {
	n := 0
	switch {
	case strings.Contains(c.Template, "**"):
		n = 1000
	case c.Template != "":
		n = 10 * strings.Count(c.Template, "*")
	}
	if c.Method == "" {
		n++
	}
	return n
}

// classOf is the class of one kind of request; false: no class can match it.
func classOf(k Request, grpc bool) (policy.Class, bool) {
	c := policy.Class{Method: k.Method, Path: k.Path}
	switch {
	case grpc:
		c = policy.Class{GRPC: k.Path[1:]}
	case strings.Contains(k.Path, "*"):
		c = policy.Class{Method: k.Method, Template: k.Path}
	}
	return c, c.Matchable(grpc)
}

// place is where the paths of some requests differ, and in nothing else.
type place struct {
	method, before, after string
	first                 bool
}

// join puts a * into the place of many names.
func join(n map[Request]float64) (joined map[Request]float64, changed bool) {
	names := map[place]map[string]bool{}
	each := func(k Request, f func(p place, name string)) {
		for from := 0; from >= 0 && from < len(k.Path); {
			to := strings.IndexByte(k.Path[from+1:], '/')
			end := len(k.Path)
			if to >= 0 {
				end = from + 1 + to
			}
			if name := k.Path[from+1 : end]; name != "" && !strings.Contains(name, "*") {
				f(place{k.Method, k.Path[:from+1], k.Path[end:], from == 0}, name)
			}
			if from = end; to < 0 {
				return
			}
		}
	}
	for k := range n {
		each(k, func(p place, name string) {
			if names[p] == nil {
				names[p] = map[string]bool{}
			}
			names[p][name] = true
		})
	}
	joined = map[Request]float64{}
	for k, requests := range n {
		to := k
		each(k, func(p place, _ string) {
			most := alike
			if p.first {
				most = alikeRoot
			}
			if to == k && len(names[p]) > most {
				to, changed = Request{k.Method, p.before + star(names[p], p.after) + p.after}, true
			}
		})
		joined[to] += requests
	}
	return joined, changed
}

// star is what stands for many names: of files with one ending, that ending is kept.
func star(names map[string]bool, after string) string {
	ending := ""
	for name := range names {
		i := strings.LastIndexByte(name, '.')
		if i <= 0 || after != "" || ending != "" && name[i:] != ending {
			return "*"
		}
		ending = name[i:]
	}
	return "*" + ending
}

// name gives each class a name of its own.
func name(all []Proposed) {
	taken := map[string]bool{policy.Rest: true, "ms": true}
	for i := range all {
		c := &all[i].Class
		base := slug(c.Method + " " + cmp.Or(c.Path, c.Template, c.GRPC))
		if base == "" {
			base = "root"
		}
		c.Name = base
		for n := 2; taken[c.Name]; n++ {
			more := fmt.Sprintf("-%d", n)
			c.Name = base[:min(len(base), 32-len(more))] + more
		}
		taken[c.Name] = true
	}
}

// slug is a text in the letters of a class's name.
func slug(text string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(text) {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	s := b.String()
	return strings.Trim(s[:min(len(s), 32)], "-")
}
