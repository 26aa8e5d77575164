package docker

import (
	"strings"
	"testing"

	"github.com/canaryd/canaryd/internal/policy"
)

// A container's output shows no value of docker.env, also where it is quoted, or only a part of it is there.
func TestOutputShowsNoSecrets(t *testing.T) {
	key := "-----BEGIN KEY-----\nhunter2first\nhunter2second\n-----END KEY-----\n"
	want := Want{Spec: policy.Docker{Env: map[string]policy.Secret{
		"KEY": {Value: key}, "URL": {Value: "postgres://shop:hunter2%2Fpass@db:5432/shop"}, "QUOTED": {Value: `hunter2"and\more`}, "SPACED": {Value: "hunter2 & more"}, "SHORT": {Value: "info"},
	}}}
	for said, shows := range map[string]string{
		key:                                "",
		"hunter2second\n-----END KEY-----": "", // the end of an output
		": hunter2second":                  "",
		"connecting to postgres://shop:hunter2%2Fpass@db:5432/shop": "connecting to ",
		"no access for shop with hunter2/pass":                      "no access for shop with ",
		`{"secret": "hunter2\"and\\more"}`:                          `{"secret": "`,
		"GET /?q=hunter2+%26+more":                                  "GET /?q=",
		"log level info":                                            "log level info",
	} {
		if got := want.hiding(said); strings.Contains(got, "hunter2") || !strings.Contains(got, shows) || shows != said && !strings.Contains(got, policy.Hidden) {
			t.Errorf("%q is shown as %q", said, got)
		}
	}
}
