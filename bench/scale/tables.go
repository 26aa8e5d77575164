package main

import (
	"fmt"
	"strings"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

func serviceName(i int) string { return fmt.Sprintf("svc-%05d", i) }

// tableOf is a service of two versions with v2 at a weight; listener and nodes may be empty.
func tableOf(i int, generation uint64, v2 int, listener string, nodes ...string) rollout.Table {
	p := policy.Default()
	p.Service, p.Route.Listener, p.Route.Domains, p.Route.Nodes = serviceName(i), listener, []string{serviceName(i) + ".example.com"}, nodes
	t := rollout.Table{Service: p.Service, Generation: generation, Policy: &p, Stable: "v1", Slots: []rollout.Run{{Version: "v1", Count: policy.FullWeight - v2}},
		Clusters: []rollout.Cluster{{Version: "v1", Endpoints: []string{"127.0.0.1:9001"}}, {Version: "v2", Endpoints: []string{"127.0.0.1:9002"}}}}
	if v2 > 0 {
		t.Slots = append(t.Slots, rollout.Run{Version: "v2", Count: v2})
	}
	return t
}

// policies is the YAML of n services on one listener, with one version each.
func policies(n int, hold, listener string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "---\nservice: %s\nroute: {listener: %q, domains: [%s.example.com], probe: \"off\"}\nversions: [{version: v1, endpoints: [\"127.0.0.1:9001\"], stable: true}]\nramp: {steps: [5%%, 100%%], hold: %s}\n",
			serviceName(i), listener, serviceName(i), hold)
	}
	return b.String()
}
