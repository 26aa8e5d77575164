package metrics

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	yaml "go.yaml.in/yaml/v4"

	"github.com/canaryd/canaryd/internal/policy"
)

func TestMatchIsWrittenAsInPromQL(t *testing.T) {
	for text, want := range map[string]string{
		`'cluster="prod"'`:                       `cluster="prod"`,
		`'cluster="prod", region=~"eu-.*"'`:      `cluster="prod",region=~"eu-.*"`,
		`'{cluster="prod"}'`:                     `cluster="prod"`,
		`['cluster="prod"', 'tier!="dev"']`:      `cluster="prod",tier!="dev"`,
		`'replica!="b"'`:                         `replica!="b"`,
		`""`:                                     ``,
		`[]`:                                     ``,
		`prod`:                                   `error: "prod" are not label matchers`,
		`'cluster=prod'`:                         `error: "cluster=prod" are not label matchers`,
		`'cluster="prod"} or m{a="b"'`:           `error: "cluster=\"prod\"} or m{a=\"b\"" are not label matchers`,
		`'cluster="prod"} offset 5m #'`:          `error: "cluster=\"prod\"} offset 5m #" are not label matchers`,
		`'a=~"("'`:                               `error: "a=~\"(\"" are not label matchers (error parsing regexp`,
		`'version="v1"'`:                         `error: leave the label version out of match`,
		`['cluster="prod"', '__name__="up"']`:    `error: "__name__=\"up\"" are not label matchers`,
		`['a="b"', 'envoy_cluster_name="shop"']`: `error: leave the label envoy_cluster_name out of match`,
		`{cluster: prod}`:                        `error: match is text such as 'cluster="prod"'`,
	} {
		var got struct {
			Match Match `yaml:"match"`
		}
		err := yaml.Load([]byte("match: "+text), &got)
		var words []string
		for _, m := range got.Match {
			words = append(words, m.String())
		}
		if problem, bad := strings.CutPrefix(want, "error: "); bad {
			if err == nil || !strings.Contains(err.Error(), problem) {
				t.Errorf("%s: %v, want %q", text, err, problem)
			}
		} else if s := strings.Join(words, ","); err != nil || s != want {
			t.Errorf("%s: %q, %v, want %q", text, s, err, want)
		}
	}
}

// Whatever a selector looks like, the query says the same with the versions and the matchers in it.
func TestQueriesAreBuiltAndNotPasted(t *testing.T) {
	match, err := parseMatchers(`cluster="prod"`)
	if err != nil {
		t.Fatal(err)
	}
	for _, selector := range []string{
		`a`, `a{}`, ` a {b="}"} `, `a{b="c",}`, "a{b=\"c\"} # note", "a{b=\"c\"} # {all}", "a{b=\"c\"}\n# note\n", `{"a", b='c'}`, `{__name__="a"}`,
	} {
		r := &recorded{}
		p := source(t, r)
		p.match = match
		target := shop
		target.Queries = &policy.Queries{Requests: selector, Errors: selector}
		p.Round(t.Context(), []Target{target})
		for _, q := range r.queries {
			expr, err := parser.NewParser(parser.Options{}).ParseExpr(q)
			if err != nil {
				t.Errorf("%q became %q: %v", selector, q, err)
				continue
			}
			for _, part := range []string{`cluster="prod"`, `version=~"v1|v1\\.2"`, "[5m]"} {
				if !strings.Contains(expr.String(), part) {
					t.Errorf("%q became %q, without %s", selector, q, part)
				}
			}
		}
		if len(r.queries) != 2 {
			t.Errorf("%q: %d queries", selector, len(r.queries))
		}
	}
}

func TestEveryQueryCarriesTheMatchers(t *testing.T) {
	match, err := parseMatchers(`cluster="prod"`)
	if err != nil {
		t.Fatal(err)
	}
	base := time.Now().Add(-10 * time.Minute)
	r := &recorded{series: []series{scraped(completed, "shop/v1", "", base, 1, 2, 3)}}
	p := source(t, r)
	p.match = match
	p.Round(t.Context(), []Target{shop})
	p.progress["shop"].since = base
	p.Round(t.Context(), []Target{shop})
	if len(r.queries) < 3 {
		t.Errorf("%d queries: the one for `up` is missing", len(r.queries))
	}
	for _, q := range r.queries {
		if !strings.Contains(q, `cluster="prod"`) {
			t.Errorf("%s has no matcher", q)
		}
	}
}
