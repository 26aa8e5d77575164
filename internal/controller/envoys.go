package controller

import (
	"fmt"

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

// Envoys are all nodes that are connected, or were and are not forgotten, by name. They are the Hub's to
// know: the loop is not asked.
func (c *Controller) Envoys() []Envoy { return c.Hub.Envoys() }

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

// ForgetEnvoy ends all waiting for a node.
func (c *Controller) ForgetEnvoy(node, by string) error {
	if !c.Hub.Forget(node) {
		return &UnknownError{fmt.Sprintf("there is no Envoy %s: `canaryd envoys` lists them", node)}
	}
	c.Log.WithField("node", node).WithField("by", by).Info("the Envoy is forgotten: nothing waits for it until it accepts a configuration")
	return nil
}
