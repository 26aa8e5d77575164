package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/world"
)

// classFlag is what --class says of one class of requests. Rates are fractions of 1.
type classFlag struct {
	name           string
	share          float64 // of the requests
	stable, canary float64 // its error rate, and that of a release that breaks it
}

// readClasses reads flags as NAME=SHARE[:STABLE[:CANARY]].
func readClasses(flags []string, stable float64) (all []classFlag, err error) {
	sum := 0.0
	for _, f := range flags {
		name, text, ok := strings.Cut(f, "=")
		parts := strings.Split(text, ":")
		if !ok || name == "" || name == policy.Rest || len(parts) > 3 {
			return nil, usage("--class %q: write NAME=SHARE, NAME=SHARE:STABLE or NAME=SHARE:STABLE:CANARY, as in checkout=0.03%%:0.1%%:100%%", f)
		}
		c := classFlag{name: name, stable: stable, canary: 1}
		for i, into := range []*float64{&c.share, &c.stable, &c.canary}[:len(parts)] {
			if *into, err = share("class", parts[i]); err != nil {
				return nil, err
			}
		}
		if c.share <= 0 || slices.ContainsFunc(all, func(o classFlag) bool { return o.name == name }) {
			return nil, usage("--class %q: write each class once, with a share above 0", f)
		}
		sum += c.share
		all = append(all, c)
	}
	if sum >= 1 {
		return nil, usage("--class: the shares add up to %s, and leave nothing for %s", policy.Share(sum), policy.Rest)
	}
	return all, nil
}

// classed gives a question the classes of the flags, and those that its policy names beside them, which share what is left with the rest. Where
// there is no policy it counts those of the flags.
func classed(q *world.Question, flags []classFlag, defaults bool) error {
	if defaults {
		for _, f := range flags {
			q.Policy.Route.Classes = append(q.Policy.Route.Classes, policy.Class{Name: f.name, Path: "/" + f.name})
		}
	}
	names := q.Policy.Route.ClassNames()
	learns := q.Policy.Judge.ClassLabel() != ""
	q.Told.Nothing = names == nil && !learns
	left := 1.0
	for _, f := range flags {
		if names != nil && !slices.Contains(names, f.name) {
			return usage("--class: route.classes of the policy has no class %s; it has %s", f.name, strings.Join(names[:len(names)-1], ", "))
		}
		left -= f.share
		q.Classes = append(q.Classes, world.Class{Name: f.name, Share: f.share, Stable: f.stable - q.Stable, Canary: f.stable - q.Stable})
	}
	var others []string
	for _, n := range append(slices.Clip(names[:max(len(names)-1, 0)]), policy.Rest) {
		if !slices.ContainsFunc(flags, func(f classFlag) bool { return f.name == n }) {
			others = append(others, n)
		}
	}
	for _, n := range others {
		q.Classes = append(q.Classes, world.Class{Name: n, Share: left / float64(len(others))})
	}
	return nil
}

// breaking is the same question about a release that breaks one class, and is well otherwise.
func (f *classFlag) breaking(q world.Question) world.Question {
	q.Canary, q.Classes = q.Stable, slices.Clone(q.Classes)
	for i := range q.Classes {
		if c := &q.Classes[i]; c.Name == f.name {
			c.Canary = f.canary - q.Stable
		}
	}
	return q
}

// release says what it does.
func (f *classFlag) release() string {
	return fmt.Sprintf("fails %s of %s (%s)", policy.Share(f.canary), f.name, policy.Share(f.share))
}
