package xds

import (
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	idleConnection = 15 * time.Minute
	idleStream     = 5 * time.Minute
	headersWithin  = 10 * time.Second

	streamWindow     = 256 << 10
	connectionWindow = 1 << 20
	streamsMost      = 1024
)

// harden sets what Envoy's edge guide asks for, as far as it breaks no service: docs/decisions.md goes through the
// guide item by item.
func harden(m *hcm.HttpConnectionManager) {
	m.UseRemoteAddress = wrapperspb.Bool(true) // the peer is the client; x-envoy-* of those outside are taken away
	m.NormalizePath = wrapperspb.Bool(true)
	m.StreamIdleTimeout = durationpb.New(idleStream)
	m.RequestHeadersTimeout = durationpb.New(headersWithin)
	m.CommonHttpProtocolOptions = &core.HttpProtocolOptions{IdleTimeout: durationpb.New(idleConnection)}
	m.Http2ProtocolOptions = &core.Http2ProtocolOptions{
		MaxConcurrentStreams:        wrapperspb.UInt32(streamsMost),
		InitialStreamWindowSize:     wrapperspb.UInt32(streamWindow),
		InitialConnectionWindowSize: wrapperspb.UInt32(connectionWindow),
	}
}
