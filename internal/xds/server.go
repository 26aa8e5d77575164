package xds

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"time"

	als "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// raw is a response whose resources were encoded once for all streams.
type raw struct {
	parts   mem.BufferSlice
	removed []string
}

// encode makes a response for the wire.
func encode(r reply, nonce string) *raw {
	out := &raw{}
	for _, p := range r.parcels {
		if p.res == nil {
			out.removed = append(out.removed, p.ref.Name)
		} else {
			out.parts = append(out.parts, mem.SliceBuffer(p.res.encoded))
		}
	}
	out.finish(r.typ, nonce)
	return out
}

// finish appends the fields of DeltaDiscoveryResponse that differ from stream to stream.
func (r *raw) finish(typ, nonce string) {
	var tail []byte
	tail = protowire.AppendString(protowire.AppendTag(tail, 4, protowire.BytesType), typ)
	tail = protowire.AppendString(protowire.AppendTag(tail, 5, protowire.BytesType), nonce)
	for _, name := range r.removed {
		tail = protowire.AppendString(protowire.AppendTag(tail, 6, protowire.BytesType), name)
	}
	r.parts = append(r.parts, mem.SliceBuffer(tail))
}

// codec passes encoded responses through and marshals everything else as usual.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*raw); ok {
		return r.parts, nil
	}
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("xds: cannot encode %T", v)
	}
	b, err := proto.Marshal(m)
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

const (
	// ageGrace is from the request to connect again until the connection ends: ADS and load reports never end by
	// themselves.
	ageGrace = time.Second
	// idleAfter is how long a connection may take for its handshake, or be without a stream.
	idleAfter = 30 * time.Second
	// headerBytes is more than the headers of any request have. A few bytes may name a header of 4 KiB that was sent before.
	headerBytes = 64 << 10
	// readBytes has room for what an Envoy says as a rule. What is longer is read past it.
	readBytes = 1 << 10
)

// NewServer serves the hub's resources, and takes load reports and access log records in. A nil tlsConfig means plain text.
func NewServer(h *Hub, loads *Loads, tlsConfig *tls.Config) *grpc.Server {
	limits := h.Admission.Limits
	var creds = insecure.NewCredentials()
	if tlsConfig != nil {
		creds = credentials.NewTLS(tlsConfig)
	}
	opts := []grpc.ServerOption{
		grpc.Creds(lines{creds, newAccounts(h)}),
		grpc.ForceServerCodecV2(codec{}),
		grpc.StreamInterceptor(entrance{h}.stream),
		grpc.MaxRecvMsgSize(limits.RequestBytes),
		grpc.MaxHeaderListSize(headerBytes),
		grpc.ReadBufferSize(readBytes), // of each connection, for as long as it lasts
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second,
			MaxConnectionAge: limits.ConnectionAge, MaxConnectionAgeGrace: ageGrace, MaxConnectionIdle: idleAfter}),
		grpc.ConnectionTimeout(idleAfter),
		grpc.MaxConcurrentStreams(100),
		grpc.InTapHandle(func(ctx context.Context, _ *tap.Info) (context.Context, error) { // whatever becomes of it: who opens streams and resets them has no more than 100 of them
			lineOf(ctx).owes(messageBytes)
			return ctx, nil
		}),
	}
	s := grpc.NewServer(opts...)
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "envoy.service.discovery.v3.AggregatedDiscoveryService",
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: "StreamAggregatedResources", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, ss grpc.ServerStream) error { return h.clients.serve(ss) },
		}, {
			StreamName: "DeltaAggregatedResources", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, ss grpc.ServerStream) error { return h.serve(ss) },
		}},
	}, nil)
	loadstats.RegisterLoadReportingServiceServer(s, reporting{h, loads})
	als.RegisterAccessLogServiceServer(s, recording{hub: h})
	return s
}

// serve runs one ADS stream: this goroutine reads, another one writes when there is something to be sent.
func (h *Hub) serve(ss grpc.ServerStream) error {
	req := &discovery.DeltaDiscoveryRequest{}
	if err := ss.RecvMsg(req); err != nil {
		return err
	}
	s := h.open(admitted(ss.Context(), req.GetNode()))
	defer s.close()
	s.beginWriting(ss)
	for {
		if err := s.receive(req); err != nil {
			return err
		}
		req = &discovery.DeltaDiscoveryRequest{}
		if err := ss.RecvMsg(req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if failed := s.failed.Load(); failed != nil {
			return *failed
		}
	}
}
