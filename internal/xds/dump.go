package xds

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// Dump is a built-in xDS client: it prints what an Envoy would be given.
type Dump struct {
	XDS, NodeID, Cluster, TLSDir string
	Routes                       []string // asked for by name, as an Envoy with its own listener does
}

const (
	dumpQuiet = 500 * time.Millisecond // nothing more came for so long: that was all
	dumpMost  = 10 * time.Second
)

// Run connects, asks as an Envoy does, and prints the resources by type as one JSON document.
func (d Dump) Run(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, dumpMost)
	defer cancel()
	creds, err := d.credentials()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(d.XDS, grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20)))
	if err != nil {
		return fmt.Errorf("--xds %s: %w", d.XDS, err)
	}
	defer conn.Close()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return fmt.Errorf("no canaryd serves ADS at %s: %w", d.XDS, err)
	}
	c := dumpClient{stream: stream, found: map[string]map[string]json.RawMessage{}, node: d.node()}
	for _, typ := range []string{TypeCluster, TypeListener, TypeScope} {
		if err := c.ask(typ, nil); err != nil {
			return err
		}
	}
	if len(d.Routes) > 0 {
		if err := c.ask(TypeRoute, d.Routes); err != nil {
			return err
		}
	}
	if err := c.gather(); err != nil {
		return fmt.Errorf("ADS at %s: %w", d.XDS, err)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(c.found)
}

// node says that this is no Envoy: nobody waits for what it accepts.
func (d Dump) node() *core.Node {
	own := &structpb.Struct{Fields: map[string]*structpb.Value{"diagnostic": structpb.NewBoolValue(true)}}
	return &core.Node{Id: d.NodeID, Cluster: d.Cluster, UserAgentName: "canaryd",
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"canaryd": structpb.NewStructValue(own)}}}
}

func (d Dump) credentials() (credentials.TransportCredentials, error) {
	if d.TLSDir == "" {
		return insecure.NewCredentials(), nil
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(d.TLSDir, "client.pem"), filepath.Join(d.TLSDir, "client.key"))
	if err != nil {
		return nil, fmt.Errorf("--tls-dir: %w", err)
	}
	pem, err := os.ReadFile(filepath.Join(d.TLSDir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("--tls-dir: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, RootCAs: pool}), nil
}

type dumpClient struct {
	stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	node   *core.Node
	found  map[string]map[string]json.RawMessage
	asked  []string
}

func (c *dumpClient) ask(typ string, names []string) error {
	req := &discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResourceNamesSubscribe: names, Node: c.node}
	c.node = nil // on the first message only
	return c.stream.Send(req)
}

// gather reads and acknowledges until nothing more comes, following names from type to type.
func (c *dumpClient) gather() error {
	responses, failed := make(chan *discovery.DeltaDiscoveryResponse), make(chan error, 1)
	go func() {
		for {
			r, err := c.stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			responses <- r
		}
	}()
	for first := true; ; first = false {
		patience := dumpQuiet
		if first {
			patience = dumpMost
		}
		select {
		case r := <-responses:
			if err := c.take(r); err != nil {
				return err
			}
		case err := <-failed:
			return err
		case <-time.After(patience):
			if first {
				return errors.New("no answer")
			}
			return nil
		}
	}
}

func (c *dumpClient) take(r *discovery.DeltaDiscoveryResponse) error {
	short := shortType(r.GetTypeUrl())
	if c.found[short] == nil {
		c.found[short] = map[string]json.RawMessage{}
	}
	var next []string
	for _, res := range r.GetResources() {
		m, err := res.GetResource().UnmarshalNew()
		if err != nil {
			return fmt.Errorf("%s %s: %w", short, res.GetName(), err)
		}
		text, err := protojson.Marshal(m)
		if err != nil {
			return fmt.Errorf("%s %s: %w", short, res.GetName(), err)
		}
		c.found[short][res.GetName()] = text
		next = append(next, res.GetName())
	}
	if err := c.stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}); err != nil {
		return err
	}
	switch r.GetTypeUrl() {
	case TypeCluster:
		return c.follow(TypeEndpoint, next)
	case TypeListener, TypeScope:
		return c.follow(TypeRoute, c.routeNames(short))
	}
	return nil
}

// routeNames are the routes that listeners and scopes name.
func (c *dumpClient) routeNames(short string) []string {
	var names []string
	for _, text := range c.found[short] {
		var v any
		if json.Unmarshal(text, &v) == nil {
			collect(v, &names)
		}
	}
	return names
}

func collect(v any, names *[]string) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if s, ok := x.(string); ok && (k == "routeConfigName" || k == "routeConfigurationName") {
				*names = append(*names, s)
			}
			collect(x, names)
		}
	case []any:
		for _, x := range v {
			collect(x, names)
		}
	}
}

func (c *dumpClient) follow(typ string, names []string) error {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(c.asked, typ+n) })
	if len(names) == 0 {
		return nil
	}
	for _, n := range names {
		c.asked = append(c.asked, typ+n)
	}
	return c.ask(typ, names)
}
