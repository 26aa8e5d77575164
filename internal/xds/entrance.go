package xds

import (
	"context"
	"sync/atomic"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// entrance is the one way in for delta ADS, state-of-the-world ADS and load reports: whoever opens a stream has
// to say in time who it is, and is admitted or not before its handler sees a message.
type entrance struct{ hub *Hub }

// stream is a grpc.StreamServerInterceptor.
func (e entrance) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	in := &visitor{ServerStream: ss, hub: e.hub, line: lineOf(ss.Context()), answered: info.IsServerStream}
	peer := Node{Peer: peerOf(ss.Context())}
	if !in.line.account.enters() {
		err := status.Errorf(codes.ResourceExhausted, "%s has %d streams already: see xds.limits.streams_per_peer in canaryd.yml", hostOf(peer.Peer), e.hub.Admission.Limits.StreamsPerPeer)
		e.hub.refusals.count(overStreams, peer, "%s", status.Convert(err).Message())
		return err
	}
	defer in.line.account.leaves()
	defer in.line.arrived()
	e.hub.delay(ss.Context(), peer)
	in.ctx = context.WithValue(ss.Context(), visitorKey{}, in)
	err := handle(srv, in)
	in.line.took(int(in.untaken.Swap(0)))
	if refused := in.refused.Load(); refused != nil { // go-control-plane takes every failure to read for the end
		return *refused
	}
	return err
}

// visitor is a stream whose first message is looked at.
type visitor struct {
	grpc.ServerStream
	hub      *Hub
	line     *line
	ctx      context.Context
	answered bool // what it says is
	heard    bool // its first message
	node     Node
	untaken  atomic.Int64 // bytes of its last message, which is being dealt with
	refused  atomic.Pointer[error]
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
	if v.line.speaks(); !v.answered {
		v.line.arrived()
	}
	var err error
	if first, ok := m.(interface{ GetNode() *core.Node }); ok {
		v.node, err = v.hub.admit(v.ctx, first.GetNode())
	}
	return v.fails(err)
}

// SendMsg implements grpc.ServerStream.
func (v *visitor) SendMsg(m any) error {
	err := v.ServerStream.SendMsg(m)
	v.line.arrived()
	return err
}

func (v *visitor) receive(m any) error {
	v.line.took(int(v.untaken.Swap(0)))
	in := &incoming{message: m, limits: &v.hub.Admission.Limits, line: v.line}
	err := v.ServerStream.RecvMsg(in)
	v.untaken.Store(int64(in.bytes))
	if in.over == "" && status.Code(err) == codes.ResourceExhausted {
		in.over = overRequest // grpc did not read it
	}
	if in.refused != nil {
		err = in.refused
	}
	if in.over != "" {
		v.hub.ends(in.over, v.exceeds(m), err)
	}
	return err
}

// exceeds is who sent a message that is too much, which may be the first.
func (v *visitor) exceeds(m any) Node {
	if said, ok := m.(interface{ GetNode() *core.Node }); ok && v.node.ID == "" && said.GetNode() != nil {
		if n, err := v.hub.admit(v.ctx, said.GetNode()); err == nil {
			return n
		}
	}
	return v.who()
}

// who is the speaker, as far as that is known.
func (v *visitor) who() Node {
	if v.node.ID == "" {
		return Node{Peer: peerOf(v.ctx)}
	}
	return v.node
}

// first receives the first message, if that comes in time. What it was kept waiting is not its fault.
func (v *visitor) first(m any) error {
	got := make(chan error, 1)
	go func() { got <- v.receive(m) }()
	waited := v.line.waited.Load()
	late := time.NewTimer(v.hub.Admission.Limits.FirstMessage)
	defer late.Stop()
	for {
		select {
		case err := <-got:
			return err
		case <-late.C:
		}
		if more := v.line.waits(); more > 0 { // since before this stream was heard of, perhaps
			late.Reset(more + v.hub.Admission.Limits.FirstMessage)
			continue
		}
		if more := v.line.waited.Load() - waited; more > 0 {
			waited += more
			late.Reset(time.Duration(more))
			continue
		}
		err := status.Errorf(codes.DeadlineExceeded, "no message arrived within %s of opening the stream", v.hub.Admission.Limits.FirstMessage)
		v.hub.ends(overFirst, Node{Peer: peerOf(v.ctx)}, err)
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
