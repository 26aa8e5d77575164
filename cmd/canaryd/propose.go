package main

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/canaryd/canaryd/internal/metrics"
	"github.com/canaryd/canaryd/internal/paths"
	"github.com/canaryd/canaryd/internal/policy"
)

// propose makes a table of classes of what the stable version of a service serves.
func (d *daemon) propose(ctx context.Context, p *policy.Policy, stable string) (paths.Proposal, error) {
	none := paths.Proposal{Classes: []paths.Proposed{}}
	prom, is := d.src.(*metrics.Prometheus)
	switch {
	case is && p.Judge.Queries == nil:
		none.Note = "Envoy's counters in Prometheus do not tell what was asked for: name the counters of the service in judge.queries, or use metrics.source envoy with route.classes"
		return none, nil
	case is:
		label, values, err := prom.Values(ctx, p.Judge.Queries, stable)
		if err != nil {
			return none, err
		}
		return ofLabel(label, values), nil
	}
	seen := d.hub.Seen(p.Service)
	proposal := paths.FromRequests(&seen, p.Route.GRPC())
	if proposal.From == paths.FromNothing {
		proposal.Note = "no access log record of " + p.Service + " has come: docs/envoys.md says how an Envoy sends them; canaryd classes --from FILE reads an access log"
	}
	return proposal, nil
}

// ofLabel is the proposal of a label's values.
func ofLabel(label string, values map[string]float64) paths.Proposal {
	p := paths.Proposal{From: paths.FromLabel, Label: label, Classes: []paths.Proposed{}}
	if label == "" {
		p.From, p.Note = paths.FromNothing, "no label of judge.queries.requests names a route: give the counter one, such as handler, and name it in judge.queries.class"
		return p
	}
	for _, n := range values {
		p.Requests += n
	}
	names := slices.SortedFunc(maps.Keys(values), func(a, b string) int { return cmp.Or(cmp.Compare(values[b], values[a]), strings.Compare(a, b)) })
	for _, name := range names[:min(len(names), policy.ClassesMost)] {
		share := 0.0
		if p.Requests > 0 {
			share = values[name] / p.Requests
		}
		p.Classes = append(p.Classes, paths.Proposed{Class: policy.Class{Name: name}, Requests: values[name], Share: share})
	}
	return p
}
