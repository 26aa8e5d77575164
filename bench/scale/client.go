package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/canaryd/canaryd/internal/xds"
)

// client is one delta ADS stream on a connection of its own. It accepts everything, and connects again with what
// it has when it is cut.
type client struct {
	address string
	node    *core.Node
	routes  []string
	edge    bool // it takes all clusters with their endpoints and all listeners, too
	tls     *tls.Config
	heard   func(c *client, name string, at time.Time) // a route was accepted

	mu       sync.Mutex
	versions map[string]string // of routes
	opened   time.Time
	cut      func() // ends the present stream
}

// run follows the server until ctx ends; slots bound how many connect at once, nil: all.
func (c *client) run(ctx context.Context, slots chan struct{}) {
	for ctx.Err() == nil {
		if slots != nil {
			slots <- struct{}{}
		}
		_ = c.follow(ctx, func() { // how it ended does not matter: it begins again
			if slots != nil {
				<-slots
			}
			slots = nil
		})
	}
}

func (c *client) follow(parent context.Context, opened func()) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	creds := insecure.NewCredentials()
	if c.tls != nil {
		creds = credentials.NewTLS(c.tls)
	}
	conn, err := grpc.NewClient(c.address, grpc.WithTransportCredentials(creds), grpc.WithReadBufferSize(4096), grpc.WithWriteBufferSize(4096), grpc.WithSharedWriteBuffer(true),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(light{}), grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		opened()
		return err
	}
	defer conn.Close()
	st, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, discovery.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName, grpc.WaitForReady(true))
	opened()
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.opened, c.cut = time.Now(), cancel
	c.mu.Unlock()
	if err := c.begin(st); err != nil {
		return err
	}
	for {
		a := &answer{}
		if err := st.RecvMsg(a); err != nil {
			return err
		}
		if err := c.accept(st, a); err != nil {
			return err
		}
	}
}

// begin subscribes. What the client has of its routes it says, all but the last one: that the server answers for
// it shows that it has taken the stream in.
func (c *client) begin(st grpc.ClientStream) error {
	node := c.node
	if c.edge {
		for _, typ := range []string{xds.TypeCluster, xds.TypeListener} {
			if err := st.SendMsg(&discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: typ, ResourceNamesSubscribe: []string{"*"}}); err != nil {
				return err
			}
			node = nil
		}
	}
	c.mu.Lock()
	has := make(map[string]string, len(c.versions))
	for name, v := range c.versions {
		if name != c.routes[len(c.routes)-1] {
			has[name] = v
		}
	}
	c.mu.Unlock()
	return st.SendMsg(&discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: xds.TypeRoute, ResourceNamesSubscribe: c.routes, InitialResourceVersions: has})
}

func (c *client) accept(st grpc.ClientStream, a *answer) error {
	var more []string
	if err := st.SendMsg(a.ack(nil)); err != nil {
		return err
	}
	at := time.Now()
	for _, r := range a.resources {
		if a.typ == xds.TypeCluster {
			more = append(more, r.name)
		}
	}
	if len(more) > 0 {
		return st.SendMsg(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.TypeEndpoint, ResourceNamesSubscribe: more})
	}
	if a.typ != xds.TypeRoute {
		return nil
	}
	c.mu.Lock()
	for _, r := range a.resources {
		c.versions[r.name] = r.version
	}
	c.mu.Unlock()
	for _, r := range a.resources {
		c.heard(c, r.name, at)
	}
	return nil
}

// hangUp ends the present stream and its connection.
func (c *client) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut != nil {
		c.cut()
	}
}

func nodeNamed(i int) *core.Node {
	return &core.Node{Id: fmt.Sprintf("envoy-%05d", i), Cluster: "edge"}
}
