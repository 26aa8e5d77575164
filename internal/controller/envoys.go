package controller

import (
	"context"
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

// ForgetEnvoy ends all waiting for a node.
func (c *Controller) ForgetEnvoy(_ context.Context, node, by string) error {
	if !c.Hub.Forget(node) {
		return &UnknownError{fmt.Sprintf("no Envoy %s: `canaryd envoys` lists them", node)}
	}
	c.Log.WithField("node", node).WithField("by", by).Info("the Envoy is forgotten: nothing waits for it until it accepts something")
	return nil
}
