package xds

import (
	"slices"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
)

const shared = "0.0.0.0:10000" // the listener of all services of crowded

// hears opens a stream of an Envoy that asks for routes, and accepts all that it is sent.
func hears(t *testing.T, h *Hub, id string, routes ...string) *session {
	t.Helper()
	s := h.open(Node{ID: id, Cluster: "edge", Peer: "peer of " + id, Version: [2]uint32{1, 40}})
	says(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster})
	if len(routes) > 0 {
		says(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: routes})
	}
	answersAll(t, s, "")
	return s
}

func says(t *testing.T, s *session, req *discovery.DeltaDiscoveryRequest) {
	t.Helper()
	if err := s.receive(req); err != nil {
		t.Fatal(err)
	}
}

// answersAll accepts what goes out, or refuses it with a reason.
func answersAll(t *testing.T, s *session, why string) {
	t.Helper()
	for {
		r, nonce, ok := s.next()
		if !ok {
			return
		}
		req := &discovery.DeltaDiscoveryRequest{TypeUrl: r.typ, ResponseNonce: nonce}
		if why != "" {
			req.ErrorDetail = &rpcstatus.Status{Message: why}
		}
		says(t, s, req)
	}
}

// takes is what all of TakeChanges has to say, and how many services were marked for that.
func takes(h *Hub) (told []Status, marked int) {
	marked = len(h.changed.m)
	for _, t := range h.tours {
		marked += t.left
	}
	for len(h.changed.m)+len(h.tours) > 0 {
		told = append(told, h.TakeChanges()...)
	}
	return told, marked
}

// An Envoy that accepts a listener of many services changes nothing in any of them, whether it is in their books or not.
func TestAnAcceptedListenerChangesNoService(t *testing.T) {
	h := crowded(t, 1000)
	s := hears(t, h, "edge-a", "shop-00500", "shop-00501")
	takes(h)
	says(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeListener})
	if answersAll(t, s, ""); s.inv.item(Ref{TypeListener, shared}).acked == nil {
		t.Fatal("the listener was not sent")
	}
	if told, marked := takes(h); marked > 0 {
		t.Errorf("%d services are marked, %d told of", marked, len(told))
	}
}

// A refused listener is told of in each of its services, and that it is accepted after all as well. Nobody else's answer is
// taken for that.
func TestARefusedListenerIsToldOfAndItsEnd(t *testing.T) {
	const services = 300
	h := crowded(t, services)
	refuses, other := hears(t, h, "edge-a", "shop-00250"), hears(t, h, "edge-b", "shop-00250")
	takes(h)
	refusing := func(what string, refused bool) {
		t.Helper()
		told, _ := takes(h)
		n := 0
		for _, st := range told {
			is := slices.ContainsFunc(st.Nodes, func(n NodeStatus) bool { return n.Node == "edge-a" && n.Why == "no" && n.Resource == shared })
			if is == refused {
				n++
			}
		}
		if n != services || len(told) != services {
			t.Errorf("%s: %d of %d services told say so, of %d", what, n, len(told), services)
		}
	}
	says(t, refuses, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeListener})
	answersAll(t, refuses, "no")
	refusing("refused", true)
	says(t, other, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeListener})
	answersAll(t, other, "")
	if told, marked := takes(h); marked > 0 {
		t.Errorf("accepted by another: %d are marked, %d told of", marked, len(told))
	}
	h.Retry("shop-00000")
	takes(h)
	answersAll(t, refuses, "no")
	takes(h)
	h.Retry("shop-00000")
	takes(h)
	r, nonce, ok := refuses.next()
	if !ok || r.typ != TypeListener {
		t.Fatalf("%v %s", ok, r.typ)
	}
	says(t, refuses, &discovery.DeltaDiscoveryRequest{TypeUrl: r.typ, ResponseNonce: nonce})
	told, _ := takes(h)
	if len(told) != services { // also the first one, where the refusal ended with the other try: it is joining that no more
		t.Errorf("%d services told of the end", len(told))
	}
	if len(h.disputed[Ref{TypeListener, shared}].by) > 0 {
		t.Error("it refuses the listener still")
	}
	for _, svc := range h.services {
		if len(svc.force.refusing()) > 0 {
			t.Fatalf("%s: %v", svc.force.service, svc.force.refusing())
		}
	}
}

// Another content of a listener, and its end, end the refusals of it; the same process is known to refuse it until then.
func TestRefusalsOfAListenerEndWithIt(t *testing.T) {
	h := crowded(t, 10)
	s := hears(t, h, "edge-a")
	says(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeListener})
	answersAll(t, s, "no")
	res := h.cat.resources[Ref{TypeListener, shared}]
	if v := h.remembers(s.Node, res); v != res.Version {
		t.Errorf("remembered: %q", v)
	}
	if v := h.remembers(Node{ID: "edge-b"}, res); v != "" {
		t.Errorf("remembered of another: %q", v)
	}
	takes(h)
	other := *res
	other.Version = strings.Repeat("0", hashLength)
	h.put(&other)
	if told, _ := takes(h); len(told) != 10 || len(h.disputed) > 0 {
		t.Errorf("%d told of, disputed: %v", len(told), h.disputed)
	}
	if h.put(res); len(h.changed.m) > 0 {
		t.Errorf("nobody refused it, and %d are marked", len(h.changed.m))
	}
	if v := h.remembers(s.Node, res); v != "" {
		t.Errorf("still remembered: %q", v)
	}
}

// That an Envoy accepted a listener is a sign of life in each of its books, though it is written down in none.
func TestAnAcceptedListenerIsASignOfLife(t *testing.T) {
	h := crowded(t, 2)
	at := time.Unix(2e9, 0)
	h.now = func() time.Time { return at }
	s := hears(t, h, "edge-a", "shop-00001")
	f := h.services["shop-00001"].force
	f.Accept(s.stream, *f.envoys, true, at)
	said := func() time.Time { return f.about(f.lastHeard(f.of("edge-a")[0])) }
	before := said()
	at = at.Add(time.Minute)
	says(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeListener})
	answersAll(t, s, "")
	if got := said(); got.Sub(before) != time.Minute {
		t.Errorf("heard %s after its last ACK of the route", got.Sub(before))
	}
	heard := said()
	s.close()
	at = at.Add(time.Minute)
	if got := said(); !got.Equal(heard) {
		t.Errorf("when it is gone: %s, not %s", got, heard)
	}
	f.Join(h.open(s.Node).stream, *f.envoys, at)
	if got := said(); !got.Equal(heard) {
		t.Errorf("when it has come back: %s, not %s", got, heard)
	}
}
