package paths

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Tally is how often which requests were seen. The zero value is one of none. It is bounded: where there are too many templates, those seen
// most rarely are forgotten.
type Tally struct {
	n   map[Request]float64
	all float64
}

// Request is a kind of request.
type Request struct {
	Method string // empty: not known
	Path   string // a template
}

const keysMost = 2000

// Add counts requests for a path. What is no path counts for nothing, and only methods that are words in capitals are told apart.
func (t *Tally) Add(method, path string, n float64) {
	path = Template(path)
	if path == "" || !(n > 0) {
		return
	}
	if !methods[method] {
		method = ""
	}
	if t.n == nil {
		t.n = map[Request]float64{}
	}
	k := Request{method, path}
	if _, known := t.n[k]; !known && len(t.n) >= keysMost {
		t.forget()
	}
	t.n[k] += n
	t.all += n
}

// methods that a class may have. Others are a client's invention.
var methods = map[string]bool{"GET": true, "HEAD": true, "POST": true, "PUT": true, "PATCH": true, "DELETE": true, "OPTIONS": true}

// forget leaves the half that was seen most.
func (t *Tally) forget() {
	for _, k := range t.ordered()[keysMost/2:] {
		delete(t.n, k)
	}
}

func (t *Tally) ordered() []Request {
	return slices.SortedFunc(maps.Keys(t.n), func(a, b Request) int {
		return cmp.Or(cmp.Compare(t.n[b], t.n[a]), strings.Compare(a.Path, b.Path), strings.Compare(a.Method, b.Method))
	})
}

// All are the requests that were counted.
func (t *Tally) All() float64 { return t.all }

// Clone shares nothing with its original.
func (t *Tally) Clone() Tally { return Tally{maps.Clone(t.n), t.all} }

// Fade lets all counts shrink to a part of them.
func (t *Tally) Fade(keep float64) {
	t.all *= keep
	for k, n := range t.n {
		if t.n[k] = n * keep; n*keep < 0.01 {
			delete(t.n, k)
		}
	}
}
