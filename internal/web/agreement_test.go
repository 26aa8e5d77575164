package web

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/paths"
	"github.com/canaryd/canaryd/internal/rollout"
)

// What the document calls a schema is a type of ours, and has its fields, no more and no fewer; those that are always there are required.
func TestTheDocumentHasTheFieldsOfTheTypes(t *testing.T) {
	types := map[string]any{
		"Announcement": Announcement{}, "Service": Service{}, "Version": Version{}, "Verdict": analysis.Verdict{}, "Paces": analysis.Paces{}, "Cause": analysis.Cause{}, "Entry": controller.Entry{},
		"Problem": Problem{}, "Pushed": Pushed{}, "Envoys": Envoys{}, "Nodes": Nodes{}, "Node": Node{}, "NodeService": NodeService{}, "Services": Services{}, "Evidence": journal.Evidence{},
		"Bucket": journal.Bucket{}, "Class": Class{}, "ClassBucket": journal.ClassBucket{}, "SlowBucket": journal.SlowBucket{}, "Receipt": rollout.Receipt{}, "Proposal": paths.Proposal{}, "ProposedClass": paths.Proposed{},
	}
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any
				Required   []string
			}
		}
	}
	if err := json.Unmarshal(openapi, &doc); err != nil {
		t.Fatal(err)
	}
	for name, s := range doc.Components.Schemas {
		v, known := types[name]
		if !known {
			t.Errorf("which type is %s?", name)
			continue
		}
		all, always := fieldsOf(reflect.TypeOf(v))
		if has := slices.Sorted(maps.Keys(s.Properties)); !slices.Equal(has, all) {
			t.Errorf("%s has %v, the document %v", name, all, has)
		}
		for _, f := range always {
			if !slices.Contains(s.Required, f) {
				t.Errorf("%s always has %s, the document does not require it", name, f)
			}
		}
		delete(types, name)
	}
	if len(types) > 0 {
		t.Errorf("the document lacks %v", slices.Sorted(maps.Keys(types)))
	}
}

// fieldsOf are the names of a type's fields in JSON, sorted, and of those that are always there.
func fieldsOf(typ reflect.Type) (all, always []string) {
	for f := range typ.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			a, b := fieldsOf(f.Type)
			all, always = append(all, a...), append(always, b...)
		case name == "-" || name == "" || !f.IsExported():
		default:
			all = append(all, name)
			if !strings.Contains(options, "omit") {
				always = append(always, name)
			}
		}
	}
	slices.Sort(all)
	slices.Sort(always)
	return all, always
}

// parameters are those of the document, by call and verb: in the path, and in the query.
func parameters(t *testing.T) map[string][2][]string {
	var doc struct {
		Paths map[string]map[string]struct {
			Parameters []struct{ Name, In string }
		}
	}
	if err := json.Unmarshal(openapi, &doc); err != nil {
		t.Fatal(err)
	}
	found := map[string][2][]string{}
	for path, calls := range doc.Paths {
		for method, call := range calls {
			var in [2][]string
			for _, p := range call.Parameters {
				switch p.In {
				case "path":
					in[0] = append(in[0], p.Name)
				case "query":
					in[1] = append(in[1], p.Name)
				}
			}
			found[strings.ToUpper(method)+" "+path] = in
		}
	}
	return found
}

// The parameters of the document are those that calls take.
func TestTheDocumentHasTheParametersOfTheCalls(t *testing.T) {
	documented := parameters(t)
	taken := map[string]map[string]bool{}
	a := &api{Options: Options{Registry: prometheus.NewRegistry()}}
	for _, c := range a.calls() {
		method, path, ok := strings.Cut(c.pattern, " /api/v1")
		if !ok {
			continue
		}
		for verb := range verbs {
			path = strings.Replace(path, "/"+verb, "/{verb}", 1)
		}
		call := method + " " + path
		if taken[call] == nil {
			taken[call] = map[string]bool{}
		}
		for _, p := range c.takes {
			taken[call][p] = true
		}
	}
	for call, takes := range taken {
		in, there := documented[call]
		if want := slices.Sorted(maps.Keys(takes)); !there || !slices.Equal(slices.Sorted(slices.Values(in[1])), want) {
			t.Errorf("%s takes %v, the document says %v", call, want, in[1])
		}
		var inPath []string
		for part := range strings.SplitSeq(call, "/") {
			if strings.HasPrefix(part, "{") {
				inPath = append(inPath, strings.Trim(part, "{}"))
			}
		}
		if !slices.Equal(in[0], inPath) {
			t.Errorf("%s has %v in its path, the document %v", call, inPath, in[0])
		}
		delete(documented, call)
	}
	if len(documented) > 0 {
		t.Errorf("there are no calls %v", slices.Sorted(maps.Keys(documented)))
	}
}

// The document says which role each call takes, the smaller one where it depends on the verb.
func TestTheDocumentHasTheRolesOfTheCalls(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]struct{ Description string }
	}
	if err := json.Unmarshal(openapi, &doc); err != nil {
		t.Fatal(err)
	}
	for path, calls := range doc.Paths {
		for method, call := range calls {
			takes := takes[strings.ToUpper(method)+" "+strings.Replace(path, "{verb}", "abort", 1)]
			if takes.role == access.None {
				continue
			}
			want := "Takes the role " + takes.role.String()
			if takes.all {
				want += " in all services"
			}
			if !strings.Contains(call.Description, want) {
				t.Errorf("%s %s says %q, want %q", method, path, call.Description, want)
			}
		}
	}
}

// No call takes a parameter that it does not know, one that is given twice, or a query that cannot be read; who may not call hears
// nothing of that.
func TestWhatIsAskedWronglyIsRefusedByEveryCall(t *testing.T) {
	config, tokens := callers(t)
	s := newSiteWith(t, Options{Access: access.NewKeeper(config, nil)}, stableShop)
	for call, in := range parameters(t) {
		if call == "POST /hooks/registry" { // a registry chooses its own
			continue
		}
		method, path, _ := strings.Cut(call, " ")
		path = "/api/v1" + strings.NewReplacer("{service}", "shop", "{version}", "v1", "{verb}", "promote", "{node}", "nosuch").Replace(path)
		queries := map[string]string{"agian=true": "there is no parameter \"agian\" here", "a=%zz": "the query cannot be read", "a;b=c": "the query cannot be read"}
		for _, p := range in[1] {
			queries[p+"=true&"+p+"=true"] = `"` + p + `" is given 2 times: say it once`
		}
		for query, want := range queries {
			if status, text, _ := s.as(tokens["adminall"], method, path+"?"+query, ""); status != http.StatusUnprocessableEntity || !strings.Contains(text, strings.ReplaceAll(want, `"`, `\"`)) {
				t.Errorf("%s?%s: %d %s", call, query, status, text)
			}
			if status, text, _ := s.as(tokens["wrong"], method, path+"?"+query, ""); status != http.StatusUnauthorized {
				t.Errorf("%s?%s with a wrong token: %d %s", call, query, status, text)
			}
		}
	}
	if status, _, _ := s.as(tokens["adminall"], "GET", "/metrics?collect=x", ""); status != http.StatusOK {
		t.Errorf("Prometheus' own parameters: %d", status)
	}
}

// asDocumented has each answer of a handler be one that the document has for the call: its status, and its type. A path with a dot
// for a name is none of the document's: it is redirected to what it means.
func asDocumented(t *testing.T, next http.Handler) http.Handler {
	doc := readDocument(t)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := &answered{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(seen, r)
		method := strings.ToLower(strings.Replace(r.Method, http.MethodHead, http.MethodGet, 1))
		for path, calls := range doc.Paths {
			call, there := calls[method]
			if !there || seen.status == http.StatusTemporaryRedirect || !fitsPath(path, strings.TrimPrefix(r.URL.EscapedPath(), "/api/v1")) {
				continue
			}
			said, explicit := call.Responses[strconv.Itoa(seen.status)]
			if !explicit && !slices.Contains([]int{http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusInternalServerError, http.StatusServiceUnavailable}, seen.status) {
				t.Errorf("%s %s answers %d, which the document does not have", r.Method, path, seen.status)
			}
			if !explicit {
				said = call.Responses["default"]
			}
			typ, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
			if _, ok := said.Content[typ]; !ok && (typ != "" || len(said.Content) > 0) {
				t.Errorf("%s %s answers %d with %q, the document has %v", r.Method, path, seen.status, typ, slices.Sorted(maps.Keys(said.Content)))
			}
		}
	})
}

// fitsPath compares a path of the document with that of a request, which has as many parts.
func fitsPath(path, asked string) bool {
	a, b := strings.Split(path, "/"), strings.Split(asked, "/")
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		verb := a[i] != "{verb}" || slices.Contains(slices.Collect(maps.Keys(verbs)), b[i])
		if a[i] != b[i] && (!strings.HasPrefix(a[i], "{") || !verb) {
			return false
		}
	}
	return true
}

// answered keeps the status of an answer.
type answered struct {
	http.ResponseWriter
	status int
}

func (a *answered) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }
