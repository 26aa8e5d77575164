package xds

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"path"
	"slices"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/canaryd/canaryd/internal/policy"
)

// Admission says who may speak to canaryd, and how much.
type Admission struct {
	Nodes  []NodeRule // as which nodes certificates may speak; none: each as the node that it names
	Strict bool       // without Nodes: whoever is not the node that its certificate names is refused, not only counted
	Limits Limits
}

// NodeRule says as which nodes some certificates may speak, and what those may see.
type NodeRule struct {
	SAN      string   // pattern of a name in the certificate; * stands for anything but a slash
	ID       string   // pattern of node.id; none: the name, or what follows its last slash
	Cluster  string   // node.cluster; none: any
	Services []string // patterns; none: all
}

// Check says what is wrong with a rule.
func (r NodeRule) Check() error {
	if r.SAN == "" {
		return fmt.Errorf("san is missing: write a name in the certificate, such as spiffe://prod/edge/*")
	}
	for _, pattern := range append([]string{r.SAN, r.ID}, r.Services...) {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("%q is not a pattern: write a name, or one with *", pattern)
		}
	}
	return nil
}

// admits reports whether a certificate with these names may speak as a node.
func (r NodeRule) admits(names []string, n Node) bool {
	return (r.Cluster == "" || r.Cluster == n.Cluster) && slices.ContainsFunc(names, func(name string) bool {
		return policy.Matches(r.SAN, name) && (r.ID != "" && policy.Matches(r.ID, n.ID) || r.ID == "" && isNamed(name, n))
	})
}

// isNamed reports whether a name in a certificate is that of a node, as spiffe://prod/edge/edge-7 is of edge-7.
func isNamed(name string, n Node) bool { return name == n.ID || path.Base(name) == n.ID }

// admit decides by the first message of a stream who speaks, and whether they may. It is the same for delta
// ADS, for state-of-the-world ADS and for load reports.
func (h *Hub) admit(ctx context.Context, said *core.Node) (Node, error) {
	n := nodeOf(said, peerOf(ctx))
	n.line = lineOf(ctx)
	if err := n.check(); err != nil {
		err = status.Error(codes.InvalidArgument, err.Error())
		h.ends(badNode, Node{Peer: n.Peer}, err)
		return n, err
	}
	cert := certificateOf(ctx)
	if cert == nil {
		return n, h.paused(n)
	}
	names := namesIn(cert)
	n.by = cmp.Or(strings.Join(names, " "), n.by)
	why := h.Admission.certify(&n, names)
	switch {
	case why == "":
		return n, h.paused(n)
	case len(h.Admission.Nodes) > 0 || h.Admission.Strict:
		h.refusals.count(notItsNode, n, "%s", why)
		return n, status.Error(codes.PermissionDenied, why)
	}
	h.refusals.mismatch(n, why)
	return n, h.paused(n)
}

// certify says why a certificate with these names may not speak as a node; empty: it may, and sees what its
// rule says. The first rule that fits counts.
func (a Admission) certify(n *Node, names []string) string {
	of := fmt.Sprintf("the certificate of %s may not speak as node.id %q of node.cluster %q", cmp.Or(strings.Join(names, ", "), "nobody (it has no SAN)"), n.ID, n.Cluster)
	if len(a.Nodes) == 0 {
		if slices.ContainsFunc(names, func(name string) bool { return isNamed(name, *n) }) {
			return ""
		}
		return of + ": set node.id to a name in the certificate or to what follows its last slash, or list the certificate under xds.nodes in canaryd.yml"
	}
	i := slices.IndexFunc(a.Nodes, func(r NodeRule) bool { return r.admits(names, *n) })
	if i < 0 {
		return of + ": no entry of xds.nodes in canaryd.yml has this san, id and cluster (without `id`, node.id is the san, or what follows its last slash)"
	}
	n.services = a.Nodes[i].Services
	return ""
}

// check says what is wrong with what a node says of itself. A gRPC client need not have an id.
func (n Node) check() error {
	if n.ID == "" && !strings.HasPrefix(n.Build, "gRPC") {
		return fmt.Errorf("the first request carries no node.id: set node.id and node.cluster in Envoy's bootstrap")
	}
	for what, text := range map[string]string{"node.id": n.ID, "node.cluster": n.Cluster, "user_agent_name": n.Build} {
		if len(text) > nameBytes {
			return fmt.Errorf("%s has %d bytes: write a name of at most %d", what, len(text), nameBytes)
		}
	}
	return nil
}

// certificateOf is what the peer has proved to own; nil without mTLS.
func certificateOf(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	on, _ := p.AuthInfo.(onLine)
	info, ok := on.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil
	}
	return info.State.PeerCertificates[0]
}

// namesIn are the subject alternative names of a certificate.
func namesIn(c *x509.Certificate) []string {
	var names []string
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	names = append(names, c.DNSNames...)
	names = append(names, c.EmailAddresses...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// peerOf is the address that a stream comes from.
func peerOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}
