package web

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// document is what of openapi.json the tests look at.
type document struct {
	Paths map[string]map[string]struct {
		Responses map[string]struct {
			Content map[string]any
		}
	}
}

func readDocument(t *testing.T) (d document) {
	t.Helper()
	if err := json.Unmarshal(openapi, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestEveryDocumentedCallIsThere(t *testing.T) {
	s := newSite(t)
	for path, calls := range readDocument(t).Paths {
		if path == "/events" {
			continue // it would not end
		}
		path = strings.NewReplacer("{service}", "nosuch", "{version}", "v1", "{verb}", "pause").Replace(path)
		for method := range calls {
			resp := s.ask(strings.ToUpper(method)+" /api/v1"+path+" HTTP/1.1", "Host: localhost", "Content-Length: 0")
			if text := body(t, resp); resp.StatusCode == http.StatusMethodNotAllowed || strings.Contains(text, "no such call") {
				t.Errorf("%s %s: %d %s", method, path, resp.StatusCode, text)
			}
		}
	}
}

func TestTheDocumentNamesWhatIsRefused(t *testing.T) {
	for path, calls := range readDocument(t).Paths {
		for method, call := range calls {
			want := map[string][]string{"get": nil, "delete": {"403"}, "put": {"403", "409", "503"}, "post": {"403", "503"}}[method]
			if path == "/hooks/registry" {
				want = []string{"401", "403"} // what is not stored is in its answer
			}
			for status, r := range call.Responses {
				if _, ok := r.Content["application/problem+json"]; status >= "400" && !ok {
					t.Errorf("%s %s: %s is no problem document", method, path, status)
				}
				want = slices.DeleteFunc(want, func(s string) bool { return s == status })
			}
			if len(want) > 0 {
				t.Errorf("%s %s lacks %v", method, path, want)
			}
		}
	}
}
