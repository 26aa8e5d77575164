package xds

import (
	"fmt"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
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
}

// nodeOf reads it from the first request of a stream.
func nodeOf(n *core.Node, peer string) Node {
	out := Node{ID: n.GetId(), Cluster: n.GetCluster(), Build: n.GetUserAgentName(), Peer: peer}
	if v := n.GetUserAgentBuildVersion().GetVersion(); v != nil {
		out.Version = [2]uint32{v.GetMajorNumber(), v.GetMinorNumber()}
		out.Build = fmt.Sprintf("%s %d.%d.%d", out.Build, v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
	} else if v := n.GetUserAgentVersion(); v != "" {
		out.Build += " " + v
	}
	own := n.GetMetadata().GetFields()["canaryd"].GetStructValue()
	out.Diagnostic = own.GetFields()["diagnostic"].GetBoolValue()
	out.Mended = own.GetFields()["whole_reports"].GetBoolValue()
	return out
}
