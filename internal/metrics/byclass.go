package metrics

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/common/model"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

const (
	classesMost = 63  // that are told apart; the others are the rest
	classMost   = 128 // letters of a class's name
)

// statusLabels are what libraries call the status of an answer.
var statusLabels = []model.LabelName{"code", "status", "status_code", "http_status_code", "http_response_status_code", "response_code"}

var statusCode = regexp.MustCompile(`^[1-5][0-9][0-9]$`)

// sortOf is what the labels of a counter say of its requests: the class, and of failed ones the status.
func sortOf(m model.Metric, k kind, classLabel string) (s sort) {
	if classLabel == "" || k == took {
		return s
	}
	s.class = className(string(m[model.LabelName(classLabel)]))
	if k != failures {
		return s
	}
	for _, name := range statusLabels {
		if v := string(m[name]); statusCode.MatchString(v) {
			s.code = v
			break
		}
	}
	return s
}

// className is a label's value without what may be about a user.
func className(value string) string {
	value, _, _ = strings.Cut(value, "?")
	if len(value) > classMost {
		value = strings.ToValidUTF8(value[:classMost], "")
	}
	return value
}

// sorting is how a service's requests are told apart by class at present.
type sorting struct {
	label    string
	known    map[string]bool // the classes that stable serves most
	all      int             // classes that there are
	requests bool            // some counter of requests tells a class
	unsorted bool            // some counter of errors tells none
}

// sorting finds the classes that stable has served most since its counters began: that changes so slowly that a class does not come
// and go, and is known again after a restart of canaryd.
func (pr *progress) sorting(t Target) *sorting {
	st := &sorting{label: t.Queries.Class, known: map[string]bool{}}
	served := map[string]float64{}
	for _, in := range pr.instances {
		if in.last == nil {
			continue
		}
		for c, n := range in.last.values {
			switch {
			case c.class == "":
				st.unsorted = st.unsorted || c.kind == failures && n > 0
			case c.kind == requests && c.version == t.Stable:
				served[c.class] += n
				st.requests = true
			default:
				served[c.class] += 0
				st.requests = st.requests || c.kind == requests
			}
		}
	}
	delete(served, policy.Rest)
	st.all = len(served)
	names := slices.Collect(maps.Keys(served))
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(served[b], served[a]), cmp.Compare(a, b)) })
	for _, name := range names[:min(len(names), classesMost)] {
		st.known[name] = true
	}
	return st
}

// answers are a step's counts by version, class and status; nil: no counter tells a class. A failure whose class is not known, or is one that
// had too few requests for it, is in none of them: it is judged among all requests.
func (st *sorting) answers(s step, counts map[string]analysis.Counts) map[string][]analysis.Answer {
	if st == nil || !st.requests {
		return nil
	}
	out := map[string][]analysis.Answer{}
	for version, classes := range st.increments(s, counts) {
		var of []analysis.Answer
		for name, k := range classes {
			of = append(of, k.answers(name)...)
		}
		slices.SortFunc(of, func(a, b analysis.Answer) int {
			return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Errors, b.Errors))
		})
		n := counts[version]
		known := min(failed(of), n.Errors)
		if known < n.Errors-1e-6 { // what has no class would be taken for failures without an answer, beside others with a status
			for i := range of {
				of[i].Code = ""
			}
		}
		if of = analysis.JoinAnswers(nil, analysis.FitAnswers(of, analysis.Counts{Requests: n.Requests - n.Errors + known, Errors: n.Errors})); len(of) > 0 {
			out[version] = of
		}
	}
	return out
}

func failed(of []analysis.Answer) (n float64) {
	for _, a := range of {
		n += a.Errors
	}
	return n
}

// increment is what one class's counters rose by.
type increment struct {
	requests, errors float64
	codes            map[string]float64
}

func (st *sorting) increments(s step, counts map[string]analysis.Counts) map[string]map[string]*increment {
	all := map[string]map[string]*increment{}
	for c, w := range s.to.values {
		n := w - s.from.values[c]
		if _, counted := counts[c.version]; !counted || n <= 0 || c.kind != requests && (c.kind != failures || c.class == "") {
			continue
		}
		if all[c.version] == nil {
			all[c.version] = map[string]*increment{}
		}
		name := c.class
		if !st.known[name] {
			name = policy.Rest
		}
		k := all[c.version][name]
		if k == nil {
			k = &increment{codes: map[string]float64{}}
			all[c.version][name] = k
		}
		if c.kind == requests {
			k.requests += n
			continue
		}
		k.errors += n
		k.codes[c.code] += n
	}
	return all
}

// answers are those of one class. Where there are more failures than requests, the counters do not agree about classes: so many failures are kept
// as there are requests.
func (k *increment) answers(class string) []analysis.Answer {
	part := 1.0
	if k.errors > k.requests {
		part = k.requests / k.errors
	}
	var all []analysis.Answer
	for code, n := range k.codes {
		if n *= part; n > 0 {
			all = append(all, analysis.Answer{Class: class, Code: code, Counts: analysis.Counts{Requests: n, Errors: n}})
		}
	}
	if well := k.requests - k.errors; well > 0 {
		all = append(all, analysis.Answer{Class: class, Counts: analysis.Counts{Requests: well}})
	}
	return all
}

// remarks are what a person should know of the label.
func (st *sorting) remarks() (all []string) {
	switch {
	case st == nil:
		return nil
	case !st.requests:
		return []string{fmt.Sprintf("no counter that judge.queries.requests selects has the label %s: releases are not judged by class", st.label)}
	case st.all > classesMost:
		all = append(all, fmt.Sprintf("the label %s has %d values: the %d that stable serves most are told apart, the others are the class %s; judge.queries.class is meant for a label of routes, not of paths", st.label, st.all, classesMost, policy.Rest))
	}
	if st.unsorted {
		all = append(all, fmt.Sprintf("a counter that judge.queries.errors selects lacks the label %s: its failures are of no class, and are judged among all requests", st.label))
	}
	return all
}
