package main

import (
	"fmt"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// answer is what a client reads of a DeltaDiscoveryResponse. Ten thousand clients share the cores with what is
// measured: they decode no more than they need.
type answer struct {
	typ, nonce string
	resources  []resource
	removed    int
	keep       bool // the bodies too
}

type resource struct {
	name, version string
	body          []byte // of its Any
}

// light is the clients' codec: it writes messages or bytes, and reads answers without their bodies.
type light struct{}

func (light) Name() string { return "proto" }

func (light) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case mem.BufferSlice:
		return m, nil
	case proto.Message:
		b, err := proto.Marshal(m)
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	return nil, fmt.Errorf("cannot encode %T", v)
}

func (light) Unmarshal(data mem.BufferSlice, v any) error {
	b := data.Materialize()
	switch m := v.(type) {
	case *answer:
		return m.read(b)
	case proto.Message:
		return proto.Unmarshal(b, m)
	}
	return fmt.Errorf("cannot decode into %T", v)
}

func (a *answer) read(b []byte) error {
	return fields(b, func(num protowire.Number, v []byte) error {
		switch num {
		case 2:
			r, err := a.resource(v)
			a.resources = append(a.resources, r)
			return err
		case 4:
			a.typ = string(v)
		case 5:
			a.nonce = string(v)
		case 6:
			a.removed++
		}
		return nil
	})
}

func (a *answer) resource(b []byte) (r resource, err error) {
	return r, fields(b, func(num protowire.Number, v []byte) error {
		switch num {
		case 1:
			r.version = string(v)
		case 2:
			if a.keep {
				r.body = v
			}
		case 3:
			r.name = string(v)
		}
		return nil
	})
}

// fields calls f for each field that has bytes.
func fields(b []byte, f func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeField(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if typ == protowire.BytesType {
			_, _, tag := protowire.ConsumeTag(b)
			v, _ := protowire.ConsumeBytes(b[tag:n])
			if err := f(num, v); err != nil {
				return err
			}
		}
		b = b[n:]
	}
	return nil
}

// ack accepts an answer, and asks for more names of its type where there are some.
func (a *answer) ack(more []string) *discovery.DeltaDiscoveryRequest {
	return &discovery.DeltaDiscoveryRequest{TypeUrl: a.typ, ResponseNonce: a.nonce, ResourceNamesSubscribe: more}
}
