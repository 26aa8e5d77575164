package policy

import (
	"strings"
	"testing"
)

// One mistake is said once: what is missing because of a misspelt key, or wrong because a value cannot be read, is not said as well.
func TestOneMistakeIsSaidOnce(t *testing.T) {
	for text, want := range map[string]string{
		"servce: shop\n": `p.yml:1:1: unknown key "servce": did you mean "service"?`,
		"service: shop\ndocker: {image: a, port: x}\n":                                                                        `p.yml:2:26: "x" does not fit here: expected a number`,
		"service: shop\nroute: {testers: {haeder: x}}\n":                                                                      `p.yml:2:19: unknown key "haeder" in route.testers: did you mean "header"?`,
		"service: shop\nversions: [{versio: v1, endpoints: [\"a:1\"], stable: true}]\n":                                       `p.yml:2:13: unknown key "versio" in versions: did you mean "version"?`,
		"service: shop\nversions: [{version: v1, endpoint: [\"a:1\"], stable: true}]\n":                                       `p.yml:2:26: unknown key "endpoint" in versions: did you mean "endpoints"?`,
		"service: shop\nversions: [{version: v1, endpoints: [\"a:1\"], stabel: true}]\n":                                      `p.yml:2:46: unknown key "stabel" in versions: did you mean "stable"?`,
		"service: shop\nversions: [{version: v1, endpoints: [\"a:1\"], stable: true}, {version: v1, endpoints: [\"a:1\"]}]\n": "p.yml:2:71: version v1 is listed twice",
		// what has nothing to do with it is still said
		"service: shop\nroute: {domains: [], testers: {haeder: x}}\nramp: {steps: [5%, 1%, 100%]}\n": "p.yml:2:18: no domains: leave the key out for [\"*\"], or name at least one host\n" +
			"p.yml:2:32: unknown key \"haeder\" in route.testers: did you mean \"header\"?\np.yml:3:20: steps must rise: 1% does not follow 5%",
		"rout: {}\nramp: {steps: [5%, 1%, 100%]}\n": "p.yml:1:1: unknown key \"rout\": did you mean \"route\"?\np.yml:2:20: steps must rise: 1% does not follow 5%",
	} {
		_, fs := Parse("p.yml", []byte(text))
		if got := strings.TrimSpace(fs.Error()); got != want {
			t.Errorf("%s\nsays\n%s\nwant\n%s", text, got, want)
		}
	}
}
