package policy

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
	"testing"
)

func classesOf(t *testing.T, text string) ([]Class, Findings) {
	t.Helper()
	docs, fs := Parse("f", []byte("service: shop\nroute:\n"+text))
	if len(docs) != 1 {
		t.Fatal(fs)
	}
	return docs[0].Policy.Route.Classes, fs.Errors()
}

func TestClassesAreReadInOrderAndRestComesLast(t *testing.T) {
	ks, fs := classesOf(t, `  classes:
  - {name: checkout, method: POST, path: /checkout}
  - {name: item, template: /items/*}
  - {name: asset, template: /media/**.png}
  - {name: api, regex: "/v[0-9]+/.*"}
  - {name: search, prefix: /search}
`)
	if len(fs) > 0 {
		t.Fatal(fs)
	}
	want := []Class{{Name: "checkout", Method: "POST", Path: "/checkout"}, {Name: "item", Template: "/items/*"}, {Name: "asset", Template: "/media/**.png"},
		{Name: "api", Regex: "/v[0-9]+/.*"}, {Name: "search", Prefix: "/search"}}
	if !slices.Equal(ks, want) {
		t.Errorf("%+v", ks)
	}
	if r := (&Route{Classes: ks}); !slices.Equal(r.ClassNames(), []string{"checkout", "item", "asset", "api", "search", Rest}) {
		t.Errorf("%v", r.ClassNames())
	}
	if (&Route{}).ClassNames() != nil {
		t.Error("classes where none are written")
	}
}

func TestNineteenClassesFit(t *testing.T) {
	var b strings.Builder
	b.WriteString("  protocol: grpc\n  classes:\n")
	for i := range ClassesMost {
		fmt.Fprintf(&b, "  - {name: m%d, grpc: shop.v1.Cart/M%d}\n", i, i)
	}
	if ks, fs := classesOf(t, b.String()); len(fs) > 0 || len(ks) != ClassesMost {
		t.Errorf("%d classes: %v", len(ks), fs)
	}
}

func TestClassesNeedASourceThatTellsThem(t *testing.T) {
	docs, _ := Parse("f", []byte("service: shop\nroute:\n  classes: [{name: a, path: /a}]\n"))
	if fs := CheckSet(docs, SourcePrometheus); len(fs) != 1 || !strings.HasPrefix(fs[0].String(), "f:3:12: route.classes needs `metrics: {source: envoy}`") {
		t.Errorf("%v", fs)
	}
	if fs := CheckSet(docs, SourceEnvoy); len(fs) > 0 {
		t.Error(fs)
	}
}

// What Envoy 1.36.4 said of the size of programs (it refuses more than 100), and what is guessed of them.
func TestTheSizeOfARegexIsGuessedAsEnvoyCountsIt(t *testing.T) {
	for expr, counted := range map[string]int{`/a{300}`: 305, `/[^/]{50}/.{20}`: 566, `/[a-zA-Z0-9_-]{1,36}`: 184, `/[a-zA-Z0-9_-]{1,44}`: 224, `(?i)/checkoutsskkskskskskskskskskskskskskskskkkkkkkk`: 156} {
		re, err := syntax.Parse(expr, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		if n := programSize(re); n < counted*9/10 || n > counted*12/10 {
			t.Errorf("%s: %d, counted %d", expr, n, counted)
		}
	}
	for _, small := range []string{`/v[0-9]+/items/[^/]+/reviews`, `/.*/.*/.*/.*`, `(?i)/abc`, `/[^/]+/[^/]+/[^/]+/[^/]+/[^/]+/[^/]+/[^/]+`, `/(?:.*/)?[^/]*\.(?:png|jpg|css|js|svg|woff2?)`,
		`/(?:cart|order|checkout|payment|invoice|refund|address)/[0-9]+`, `/[a-zA-Z0-9_-]{1,14}`, `/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`, `/\w+/\d+/\S+`} {
		re, err := syntax.Parse(small, syntax.Perl)
		if n := programSize(re); err != nil || n > programMost {
			t.Errorf("%s: %d, and Envoy takes it", small, n)
		}
	}
}

func TestAClassThatAnEarlierOneCoversIsRefused(t *testing.T) {
	for _, c := range []struct {
		first, then string
		covered     bool
	}{
		{"prefix: /items", "path: /items/1", true},
		{"prefix: /items", "template: /items/*", true},
		{"prefix: /items/a", "template: /items/*", false},
		{"path: /items", "path: /items", true},
		{"method: POST, path: /items", "path: /items", false},
		{"method: POST, path: /items", "method: POST, path: /items", true},
		{"path: /items", "method: POST, path: /items", true},
		{"template: /items/*", "path: /items/1", true},
		{"template: /items/*", "path: /items/1/2", false},
		{"template: /items/*", "path: /items", false},
		{"template: /items/*", "path: /items/", false},
		{"template: /items/*", "prefix: /items/", false},
		{"template: /items/*", "template: /items/*/reviews", false},
		{"template: /*/reviews", "template: /items/reviews/*", false},
		{"template: /items/**", "template: /items/*/reviews", true},
		{"template: /items/**", "path: /items", false},
		{"template: /items/*", "template: /items/*.png", true},
		{"template: /items/*", "template: /items/**", false},
		{"template: /items/*", "template: /items/**.png", false},
		{"template: /items/*.png", "path: /items/a.png", false}, // it is, but that is not looked for
		{`regex: "/v[0-9]/.*"`, "path: /v1/cart", true},
		{`regex: "/v[0-9]/.*"`, "path: /cart/v1/", false},
		{`regex: "/v[0-9]/.*"`, "template: /v1/*", false},
		{`regex: ".*"`, "prefix: /v1", true},
	} {
		_, fs := classesOf(t, "  classes: [{name: a, "+c.first+"}, {name: b, "+c.then+"}]\n")
		if covered := len(fs) == 1 && strings.Contains(fs[0].String(), "class b gets no request: class a"); covered != c.covered || !covered && len(fs) > 0 {
			t.Errorf("%s before %s: %v", c.first, c.then, fs)
		}
	}
}
