package policy

import (
	"reflect"
	"strings"
	"testing"
)

// A key that is not known is told with what may be meant.
func TestDidYouMean(t *testing.T) {
	for text, want := range map[string]string{
		"route: {domain: [a]}":                       `unknown key "domain" in route: did you mean "domains"?`,
		"route: {health_check: {interva: 5s}}":       `unknown key "interva" in route.health_check: did you mean "interval"?`,
		"hold: 1m":                                   `unknown key "hold": it belongs under ramp`,
		"judge: {docker: {}}":                        `unknown key "docker" in judge: it belongs at the top level`,
		"judge: {tolerate: {ratoi: 1}}":              `unknown key "ratoi" in judge.tolerate: did you mean "ratio"?`,
		"versions: [{version: v, endpoint: []}]":     `unknown key "endpoint" in versions: did you mean "endpoints"?`,
		"ramp: {pre: user}":                          `unknown key "pre" in ramp: did you mean "per"?`,
		"ramp: {nonsense: 1}":                        `unknown key "nonsense" in ramp: possible are steps, hold, per, canaries`,
		"drain: &d {at_mots: 1h}\nsessions: *d":      `unknown key "at_mots" in drain: did you mean "at_most"?`,
		"docker: {port: 1, healthchekc: {test: 1}}":  `unknown key "healthchekc" in docker: did you mean "healthcheck"?`,
		"docker: {port: 1, env: {A: {from_fil: x}}}": `unknown key "from_fil" in docker.env.A: did you mean "from_file"?`,
		"\tramp: {}":                                 `indent with spaces`,
		"x: 1":                                       `unknown key "x": possible are service, route, `,
	} {
		if _, fs := Parse("f", []byte("service: shop\n"+text)); !strings.Contains(fs.Error(), want) {
			t.Errorf("%s\n%v\nwant: %s", text, fs, want)
		}
	}
}

// The distance of the table is that of a slow definition.
func TestDistance(t *testing.T) {
	words := append(keysIn(reflect.TypeFor[Policy]()), "", "a", "ramp", "rapm", "judges", "xyz")
	for _, a := range words {
		for _, b := range words {
			if len(a)+len(b) < 14 && distance(a, b) != slowly(a, b) {
				t.Errorf("%q, %q: %d, want %d", a, b, distance(a, b), slowly(a, b))
			}
		}
	}
}

func slowly(a, b string) int {
	switch {
	case a == "" || b == "":
		return len(a) + len(b)
	case a[0] == b[0]:
		return slowly(a[1:], b[1:])
	}
	return 1 + min(slowly(a[1:], b), slowly(a, b[1:]), slowly(a[1:], b[1:]))
}
