package xds

import (
	"fmt"
	"net"
	"slices"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/canaryd/canaryd/internal/policy"
)

// Node is who an xDS stream comes from.
type Node struct {
	ID, Cluster string
	Build       string    // user agent and version, in words
	Version     [2]uint32 // of an Envoy: major, minor; zero: something else
	Peer        string    // address
	Client      bool      // a gRPC client without a proxy
	Diagnostic  bool      // `xds dump`: it looks, and serves nobody
	Mended      bool      // its bootstrap has the flag for whole load reports
	Records     bool      // it has the cluster that access log records go to

	by       string   // what vouches for it: the names in its certificate, else its IP address
	services []string // patterns of what it may see; none: everything
	line     *line    // that it speaks on
}

// Identity is what an Envoy's streams have in common.
type Identity struct{ Node, By string }

func (n Node) identity() Identity { return Identity{n.ID, n.by} }

// sees reports whether a node may have what belongs to any of some services.
func (n Node) sees(services ...string) bool {
	if len(n.services) == 0 {
		return true
	}
	return slices.ContainsFunc(services, func(s string) bool {
		return slices.ContainsFunc(n.services, func(pattern string) bool { return policy.Matches(pattern, s) })
	})
}

// nodeOf reads it from the first request of a stream.
func nodeOf(n *core.Node, peer string) Node {
	out := Node{ID: n.GetId(), Cluster: n.GetCluster(), Build: n.GetUserAgentName(), Peer: peer, by: hostOf(peer)}
	if v := n.GetUserAgentBuildVersion().GetVersion(); v != nil {
		out.Version = [2]uint32{v.GetMajorNumber(), v.GetMinorNumber()}
		out.Build = fmt.Sprintf("%s %d.%d.%d", out.Build, v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
	} else if v := n.GetUserAgentVersion(); v != "" {
		out.Build += " " + v
	}
	own := n.GetMetadata().GetFields()["canaryd"].GetStructValue()
	out.Diagnostic = own.GetFields()["diagnostic"].GetBoolValue()
	out.Mended = own.GetFields()["whole_reports"].GetBoolValue()
	out.Records = own.GetFields()[recordsSaid].GetBoolValue()
	return out
}

// hostOf is an address without its port.
func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}
