package docker

import (
	"fmt"
	"maps"
	"slices"
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
		if v, err := secret.Read(s); err == nil && len(v) >= shortest {
			values = append(values, v)
		}
	}
	slices.SortFunc(values, func(a, b string) int { return len(b) - len(a) }) // one may begin with another
	for _, v := range values {
		said = strings.ReplaceAll(said, v, policy.Hidden)
	}
	return said
}
