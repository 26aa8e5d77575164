package xds

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/policy"
)

// buildListeners makes all listeners and scopes anew from the policies of all services: the dumb second way.
func buildListeners(policies []*policy.Policy) ([]*Resource, error) {
	byAddress := map[string][]*policy.Policy{}
	for _, p := range policies {
		if p.Route.Listener != "" {
			byAddress[p.Route.Listener] = append(byAddress[p.Route.Listener], p)
		}
	}
	var out []*Resource
	for address, ps := range byAddress {
		of := listenerOf{grpc: slices.ContainsFunc(ps, func(p *policy.Policy) bool { return p.Route.GRPC() }), nodes: nodesOf(ps)}
		if len(ps) == 1 && slices.Equal(ps[0].Route.Domains, []string{"*"}) {
			of.plain = ps[0].Service
		}
		l, err := buildListener(address, of)
		if err != nil {
			return nil, err
		}
		for _, p := range ps {
			l.services = append(l.services, p.Service)
		}
		if out = append(out, l); of.plain != "" {
			continue
		}
		for _, p := range ps {
			scopes, err := buildScopes(p)
			if err != nil {
				return nil, err
			}
			out = append(out, scopes...)
		}
	}
	return out, nil
}

// nodesOf are the node clusters of all services on a listener; none when one of them goes to all.
func nodesOf(ps []*policy.Policy) []string {
	var nodes []string
	for _, p := range ps {
		if len(p.Route.Nodes) == 0 {
			return nil
		}
		nodes = append(nodes, p.Route.Nodes...)
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

// Services come, go and change their listeners and hosts in any order: what is served is what would be made of all of
// them at once.
func TestListenersFollowTheirServices(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		log := logrus.New()
		log.SetOutput(io.Discard)
		h := NewHub(log)
		now := map[string]*policy.Policy{}
		hosts := map[string]string{} // owner
		for range 40 {
			name := fmt.Sprint("s", r.IntN(5))
			if r.IntN(5) == 0 {
				delete(now, name)
				if err := h.Remove(name); err != nil {
					t.Fatal(err)
				}
			} else {
				tab := table(1, nil)
				p := policy.Default()
				p.Service, p.Route.Listener = name, []string{"", "0.0.0.0:1", "0.0.0.0:2"}[r.IntN(3)]
				p.Route.Domains = nil
				for i := range 4 {
					if host := fmt.Sprintf("h%d.example.com", i); r.IntN(2) == 0 && (hosts[host] == "" || hosts[host] == name || now[hosts[host]] == nil) {
						hosts[host] = name
						p.Route.Domains = append(p.Route.Domains, host)
					} else if hosts[host] == name {
						delete(hosts, host)
					}
				}
				if r.IntN(3) == 0 {
					p.Route.Nodes = []string{"edge", "core"}[:1+r.IntN(2)]
				}
				if r.IntN(4) == 0 {
					p.Route.Protocol = policy.ProtocolGRPC
				}
				if len(p.Route.Domains) == 0 {
					p.Route.Domains = []string{name + ".example.com"}
					if r.IntN(2) == 0 { // a listener of its own
						p.Route.Domains, p.Route.Listener = []string{"*"}, "0.0.0.0:1"+name[1:]
					}
				}
				tab.Service, tab.Policy, now[name] = name, &p, &p
				if err := h.PublishTable(tab); err != nil {
					t.Fatal(err)
				}
			}
			asBuiltAtOnce(t, seed, h, now)
		}
	}
}

func asBuiltAtOnce(t *testing.T, seed uint64, h *Hub, now map[string]*policy.Policy) {
	t.Helper()
	var ps []*policy.Policy
	for _, p := range now {
		ps = append(ps, p)
	}
	slices.SortFunc(ps, func(a, b *policy.Policy) int { return slices.Compare([]byte(a.Service), []byte(b.Service)) })
	want, err := buildListeners(ps)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range want {
		got := h.cat.resources[r.ref()]
		if got == nil || got.Version != r.Version || !slices.Equal(got.services, r.services) || !slices.Equal(got.Nodes, r.Nodes) {
			t.Fatalf("seed %d: %s is %+v, want %+v", seed, r.Name, got, r)
		}
	}
	if n := len(h.cat.names[TypeListener]) + len(h.cat.names[TypeScope]); n != len(want) {
		t.Fatalf("seed %d: %d listeners and scopes, want %d", seed, n, len(want))
	}
}

// A listener cannot be made: that is said as often as it is tried, whether or not anything else changes, and nothing of it
// is left when the service has another one, or its old one again.
func TestAListenerThatCannotBeMadeIsTriedAgain(t *testing.T) {
	for _, then := range []string{"0.0.0.0:1", "0.0.0.0:2", ""} {
		log := logrus.New()
		log.SetOutput(io.Discard)
		h := NewHub(log)
		p := policy.Default()
		p.Service, p.Route.Domains = "shop", []string{"x"}
		publish := func(listener string) error {
			p := p
			p.Route.Listener = listener
			tab := table(1, nil)
			tab.Service, tab.Policy = "shop", &p
			return h.PublishTable(tab)
		}
		if err := publish("0.0.0.0:1"); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := publish("nowhere"); err == nil {
				t.Error("a listener without a port was made")
			}
		}
		if err := publish(then); err != nil {
			t.Fatal(err)
		}
		p.Route.Listener = then
		asBuiltAtOnce(t, 0, h, map[string]*policy.Policy{"shop": &p})
	}
}

// A host goes from one service to another, and the other one is published first.
func TestAHostChangesHands(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	h := NewHub(log)
	for _, now := range []struct{ service, host string }{{"a", "x"}, {"b", "z"}, {"b", "x"}, {"a", "y"}} {
		p := policy.Default()
		p.Service, p.Route.Listener, p.Route.Domains = now.service, "0.0.0.0:1", []string{now.host}
		tab := table(1, nil)
		tab.Service, tab.Policy = now.service, &p
		if err := h.PublishTable(tab); err != nil {
			t.Fatal(err)
		}
	}
	for host, service := range map[string]string{"x": "b", "y": "a"} {
		if r := h.cat.resources[Ref{TypeScope, "host/" + host}]; r == nil || !slices.Equal(r.services, []string{service}) {
			t.Errorf("%s: %+v, want %s", host, r, service)
		}
	}
	if h.cat.resources[Ref{TypeScope, "host/z"}] != nil {
		t.Error("z is still there")
	}
}

// A host that was lent comes back when the other service goes.
func TestALentHostComesBack(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	h := NewHub(log)
	for i, name := range []string{"shop", "store"} {
		p := policy.Default()
		p.Service, p.Route.Listener, p.Route.Domains = name, fmt.Sprint("0.0.0.0:", i+1), []string{"x"}
		tab := table(1, nil)
		tab.Service, tab.Policy = name, &p
		if err := h.PublishTable(tab); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Remove("store"); err != nil {
		t.Fatal(err)
	}
	if r := h.cat.resources[Ref{TypeScope, "host/x"}]; r == nil || !slices.Equal(r.services, []string{"shop"}) {
		t.Errorf("%+v", r)
	}
}

// A listener goes from one service to another in one reload: no Envoy closes its port in between.
func TestAListenerChangesHands(t *testing.T) {
	h, _, dial := server(t)
	on := func(service, listener string) Prepared {
		p := policy.Default()
		p.Service, p.Route.Listener = service, listener
		tab := table(1, nil)
		tab.Service, tab.Policy = service, &p
		return h.Prepare(tab)
	}
	for i, err := range h.Publish(on("shop", "0.0.0.0:1"), on("store", "")) {
		if err != nil {
			t.Fatal(i, err)
		}
	}
	e := connect(t, dial(), "edge-1", 40)
	e.subscribe(TypeListener)
	e.ack(e.expect(TypeListener))
	e.silence()
	for i, err := range h.Publish(on("shop", ""), on("store", "0.0.0.0:1")) {
		if err != nil {
			t.Fatal(i, err)
		}
	}
	if r := e.expect(TypeListener); len(r.RemovedResources) > 0 || len(r.Resources) != 1 {
		t.Errorf("%v, removed %v", names(r), r.RemovedResources)
	}
}
