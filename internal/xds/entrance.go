package xds

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// entrance is the one way in for delta ADS, state-of-the-world ADS and load reports: whoever opens a stream has
// to say in time who it is, and is admitted or not before its handler sees a message.
type entrance struct {
	hub *Hub

	mu      sync.Mutex
	streams map[string]int // by IP address
}

func newEntrance(h *Hub) *entrance { return &entrance{hub: h, streams: map[string]int{}} }

// stream is a grpc.StreamServerInterceptor.
func (e *entrance) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	peer := peerOf(ss.Context())
	if !e.enters(hostOf(peer)) {
		err := status.Errorf(codes.ResourceExhausted, "%s has %d streams already: see xds.limits.streams_per_peer in canaryd.yml", hostOf(peer), e.hub.Admission.Limits.StreamsPerPeer)
		e.hub.refusals.count(overStreams, Node{Peer: peer}, "%s", status.Convert(err).Message())
		return err
	}
	defer e.leaves(hostOf(peer))
	in := &visitor{ServerStream: ss, hub: e.hub}
	in.ctx = context.WithValue(ss.Context(), visitorKey{}, in)
	err := handle(srv, in)
	if refused := in.refused.Load(); refused != nil { // go-control-plane takes every failure to read for the end
		return *refused
	}
	return err
}

// enters counts a stream. What runs on this machine can do worse than to open streams, and may speak for many:
// sidecars, or a tunnel.
func (e *entrance) enters(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil && ip.Unmap().IsLoopback() {
		return true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.streams[host] >= e.hub.Admission.Limits.StreamsPerPeer {
		return false
	}
	e.streams[host]++
	return true
}

func (e *entrance) leaves(host string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.streams[host]--; e.streams[host] <= 0 {
		delete(e.streams, host)
	}
}

// visitor is a stream whose first message is looked at.
type visitor struct {
	grpc.ServerStream
	hub     *Hub
	ctx     context.Context
	heard   bool // its first message
	node    Node
	refused atomic.Pointer[error]
}

type visitorKey struct{}

// Context carries who speaks; that is known once the first message was received.
func (v *visitor) Context() context.Context { return v.ctx }

// admitted is who speaks on a stream; outside of a server, whoever it says it is.
func admitted(ctx context.Context, said *core.Node) Node {
	if v, ok := ctx.Value(visitorKey{}).(*visitor); ok {
		return v.node
	}
	return nodeOf(said, peerOf(ctx))
}

// RecvMsg implements grpc.ServerStream.
func (v *visitor) RecvMsg(m any) error {
	if v.heard {
		return v.fails(v.receive(m))
	}
	v.heard = true
	if err := v.first(m); err != nil {
		return v.fails(err)
	}
	var err error
	if first, ok := m.(interface{ GetNode() *core.Node }); ok {
		v.node, err = v.hub.admit(v.ctx, first.GetNode())
	}
	return v.fails(err)
}

func (v *visitor) receive(m any) error {
	err := v.ServerStream.RecvMsg(m)
	if status.Code(err) == codes.ResourceExhausted {
		v.hub.refusals.count(overRequest, Node{ID: v.node.ID, Peer: peerOf(v.ctx)}, "a message was refused: %s", status.Convert(err).Message())
	}
	return err
}

// first receives the first message, if that comes in time.
func (v *visitor) first(m any) error {
	got := make(chan error, 1)
	go func() { got <- v.receive(m) }()
	late := time.NewTimer(v.hub.Admission.Limits.FirstMessage)
	defer late.Stop()
	select {
	case err := <-got:
		return err
	case <-late.C:
		err := status.Errorf(codes.DeadlineExceeded, "nothing was said within %s of opening the stream", v.hub.Admission.Limits.FirstMessage)
		v.hub.refusals.count(overFirst, Node{Peer: peerOf(v.ctx)}, "%v", status.Convert(err).Message())
		return err
	}
}

// fails remembers why the stream ends.
func (v *visitor) fails(err error) error {
	if err != nil && status.Code(err) != codes.Unknown {
		v.refused.Store(&err)
	}
	return err
}
