package rollout

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// A step gets at versions by what hands it its own only: else it could change one that other states share.
func TestOnlyOneFileOfAStepKnowsHowVersionsAreKept(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || name == "versions.go" {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv == nil || !ofMachine(f.Recv.List[0].Type) {
				continue
			}
			looked++
			self := f.Recv.List[0].Names[0].Name
			ast.Inspect(f.Body, func(n ast.Node) bool {
				x, ok := n.(*ast.SelectorExpr)
				if !ok || x.Sel.Name != "Versions" && x.Sel.Name != "ended" && x.Sel.Name != "State" {
					return true
				}
				if of, ok := x.X.(*ast.Ident); ok && of.Name == self && !allowed(f.Name.Name, x.Sel.Name) {
					t.Errorf("%s: a step says %s.%s: versions are had from Version, with, in and each (versions.go)", fset.Position(x.Pos()), self, x.Sel.Name)
				}
				return true
			})
		}
	}
	if looked < 50 {
		t.Fatalf("only %d methods of the machine were found", looked)
	}
}

// allowed are those that hand no version on.
func allowed(method, what string) bool {
	switch method {
	case "commanded", "setWeight":
		return what == "State"
	}
	return false
}

func ofMachine(x ast.Expr) bool {
	star, ok := x.(*ast.StarExpr)
	if !ok {
		return false
	}
	of, ok := star.X.(*ast.Ident)
	return ok && of.Name == "machine"
}

// Whatever changes a version that has ended changes it in the next state only, and all others are shared.
func TestStatesShareVersionsThatHaveEnded(t *testing.T) {
	r := newRollout(t, "service: shop\nroute: {probe: \"off\"}\ndocker: {image: r/x, port: 8080, stop_idle_after: 10s, keep: 1}\nversions: [{version: v0, endpoints: [\"h:1\"], stable: true}]\n")
	for _, name := range []string{"v1", "v2", "v3"} {
		r.take(Announced{At: r.at, Version: name, Image: "r/x:" + name})
		r.take(Launched{At: r.at, Version: name, Attempt: 1, Image: true, Endpoints: []string{"172.17.0.1:8080"}})
		r.take(Applied{At: r.at, Generation: r.s.Generation, InForce: true, Subscribers: 1})
		r.take(Commanded{At: r.at, Verb: "abort", Version: name, By: "a person"})
	}
	r.take(Applied{At: r.at, Generation: r.s.Generation, InForce: true, Subscribers: 1})
	late := Cell{Slice: "edge", From: r.at, To: r.at.Add(time.Second), Counts: map[string]analysis.Counts{"v0": {Requests: 10}, "v1": {Requests: 1}}, Issued: map[string]float64{"v0": 10, "v1": 1}}
	changed := *r.p
	changed.Judge.Budget++
	for _, c := range []struct {
		what    string
		e       Event
		changes []string
	}{
		{"time", Tick{At: r.at.Add(time.Second)}, nil},
		{"time that makes them idle", Tick{At: r.at.Add(time.Minute)}, []string{"v1", "v2", "v3"}},
		{"a late request", Observed{At: r.at.Add(time.Second), Batch: time.Second, Cells: []Cell{late}}, []string{"v1"}},
		{"containers that are gone", Launched{At: r.at, Version: "v1", Attempt: 1, Done: Remove}, []string{"v1"}},
		{"a policy", PolicyChanged{At: r.at, Policy: changed, Hash: "2"}, []string{"v1", "v2", "v3"}},
		{"a person who wants it back", Commanded{At: r.at, Verb: "promote", Version: "v2", Knowing: true, Reachable: true, By: "a person"}, []string{"v2"}},
		{"another attempt", Announced{At: r.at, Version: "v3", Image: "r/x:v3", Again: true}, []string{"v3"}},
	} {
		before := encoded(t, r.s)
		next, _, err := Step(r.s, c.e)
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if encoded(t, r.s) != before {
			t.Errorf("%s changed the state before", c.what)
		}
		for _, v := range r.s.ended() {
			is, want := next.Version(v.Name) != v, false
			for _, name := range c.changes {
				want = want || name == v.Name
			}
			if is != want {
				t.Errorf("%s: %s has another version in the next state: %v, want %v", c.what, v.Name, is, want)
			}
		}
	}
}

// rolled is a service that is told one event after the other.
type rolled struct {
	t  *testing.T
	s  State
	p  *policy.Policy
	at time.Time
}

func newRollout(t *testing.T, text string) *rolled {
	docs, fs := policy.Parse("test", []byte(text))
	if len(fs.Errors()) > 0 {
		t.Fatal(fs)
	}
	r := &rolled{t: t, p: &docs[0].Policy, at: time.Unix(1_700_000_000, 0)}
	r.take(PolicyChanged{At: r.at, Policy: *r.p, Hash: "1"})
	return r
}

func (r *rolled) take(e Event) {
	r.t.Helper()
	next, _, err := Step(r.s, e)
	if err != nil {
		r.t.Fatal(err)
	}
	r.s = next
}

func encoded(t *testing.T, s State) string {
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
