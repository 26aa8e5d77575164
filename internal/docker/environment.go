package docker

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/secret"
)

// shortest is how long a value of docker.env has to be to be hidden in what containers say: `1` or `info` are in every log.
const shortest = 6

// environment is what a container is started with.
func (want Want) environment() (env []string, err error) {
	for _, name := range slices.Sorted(maps.Keys(want.Spec.Env)) {
		v, err := secret.Read(want.Spec.Env[name])
		if err != nil {
			return nil, fmt.Errorf("docker.env.%s: %w", name, err)
		}
		env = append(env, name+"="+v)
	}
	return env, nil
}

// hiding leaves the values of docker.env out of what containers, and the daemon, say: programs that end like to print
// their settings.
func (want Want) hiding(said string) string {
	if said == "" {
		return said
	}
	var values []string
	for _, s := range want.Spec.Env {
		if v, err := secret.Read(s); err == nil {
			values = append(values, partsOf(v)...)
		}
	}
	values = slices.DeleteFunc(values, func(v string) bool { return len(v) < shortest })
	slices.SortFunc(values, func(a, b string) int { return len(b) - len(a) }) // one may begin with another
	for _, v := range values {
		said = strings.ReplaceAll(said, v, policy.Hidden)
	}
	return said
}

// partsOf are a value as programs print it, and what of it is a secret by itself: each of its lines, for the end of an output may
// begin within a key of many; and the password of an address.
func partsOf(value string) []string {
	parts := []string{value, url.QueryEscape(value)}
	for line := range strings.Lines(value) {
		parts = append(parts, strings.TrimSpace(line))
	}
	if u, err := url.Parse(value); err == nil && u.User != nil {
		password, _ := u.User.Password()
		parts = append(parts, password, url.PathEscape(password))
	}
	for _, p := range parts {
		if quoted := strconv.Quote(p); quoted[1:len(quoted)-1] != p {
			parts = append(parts, quoted[1:len(quoted)-1])
		}
	}
	return parts
}
