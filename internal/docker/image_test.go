package docker

import (
	"slices"
	"testing"
)

// An image may be known to several repositories; what a service's registry pushed is told by its own.
func TestDigestsOfAnImage(t *testing.T) {
	all := []string{"localhost:5000/shop@sha256:aaa0", "mirror:5000/shop@sha256:bbb0", "nginx@sha256:ccc0", "localhost:5000/shop@sha256:ddd0"}
	for i := range all { // a digest has 64 digits
		all[i] += "000000000000000000000000000000000000000000000000000000000000"
	}
	for image, want := range map[string][]string{
		"localhost:5000/shop:v2": {all[0][20:], all[3][20:]}, "mirror:5000/shop:v2": {all[1][17:]}, "docker.io/library/nginx": {all[2][6:]}, "other:v2": nil, "No Image": nil,
	} {
		if got := digests(image, all); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", image, got, want)
		}
	}
}
