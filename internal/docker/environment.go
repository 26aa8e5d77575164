package docker

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/secret"
)

// shortest is how long a value of docker.env has to be to be hidden in what containers say: `1` or `info` are in every log.
const shortest = 6

// hideWithin is how long the files of values are waited for before something is shown.
const hideWithin = 2 * time.Second

// files are the files of values. One on a file system that hangs keeps a thread, of which Go has ten thousand: it is read once at a time.
type files struct {
	mu    sync.Mutex
	turns map[string]chan struct{} // by file: who reads it has put something in
}

func (f *files) turn(file string) chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.turns == nil {
		f.turns = map[string]chan struct{}{}
	}
	if f.turns[file] == nil {
		f.turns[file] = make(chan struct{}, 1)
	}
	return f.turns[file]
}

// read reads a value when it is its turn.
func (f *files) read(ctx context.Context, s policy.Secret) (string, error) {
	turn := f.turn(s.FromFile)
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
		return secret.Read(s)
	case <-ctx.Done():
		return "", late(ctx)
	}
}

func late(ctx context.Context) error {
	return fmt.Errorf("it was not read in time, does its file system answer? (%w)", ctx.Err())
}

// environment is what a container is started with, as far as it can be read, and why not all of it can.
func (want Want) environment(ctx context.Context, fs *files) (env []string, err error) {
	type answer struct {
		value string
		err   error
	}
	names := slices.Sorted(maps.Keys(want.Spec.Env))
	answers := make([]chan answer, len(names))
	for i, name := range names {
		answers[i] = make(chan answer, 1)
		if s := want.Spec.Env[name]; s.FromFile == "" {
			v, err := secret.Read(s)
			answers[i] <- answer{v, err}
		} else { // a file system that hangs holds up nothing else
			go func() {
				v, err := fs.read(ctx, s)
				answers[i] <- answer{v, err}
			}()
		}
	}
	for i, name := range names {
		var a answer
		select {
		case a = <-answers[i]:
		case <-ctx.Done():
			select {
			case a = <-answers[i]:
			default:
				a.err = late(ctx)
			}
		}
		if a.err == nil {
			env = append(env, name+"="+a.value)
		} else if err == nil {
			err = fmt.Errorf("docker.env.%s: %w", name, a.err)
		}
	}
	return env, err
}

// hiding leaves the values of docker.env out of what the daemon says of something that has no container yet.
func (want Want) hiding(ctx context.Context, fs *files, said string) string {
	if said == "" || len(want.Spec.Env) == 0 {
		return said
	}
	ctx, cancel := context.WithTimeout(ctx, hideWithin)
	defer cancel()
	env, _ := want.environment(ctx, fs) // what a container has that cannot be read any more, hidingOf hides
	return hidden(said, env)
}

// hidingOf leaves out of what a container says the values that it was started with: what is written of them now may be another.
func (want Want) hidingOf(in container.InspectResponse, said string) string {
	if in.Config == nil {
		return said
	}
	return hidden(said, slices.DeleteFunc(slices.Clone(in.Config.Env), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		_, ours := want.Spec.Env[name]
		return !ours // it is the image's own
	}))
}

// hidden leaves the values of an environment out of a text: programs that end like to print their settings.
func hidden(said string, env []string) string {
	var values []string
	for _, pair := range env {
		_, value, _ := strings.Cut(pair, "=")
		values = append(values, partsOf(value)...)
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
