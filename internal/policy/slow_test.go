package policy

import (
	"strings"
	"testing"
)

// What is longer than a request may take is never seen.
func TestWhatARequestCannotTakeIsWarnedOf(t *testing.T) {
	for text, want := range map[string]string{
		"judge: {slow: {edges: [1s, 20s]}}":                            "shop.yml:2:28: route.timeout ends requests after 15s: no answer takes longer than 20s",
		"route: {timeout: 1s}\njudge: {slow: {edges: [1s]}}":           "no answer takes longer than 1s",
		"route: {timeout: 30s}\njudge: {slow: {edges: [20s]}}":         "",
		"route: {protocol: grpc}\njudge: {slow: {edges: [1m]}}":        "",
		"judge: {hang: 15s}":                                           "shop.yml:2:15: route.timeout ends requests after 15s: none is ever open for 15s",
		"route: {timeout: 2s}":                                         "",
		"route: {timeout: 0s}\njudge: {hang: 1m, slow: {edges: [1m]}}": "",
	} {
		_, fs := Parse("shop.yml", []byte("service: shop\n"+text+"\n"))
		if said := fs.Error(); len(fs.Errors()) > 0 || (want == "") != (said == "") || !strings.Contains(said, want) {
			t.Errorf("%s: %q, want %q", text, said, want)
		}
	}
}
