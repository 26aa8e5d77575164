// Package internal holds the tests of the rules that the packages keep among themselves.
package internal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/canaryd/canaryd/internal/"

// What each package may import of the module. Left to right; nothing imports to its right.
var mayImport = map[string][]string{
	"policy":     {},
	"analysis":   {},
	"rollout":    {"policy", "analysis"},
	"metrics":    {"policy", "analysis", "rollout"},
	"store":      {},
	"xds":        {"policy", "analysis", "rollout", "paths"},
	"journal":    {"policy", "analysis", "rollout"},
	"controller": {"policy", "analysis", "rollout", "journal", "metrics", "store", "xds", "docker", "registry", "probe"},
	"notify":     {"policy", "rollout"},
	"docker":     {"policy", "rollout", "probe", "secret", "store"},
	"secret":     {"policy"},
	"probe":      {"policy"},
	"registry":   {},
	"access":     {"policy"},
	"web":        {"policy", "analysis", "rollout", "journal", "metrics", "controller", "access", "paths"},
	"world":      {"policy", "analysis", "rollout"},
	"paths":      {"policy"},
	"cores":      {},
	"rig":        {"web", "xds"},
}

var pure = []string{"policy", "analysis", "rollout", "journal", "paths"}

// What a pure package must not touch, and why.
var impure = map[string]string{
	"os":                         "files belong to the edges",
	"io/fs":                      "files belong to the edges",
	"path/filepath":              "files belong to the edges",
	"net/http":                   "the network belongs to the edges",
	"sync":                       "a pure core has no goroutines",
	"sync/atomic":                "a pure core has no goroutines",
	"context":                    "a pure core does not wait",
	"log":                        "decisions carry their reasons; logging belongs to the edges",
	"log/slog":                   "decisions carry their reasons; logging belongs to the edges",
	"github.com/sirupsen/logrus": "decisions carry their reasons; logging belongs to the edges",
	"math/rand":                  "the same event must always give the same state",
	"math/rand/v2":               "the same event must always give the same state",
	"os/exec":                    "processes belong to the edges",
}

// Calls that read the clock or wait.
var clock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}

func TestPackagesKeepTheirPlaces(t *testing.T) {
	dirs, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		allowed, known := mayImport[d.Name()]
		if !known {
			t.Errorf("package %s has no place yet: say in imports_test.go what it may import", d.Name())
		}
		for _, f := range parse(t, d.Name()) {
			for _, im := range f.Imports {
				path, err := strconv.Unquote(im.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if other, ok := strings.CutPrefix(path, module); ok && !slices.Contains(allowed, other) {
					t.Errorf("%s imports %s: the arrow goes the other way (DESIGN: left to right, edges know nothing of each other)", d.Name(), other)
				}
				if why, bad := impure[path]; bad && slices.Contains(pure, d.Name()) {
					t.Errorf("%s imports %s: %s", d.Name(), path, why)
				}
			}
			if slices.Contains(pure, d.Name()) {
				noClock(t, d.Name(), f)
			}
		}
	}
}

func noClock(t *testing.T, pkg string, f *ast.File) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clock, n.Sel.Name) {
				t.Errorf("%s calls time.%s: the moment comes with the event", pkg, n.Sel.Name)
			}
		case *ast.GoStmt:
			t.Errorf("%s starts a goroutine: a pure core has none", pkg)
		}
		return true
	})
}

func parse(t *testing.T, dir string) []*ast.File {
	t.Helper()
	return slices.Collect(maps.Values(parseNamed(t, dir)))
}

func parseNamed(t *testing.T, dir string) map[string]*ast.File {
	t.Helper()
	names, err := filepath.Glob(dir + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]*ast.File{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = f
	}
	return files
}

// init functions and names that say nothing are not wanted anywhere.
func TestHouseRules(t *testing.T) {
	for pkg := range mayImport {
		if slices.Contains([]string{"utils", "util", "types", "models", "common", "helpers"}, pkg) {
			t.Errorf("package %s is named after nothing", pkg)
		}
		for _, f := range parse(t, pkg) {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					t.Errorf("%s has an init(): what a package needs is passed in", pkg)
				}
			}
		}
	}
}

// Who may name phases to ask what a version is: the table of traits, what reads and checks stored states, and what makes
// an exit code or a figure of each.
var namePhases = []string{"rollout/phase.go", "rollout/sound.go", "rollout/format1.go", "../cmd/canaryd/outcome.go", "world/simulate.go"}

// A phase is asked for its traits, so that a new one is a new row of one table. Only transitions name phases.
func TestPhasesAreAskedForTraits(t *testing.T) {
	named := map[string]bool{}
	for _, f := range parse(t, "rollout") {
		ast.Inspect(f, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok && len(v.Names) == 1 {
				if id, ok := v.Type.(*ast.Ident); ok && id.Name == "Phase" {
					named[v.Names[0].Name] = true
				}
			}
			return true
		})
	}
	if !named["Paused"] || len(named) < 11 {
		t.Fatalf("the phases found are %v", named)
	}
	dirs := []string{"../cmd/canaryd"}
	for pkg := range mayImport {
		dirs = append(dirs, pkg)
	}
	for _, dir := range dirs {
		for name, f := range parseNamed(t, dir) {
			if slices.Contains(namePhases, name) {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				for _, e := range compared(n) {
					if phase := phaseIn(e, dir); named[phase] {
						t.Errorf("%s compares a phase with %s: ask for a trait (rollout/phase.go)", name, phase)
					}
				}
				return true
			})
		}
	}
}

// compared is what == , != and case compare with something.
func compared(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.BinaryExpr:
		if n.Op == token.EQL || n.Op == token.NEQ {
			return []ast.Expr{n.X, n.Y}
		}
	case *ast.CaseClause:
		return n.List
	}
	return nil
}

// phaseIn is the name that an expression has in rollout.
func phaseIn(e ast.Expr, dir string) string {
	switch e := e.(type) {
	case *ast.Ident:
		if dir == "rollout" {
			return e.Name
		}
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok && x.Name == "rollout" {
			return e.Sel.Name
		}
	}
	return ""
}
