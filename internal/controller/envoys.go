package controller

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/xds"
)

// What the Hub says of its nodes, for those who may not know the Hub.
type (
	Envoy        = xds.Envoy
	EnvoyService = xds.EnvoyService
	Standing     = xds.Standing
	NodeCounts   = xds.Counts
	NodeStatus   = xds.NodeStatus
)

// EnvoysAfter are the nodes that are connected, or were and are not forgotten, by name: those behind one, and where a service is
// named, at least all that have something of it. They are the Hub's to know: the loop is not asked.
func (c *Controller) EnvoysAfter(after, service string) iter.Seq[Envoy] {
	return c.Hub.EnvoysAfter(after, service)
}

// lossy logs once of each Envoy that its load reports lack something. Where evidence comes from elsewhere that
// hurts nobody, and nothing is said.
func (c *Controller) lossy(st *xds.Status) {
	if c.Ask == nil {
		st.Lossy = nil
		return
	}
	for _, l := range st.Lossy {
		if c.warned[l.Node] == l.Build {
			continue
		}
		if len(c.warned) >= mostWarned {
			clear(c.warned)
		}
		c.warned[l.Node] = l.Build
		c.Log.WithField("node", l.Node).Warn(l.Warning())
	}
}

// mostWarned bounds what is remembered of nodes whose names never come back.
const mostWarned = 10_000

// ForgetEnvoy ends all waiting for a node. It is in the history of the services that waited.
func (c *Controller) ForgetEnvoy(ctx context.Context, node, by string) error {
	waited, known := c.Hub.Forget(node)
	if !known {
		return &UnknownError{fmt.Sprintf("there is no Envoy %s: `canaryd envoys` lists them", node)}
	}
	c.Log.WithField("node", node).WithField("by", by).Info("the Envoy is forgotten: nothing waits for it until it accepts a configuration")
	return c.do(ctx, func() {
		for _, service := range waited {
			if u := c.units[service]; u != nil {
				c.must(u, rollout.Forgotten{At: time.Now(), Node: node, By: by})
			}
		}
	})
}
