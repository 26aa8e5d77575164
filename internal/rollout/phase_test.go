package rollout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

// Every phase stands in the table of traits, and every trait is asked for somewhere: neither is forgotten.
func TestEveryPhaseAndEveryTraitIsKnown(t *testing.T) {
	constants, asked := theSource(t)
	if len(constants["Phase"]) != len(phases()) {
		t.Errorf("%d phases are declared, and %d are in the list of them", len(constants["Phase"]), len(phases()))
	}
	for _, p := range phases() {
		if p.traits() == 0 {
			t.Errorf("%s has no traits", p)
		}
	}
	if Phase("nonsense").traits() != 0 {
		t.Error("a phase that there is not has traits")
	}
	if len(constants["trait"]) < 10 {
		t.Fatalf("the traits found are %v", constants["trait"])
	}
	for _, name := range constants["trait"] {
		if !asked[name] {
			t.Errorf("nobody asks for the trait %s", name)
		}
	}
}

// What a phase means to those who rely on several traits at once.
func TestTraitsThatBelongTogether(t *testing.T) {
	for _, p := range phases() {
		for _, c := range []struct {
			has, needs trait
			why        string
		}{
			{weighted | pinned, routable, "gets requests, and Envoy does not know where it is"},
			{weighted | pinned, reported, "gets requests, and nobody counts them"},
			{ramped, judged, "goes up, and evidence does not cut it"},
			{judged, reported, "is judged without counts"},
			{counted, open, "has a place under test, and its fate is sealed"},
			{open, timed, "has an open fate that time does not decide"},
			{open, live, "has ended, and its fate is open"},
			{routable, launched, "is known to Envoy, and its containers are not started"},
		} {
			if p.is(c.has) && !p.is(c.needs) {
				t.Errorf("%s %s", p, c.why)
			}
		}
		if p.is(live) && p.is(cut|swept) {
			t.Errorf("%s has not ended, and is taken away", p)
		}
		if p.is(open) && (weighted|pinned)&p.traits() != 0 && !p.is(judged) {
			t.Errorf("%s is under test and gets requests, and evidence does not cut it", p)
		}
	}
}

// theSource finds the constants of the package by their type, and which names are given to `is`, `with`.
func theSource(t *testing.T) (constants map[string][]string, asked map[string]bool) {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	constants, asked = map[string][]string{}, map[string]bool{}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.CONST {
				addConstants(constants, g)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && slices.Contains([]string{"is", "with"}, sel.Sel.Name) {
				for _, a := range call.Args {
					ast.Inspect(a, func(n ast.Node) bool {
						if id, ok := n.(*ast.Ident); ok {
							asked[id.Name] = true
						}
						return true
					})
				}
			}
			return true
		})
	}
	return constants, asked
}

// addConstants books a declaration's constants by their type, which those of an iota inherit.
func addConstants(into map[string][]string, g *ast.GenDecl) {
	kind := ""
	for _, spec := range g.Specs {
		v := spec.(*ast.ValueSpec)
		if id, ok := v.Type.(*ast.Ident); ok {
			kind = id.Name
		} else if v.Values != nil {
			kind = ""
		}
		for _, name := range v.Names {
			into[kind] = append(into[kind], name.Name)
		}
	}
}
