// Package xds tells Envoys which version gets how much: it builds Envoy's resources from the routing
// tables and serves them over delta ADS, one stream at a time in the right order, and takes load
// reports in.
package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/canaryd/canaryd/internal/rollout"
)

const typePrefix = "type.googleapis.com/envoy.config."

// The resource types that are served.
const (
	TypeListener = typePrefix + "listener.v3.Listener"
	TypeScope    = typePrefix + "route.v3.ScopedRouteConfiguration"
	TypeRoute    = typePrefix + "route.v3.RouteConfiguration"
	TypeCluster  = typePrefix + "cluster.v3.Cluster"
	TypeEndpoint = typePrefix + "endpoint.v3.ClusterLoadAssignment"
)

// Resource is one resource, encoded once for all streams.
type Resource struct {
	Type, Name string
	Version    string   // of the content: 16 hex digits of its SHA-256, the same on every replica. Envoys may be told more (recall.go)
	Nodes      []string // node clusters that may have it; none: all
	services   []string // it belongs to
	encoded    []byte   // field 2 of DeltaDiscoveryResponse, tagged

	slots    []rollout.Run     // routes: the weights
	clusters []ClusterID       // routes: the clusters it names
	attempts []rollout.Attempt // routes: of the versions that they name; clusters and endpoints: the one that they are of
	logged   *Resource         // listeners: the same with an access log, for nodes with Records; nil: none has asked for it
	withLog  func() (*Resource, error)
	byDNS    bool        // clusters: Envoy resolves it, there is no CLA
	user     bool        // routes: needs use_hash_policy, so Envoy 1.36
	cut      []ClusterID // routes: clusters that must get nothing
	unknown  bool        // an Envoy brought it along, and nobody here knows what is in it
	still    [4]*item    // what it is to all streams to which nothing happens (see still.go)
}

func (r *Resource) ref() Ref { return Ref{r.Type, r.Name} }

// names reports whether a route may send requests to a cluster.
func (r *Resource) names(cluster ClusterID) bool {
	return r.unknown || slices.Contains(r.clusters, cluster)
}

// attempt is which one of a version it is about.
func (r *Resource) attempt(version string) (a rollout.Attempt) {
	if i := slices.IndexFunc(r.attempts, func(a rollout.Attempt) bool { return a.Version == version }); i >= 0 {
		a = r.attempts[i]
	}
	return a
}

// meansOther reports whether a route may send requests to a cluster that were meant for another attempt of its version. Of
// one that nobody knows that is assumed where there was another one.
func (r *Resource) meansOther(cluster ClusterID, now rollout.Attempt) bool {
	if r.unknown {
		return now.Number > 1
	}
	return r.names(cluster) && r.attempt(cluster.Version) != now
}

func newResource(typ, name string, m proto.Message) (*Resource, error) {
	return newResourceTold(typ, name, m, func(hash string) string { return hash })
}

// newResourceTold makes a resource of which the Envoys are told more than the hash as its version.
func newResourceTold(typ, name string, m proto.Message, told func(hash string) string) (*Resource, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", typ, name, err)
	}
	r := &Resource{Type: typ, Name: name, Version: contentVersion(body)}
	res, err := proto.MarshalOptions{Deterministic: true}.Marshal(&discovery.Resource{
		Name: name, Version: told(r.Version), Resource: &anypb.Any{TypeUrl: typ, Value: body},
	})
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", typ, name, err)
	}
	r.encoded = protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), res)
	return r, nil
}

func contentVersion(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:8])
}

// visible reports whether a node of the given cluster may have the resource.
func (r *Resource) visible(nodeCluster string) bool {
	if len(r.Nodes) == 0 {
		return true
	}
	return slices.Contains(r.Nodes, nodeCluster)
}

// shortType is the name of a type in messages.
func shortType(typ string) string {
	switch typ {
	case TypeListener:
		return "listener"
	case TypeScope:
		return "scope"
	case TypeRoute:
		return "route"
	case TypeCluster:
		return "cluster"
	case TypeEndpoint:
		return "endpoint"
	}
	return "other"
}
