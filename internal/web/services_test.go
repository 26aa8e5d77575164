package web

import (
	"fmt"
	"strings"
	"testing"
)

// names of the services of an answer, and what follows them.
func (s *site) names(query string) string {
	s.t.Helper()
	v := s.call("GET", "/api/v1/services"+query, "", 200, "Services")
	var names []string
	for _, svc := range v["services"].([]any) {
		names = append(names, svc.(map[string]any)["service"].(string))
	}
	if next, more := v["next"].(string); more {
		names = append(names, "next="+next)
	}
	return strings.Join(names, " ")
}

func TestServicesArePagedAndSelected(t *testing.T) {
	var policies []string
	for _, name := range []string{"api", "pay", "pay-eu", "shop"} {
		policies = append(policies, fmt.Sprintf("service: %s\nroute: {probe: \"off\", domains: [%s.example.com]}\nversions: [{version: v1, endpoints: [\"127.0.0.1:1\"], stable: true}]\n", name, name))
	}
	s := newSite(t, policies...)
	s.call("PUT", "/api/v1/services/shop/versions/v2", `{"endpoints":["127.0.0.1:2"]}`, 201, "Version")
	for query, want := range map[string]string{
		"":                        "api pay pay-eu shop",
		"?limit=2":                "api pay next=pay",
		"?limit=2&after=pay":      "pay-eu shop",
		"?match=pay":              "pay pay-eu",
		"?match=p*":               "pay pay-eu",
		"?match=pay-??&limit=1":   "pay-eu",
		"?live=true":              "shop",
		"?live=true&match=pay":    "",
		"?live=false&after=pay-e": "pay-eu shop",
	} {
		if got := s.names(query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	for _, query := range []string{"?limit=0", "?limit=x", "?live=maybe", "?match=[a"} {
		s.call("GET", "/api/v1/services"+query, "", 422, "Problem")
	}
}

func TestManyServicesComeInPages(t *testing.T) {
	var all strings.Builder
	for i := range 501 {
		fmt.Fprintf(&all, "---\nservice: s%03d\nroute: {domains: [s%03d.example.com]}\n", i, i)
	}
	s := newSite(t, all.String())
	if got := s.names(""); !strings.HasPrefix(got, "s000 ") || !strings.HasSuffix(got, " s499 next=s499") {
		t.Errorf("%.20s … %s", got, got[len(got)-20:])
	}
	if got := s.names("?after=s499"); got != "s500" {
		t.Errorf("then %s", got)
	}
	if got := s.names("?limit=501"); strings.Contains(got, "next") {
		t.Error("all of them, and more follow")
	}
}
