package metrics

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// handled is a counter of an application's own.
func handled(name, version, more string, base time.Time, values ...any) series {
	s := scraped(name, "", "", base, values...)
	delete(s.labels, "envoy_cluster_name")
	s.labels["version"] = version
	for pair := range strings.SplitSeq(more, ",") {
		if k, v, ok := strings.Cut(pair, "="); ok {
			s.labels[k] = v
		}
	}
	return s
}

func byHandler() Target {
	t := shop
	t.Queries = &policy.Queries{Requests: "req_total", Errors: "err_total", Class: "handler"}
	return t
}

// said are answers in one line.
func said(as []analysis.Answer) string {
	var all []string
	for _, a := range as {
		all = append(all, strings.TrimSuffix(fmt.Sprintf("%s %g/%g %s", a.Class, a.Requests, a.Errors, a.Code), " "))
	}
	return strings.Join(all, ", ")
}

func TestALabelNamesTheClass(t *testing.T) {
	base := time.Now().Add(-30 * time.Second).Truncate(time.Second)
	for _, c := range []struct {
		name         string
		series       []series
		want, remark string // answers of v1.2
	}{
		{"requests and errors by handler, errors by code", []series{
			handled("req_total", "v1", "handler=/", base, 100, 200), handled("req_total", "v1.2", "handler=/", base, 0, 50), handled("req_total", "v1.2", "handler=/buy", base, 0, 7),
			handled("err_total", "v1.2", "handler=/buy,code=502", base, 0, 5), handled("err_total", "v1.2", "handler=/buy,code=500", base, 0, 1), handled("err_total", "v1.2", "handler=/", base, 0, 0),
		}, "/ 50/0, /buy 1/0, /buy 1/1 500, /buy 5/5 502", ""},
		{"the same without codes", []series{
			handled("req_total", "v1", "handler=/", base, 100, 200), handled("req_total", "v1.2", "handler=/", base, 0, 50), handled("req_total", "v1.2", "handler=/buy", base, 0, 7),
			handled("err_total", "v1.2", "handler=/buy", base, 0, 6),
		}, "/ 50/0, /buy 7/6", ""},
		{"two series of a class are one, without their query strings", []series{
			handled("req_total", "v1", "handler=/", base, 100, 200), handled("req_total", "v1.2", "handler=/buy,method=GET", base, 0, 3), handled("req_total", "v1.2", "handler=/buy?user=7,method=PUT", base, 0, 4),
		}, "/buy 7/0", ""},
		{"no counter has it", []series{handled("req_total", "v1", "", base, 100, 200), handled("req_total", "v1.2", "", base, 0, 50)}, "", "no counter that judge.queries.requests selects has the label handler"},
		{"errors do not have it: what fails is of no class", []series{
			handled("req_total", "v1", "handler=/", base, 100, 200), handled("req_total", "v1.2", "handler=/", base, 0, 50), handled("err_total", "v1.2", "code=500", base, 1, 11),
		}, "/ 40/0", "a counter that judge.queries.errors selects lacks the label handler"},
		{"errors call it otherwise: what fails beyond a class's requests is of no class", []series{
			handled("req_total", "v1", "handler=/", base, 100, 200), handled("req_total", "v1.2", "handler=/", base, 0, 50), handled("req_total", "v1.2", "handler=/x", base, 0, 2),
			handled("err_total", "v1.2", "handler=/x,code=500", base, 0, 8), handled("err_total", "v1.2", "handler=y,code=500", base, 0, 3),
		}, "/ 41/0, /x 2/2", ""},
		{"requests without it are the rest", []series{
			handled("req_total", "v1", "handler=/", base, 100, 200), handled("req_total", "v1.2", "handler=/", base, 0, 50), handled("req_total", "v1.2", "", base, 0, 5),
		}, "/ 50/0, rest 5/0", ""},
	} {
		p := source(t, &recorded{series: c.series})
		evs := p.Round(t.Context(), []Target{byHandler()})
		if len(evs) != 1 || len(evs[0].Cells) != 1 {
			t.Errorf("%s: %+v", c.name, evs)
			continue
		}
		cell := evs[0].Cells[0]
		if got := said(cell.Answers["v1.2"]); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if got := strings.Join(evs[0].Warnings, "; "); c.remark != "" && !strings.Contains(got, c.remark) || c.remark == "" && strings.Contains(got, "handler") {
			t.Errorf("%s: it says %q", c.name, got)
		}
		sum := analysis.Counts{}
		for _, a := range cell.Answers["v1.2"] {
			sum = sum.Add(a.Counts)
		}
		if n := cell.Counts["v1.2"]; sum.Requests > n.Requests || sum.Errors > n.Errors {
			t.Errorf("%s: %+v answers of %+v requests", c.name, sum, n)
		}
	}
}

// A label of a thousand values is no harm: those that stable serves most are told apart.
func TestALabelOfManyValues(t *testing.T) {
	base := time.Now().Add(-30 * time.Second).Truncate(time.Second)
	r := &recorded{}
	for i := range 1000 {
		r.series = append(r.series, handled("req_total", "v1", fmt.Sprintf("handler=/items/%04d", i), base, 10*i, 10*i+1), handled("req_total", "v1.2", fmt.Sprintf("handler=/items/%04d", i), base, 0, 1))
	}
	evs := source(t, r).Round(t.Context(), []Target{byHandler()})
	as := evs[0].Cells[0].Answers["v1.2"]
	if len(as) != classesMost+1 || as[0].Class != "/items/0937" || as[classesMost].Class != policy.Rest || as[classesMost].Requests != 1000-classesMost {
		t.Errorf("%d classes: %s", len(as), said(as))
	}
	if got := strings.Join(evs[0].Warnings, "; "); !strings.Contains(got, "the label handler has 1000 values") {
		t.Errorf("it says %q", got)
	}
}

// An application's counters are in as many places as it has instances, each of one version.
func TestEachVersionHasInstancesOfItsOwn(t *testing.T) {
	base := time.Now().Add(-30 * time.Second).Truncate(time.Second)
	at := func(s series, instance string) series { s.labels["instance"] = instance; return s }
	p := source(t, &recorded{series: []series{
		at(handled("req_total", "v1", "handler=/", base, 100, 200, 300), "a"), at(handled("req_total", "v1.2", "handler=/", base, 3, 13, 23), "b"),
		at(handled("err_total", "v1.2", "handler=/,code=500", base, nil, 4, 4), "b"), at(handled("err_total", "v1.2", "handler=/,code=500", base, nil, nil, 9), "c"),
	}})
	counted := map[string]analysis.Counts{}
	for _, c := range cellsOf(p.Round(t.Context(), []Target{byHandler()})) {
		for v, n := range c.Counts {
			counted[v] = counted[v].Add(n)
		}
	}
	if counted["v1"] != (analysis.Counts{Requests: 200}) || counted["v1.2"] != (analysis.Counts{Requests: 20, Errors: 4}) {
		t.Errorf("%+v", counted)
	}
}

func TestTheLabelOfRoutesIsFound(t *testing.T) {
	base := time.Now().Add(-30 * time.Second).Truncate(time.Second)
	r := &recorded{series: []series{
		handled("req_total", "v1", "code=200,route=/", base, 100, 200, 5), handled("req_total", "v1", "code=500,route=/", base, 0, 3, 3), handled("req_total", "v1", "code=200,route=/buy?x=1", base, 0, 7, 9),
	}}
	p := source(t, r)
	label, values, err := p.Values(t.Context(), &policy.Queries{Requests: "req_total"}, "v1")
	if got := fmt.Sprint(label, values, err); got != "routemap[/:108 /buy:9] <nil>" {
		t.Errorf("%s from %v", got, r.queries)
	}
	if label, values, err := p.Values(t.Context(), &policy.Queries{Requests: "req_total", Class: "code"}, "v1"); label != "code" || len(values) != 2 || err != nil {
		t.Errorf("%s %v %v", label, values, err)
	}
	r.err = errors.New("away")
	if _, _, err := p.Values(t.Context(), &policy.Queries{Requests: "req_total"}, "v1"); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
}
