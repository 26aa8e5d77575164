package main

import (
	"strings"
	"testing"
)

func TestMatchersAreCheckedWhereTheyStand(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"metrics:\n  prometheus:\n    match: 'cluster=\"prod\"'\n", ""},
		{"metrics:\n  prometheus: {match: ['cluster=\"prod\"', 'region=~\"eu-.*\"']}\n", ""},
		{"metrics:\n  prometheus:\n    match: cluster=prod\n", "canaryd.yml:3:12: "},
		{"metrics:\n  prometheus:\n    match:\n    - 'cluster=\"prod\"'\n    - prod\n", "canaryd.yml:5:7: "},
	} {
		_, fs := parseServerConfig("canaryd.yml", []byte(c.text))
		switch {
		case c.want == "" && len(fs) > 0, c.want != "" && (len(fs) != 1 || !strings.HasPrefix(fs[0].String(), c.want)):
			t.Errorf("%q: %v, want %q", c.text, fs, c.want)
		case len(fs) > 0:
			t.Log(fs[0])
		}
	}
}
