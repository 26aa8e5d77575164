package xds

import (
	"fmt"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	loadstats "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A message is looked at before it is decoded: two bytes of it may become an object of a hundred, and 16 MB a gigabyte.

// partBytes is what a part counts of the peer's bytes per second at least. As a rule it weighs more.
const partBytes = 16

// incoming is a message that is to be received.
type incoming struct {
	message any // proto.Message or *reported
	limits  *Limits
	line    *line // that it comes on; nil: nobody waits
	bytes   int
	parts   int
	over    Reason // the limit that it exceeds; empty: none
	refused error  // what the peer is told of that
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	switch v := v.(type) {
	case *incoming:
		return v.decode(whole.ReadOnlyData())
	case proto.Message:
		return proto.Unmarshal(whole.ReadOnlyData(), v)
	}
	return fmt.Errorf("xds: cannot decode into %T", v)
}

// decode decodes a message, unless it exceeds a limit.
func (in *incoming) decode(b []byte) (err error) {
	in.bytes = len(b)
	message := in.message
	if r, ok := message.(*reported); ok {
		if message = r.LoadStatsRequest; !r.first {
			b, err = without(b, reportNode)
		}
		if err == nil {
			b, err = r.shorten(b, in.limits)
		}
		if err != nil {
			return err
		}
	}
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("xds: cannot decode into %T", message)
	}
	if n := mostNames(m, b); n > in.limits.NamesPerType {
		return in.refuse(b, m, overNames, "%d names in one request"+seeNames, n)
	}
	most := in.limits.parts(m)
	if in.parts = parts(m.ProtoReflect().Descriptor(), b, deepest); in.parts > most {
		return in.refuse(b, m, overRequest, "a message of %d bytes has %d parts (messages, texts, numbers of lists), of which at most %d are read: see names_per_type, endpoints_per_report and metrics_per_report of xds.limits in canaryd.yml",
			in.bytes, in.parts, most)
	}
	in.line.wait(max(messageBytes, in.parts*partBytes) - in.bytes) // before, so that of many messages few are large in memory at a time
	return proto.Unmarshal(b, m)
}

// refuse decodes of a message only who sent it. It returns no error: to grpc that would be one of its own.
func (in *incoming) refuse(b []byte, m proto.Message, limit Reason, format string, args ...any) error {
	in.over, in.refused = limit, status.Errorf(codes.ResourceExhausted, format, args...)
	fd := m.ProtoReflect().Descriptor().Fields().ByName("node")
	for f := range fields(b) {
		if fd != nil && f.number == fd.Number() && len(f.whole) <= nodeBytes {
			return proto.Unmarshal(f.whole, m)
		}
	}
	return nil
}

// nodeBytes is more than a node of Envoy has.
const nodeBytes = 256 << 10

// mostNames is how many names of one kind a discovery request has: those it asks for, no longer asks for, or brought along.
func mostNames(m proto.Message, b []byte) (most int) {
	var of []protoreflect.FieldNumber
	switch m.(type) {
	case *discovery.DeltaDiscoveryRequest:
		of = []protoreflect.FieldNumber{3, 4, 5}
	case *discovery.DiscoveryRequest:
		of = []protoreflect.FieldNumber{3}
	}
	for _, number := range of {
		most = max(most, count(b, number))
	}
	return most
}

// parts are how many a message may have: more than any that is within the other limits. A resource that an Envoy brought along
// has a name, a version, and what holds both, besides being asked for; a cluster of a report a name, an interval, and
// what was counted in a locality; an endpoint an address that is two messages.
func (l *Limits) parts(m proto.Message) int {
	const resource, cluster, endpoint, metric, other = 4, 5, 5, 2, 100_000
	if _, report := m.(*loadstats.LoadStatsRequest); report {
		return cluster*l.NamesPerType + endpoint*l.EndpointsPerReport + metric*l.MetricsPerReport + other
	}
	return resource*l.NamesPerType + other
}

// deepest is how deep messages are looked into. What is deeper counts as if it were as much as it can be.
const deepest = 64

// parts counts what decoding makes objects of, at any depth.
func parts(md protoreflect.MessageDescriptor, b []byte, depth int) (n int) {
	for f := range fields(b) {
		fd := md.Fields().ByNumber(f.number)
		switch {
		case fd == nil: // kept as it is
		case f.bytes == nil:
			if fd.IsList() {
				n++
			}
		case fd.Kind() == protoreflect.MessageKind && depth == 0:
			n += 1 + len(f.bytes)
		case fd.Kind() == protoreflect.MessageKind:
			n += 1 + parts(fd.Message(), f.bytes, depth-1)
		case fd.Kind() == protoreflect.StringKind, fd.Kind() == protoreflect.BytesKind:
			n++
		default: // packed numbers
			n += len(f.bytes)
		}
	}
	return n
}

// reported is a load report.
type reported struct {
	*loadstats.LoadStatsRequest
	first bool // on its stream. Envoy puts the whole node into each, 60 KB: of later ones it is not decoded, because who reports is known

	// That were left out, because they were too many; 0: none were.
	endpoints, metrics int
}

const (
	reportNode  = 1 // of LoadStatsRequest
	clusters    = 2
	localities  = 2 // of ClusterStats
	endpoints   = 7 // of UpstreamLocalityStats
	metrics     = 5
	ofEndpoints = 5 // of UpstreamEndpointStats: its metrics
)

// shorten leaves out of a report the endpoints, and what it says of answers, where that is too much. The sums of its clusters
// count all the same.
func (r *reported) shorten(b []byte, l *Limits) (_ []byte, err error) {
	if n := count(b, clusters, localities, metrics) + count(b, clusters, localities, endpoints, ofEndpoints); n > l.MetricsPerReport {
		r.metrics = n
		if b, err = without(b, clusters, localities, metrics); err == nil {
			b, err = without(b, clusters, localities, endpoints, ofEndpoints)
		}
		if err != nil {
			return nil, err
		}
	}
	if n := count(b, clusters, localities, endpoints); n > l.EndpointsPerReport {
		r.endpoints = n
		return without(b, clusters, localities, endpoints)
	}
	return b, nil
}
