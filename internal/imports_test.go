// Package internal holds the tests of the rules that the packages keep among themselves.
package internal

import (
	"go/ast"
	"go/parser"
	"go/token"
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
	"xds":        {"policy", "analysis", "rollout"},
	"controller": {"policy", "analysis", "rollout", "metrics", "store", "xds", "docker", "registry", "probe"},
	"notify":     {"policy", "rollout"},
	"docker":     {"policy", "rollout", "probe"},
	"probe":      {"policy"},
	"registry":   {},
	"web":        {"policy", "analysis", "rollout", "metrics", "controller"},
	"world":      {"policy", "analysis", "rollout"},
	"rig":        {"web", "xds"},
}

var pure = []string{"policy", "analysis", "rollout"}

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
	names, err := filepath.Glob(dir + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
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
