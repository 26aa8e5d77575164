package xds

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// However many are accepted at a time, and wherever their names belong, what rests is in order and complete.
func TestWhatRestsIsInOrder(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		k := &kind{lists: &lists{}}
		var all []string
		for range 1 + r.IntN(12) {
			var of []parcel
			for range r.IntN(1 + r.IntN(100)) {
				name := fmt.Sprintf("svc-%03d", r.IntN(1000))
				if slices.Contains(all, name) {
					continue
				}
				res := &Resource{Type: TypeRoute, Name: name}
				all, of = append(all, name), append(of, parcel{ref: res.ref(), res: res})
				k.items.put(name, &item{sent: res, acked: res, answered: true})
			}
			k.rest(of)
			slices.Sort(all)
			if rests := slices.Collect(k.names()); !slices.Equal(rests, all) || len(k.items.m) > 0 {
				t.Fatalf("seed %d: %v rest, not %v; %d do not", seed, rests, all, len(k.items.m))
			}
		}
	}
}

// What an Envoy has accepted costs a pointer, in the order of names; what is changed is apart until that is accepted.
func TestWhatAnEnvoyHasAcceptedRests(t *testing.T) {
	h := NewHub(quietLog())
	const n = 1200
	var names []string
	for i := range n {
		at := table(1, map[string]int{"v2": 100})
		p := *at.Policy
		p.Service, at.Service, at.Policy = fmt.Sprintf("svc-%04d", i*7919%n), fmt.Sprintf("svc-%04d", i*7919%n), &p
		publish(t, h, at)
		names = append(names, at.Service)
	}
	s := h.open(Node{ID: "edge-1"})
	say := func(req *discovery.DeltaDiscoveryRequest) {
		t.Helper()
		req.TypeUrl = TypeRoute
		if err := s.receive(req); err != nil {
			t.Fatal(err)
		}
	}
	say(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: names})
	k := s.inv.kinds[TypeRoute]
	accept := func() (sent int) {
		for {
			r, nonce, ok := s.next()
			if !ok {
				return sent
			}
			sent += len(r.parcels)
			say(&discovery.DeltaDiscoveryRequest{ResponseNonce: nonce})
		}
	}
	if sent := accept(); sent != n || len(k.still) != n || len(k.items.m) > 0 || len(k.dirty.m) > 0 {
		t.Fatalf("%d were sent, %d rest, %d do not, %d are looked at", sent, len(k.still), len(k.items.m), len(k.dirty.m))
	}
	other := h.open(Node{ID: "edge-2"})
	if err := other.receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesSubscribe: names[:1]}); err != nil {
		t.Fatal(err)
	}
	say(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: names[5:6], ResourceNamesUnsubscribe: names[9:10]})
	if r, nonce, ok := s.next(); !ok || len(r.parcels) != 1 || len(k.still) != n-2 || len(k.items.m) != 1 {
		t.Fatalf("%d are sent again, %d rest", len(r.parcels), len(k.still))
	} else {
		say(&discovery.DeltaDiscoveryRequest{ResponseNonce: nonce})
	}
	if len(k.still) != n-1 || len(k.items.m) > 0 || k.item(names[9]) != nil || k.item(names[5]) != k.item(names[5]).acked.resting(true, false) {
		t.Errorf("%d rest, %d do not", len(k.still), len(k.items.m))
	}
	say(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: names[5:6]})
	_, nonce, _ := s.next()
	say(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: names[5:6]})
	say(&discovery.DeltaDiscoveryRequest{ResponseNonce: nonce})
	if sent := accept(); sent != 1 {
		t.Errorf("asked for once more before it was accepted, it is sent %d times", sent)
	}
	if s.close(); len(h.subs) != 1 {
		t.Errorf("%d names are asked for by nobody", len(h.subs)-1)
	}
}

// Of all that a stream asks for its list is shared, and of nothing that it has in between: no other stream has that.
func TestAListIsSharedWhenItIsWhole(t *testing.T) {
	h := NewHub(quietLog())
	for i := range 2*perResponse + 1 {
		at := table(1, nil)
		p := *at.Policy
		p.Service, at.Service, at.Policy = fmt.Sprintf("svc-%04d", i), fmt.Sprintf("svc-%04d", i), &p
		publish(t, h, at)
	}
	s := h.open(Node{ID: "edge"})
	req := &discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"*"}}
	for answers := 0; ; answers++ {
		if req.TypeUrl = TypeCluster; s.receive(req) != nil {
			t.Fatal("the stream ends")
		}
		if k := s.inv.kinds[TypeCluster]; k.shared != (answers == 3) {
			t.Errorf("after %d answers %d rest, shared: %t", answers, len(k.still), k.shared)
		}
		_, nonce, ok := s.next()
		if !ok {
			if answers != 3 {
				t.Errorf("%d answers", answers)
			}
			break
		}
		req = &discovery.DeltaDiscoveryRequest{ResponseNonce: nonce}
	}
}

// Edges that have the same have one list of it, until something of one of them changes; the others keep theirs as it was.
func TestEdgesThatHaveTheSameShareTheList(t *testing.T) {
	h := NewHub(quietLog())
	var names []string
	for i := range 3 * leastShared {
		at := table(1, map[string]int{"v2": 100})
		p := *at.Policy
		p.Service, at.Service, at.Policy = fmt.Sprintf("svc-%04d", i), fmt.Sprintf("svc-%04d", i), &p
		publish(t, h, at)
		names = append(names, at.Service)
	}
	say := func(s *session, req *discovery.DeltaDiscoveryRequest) {
		t.Helper()
		req.TypeUrl = TypeRoute
		if err := s.receive(req); err != nil {
			t.Fatal(err)
		}
		for {
			_, nonce, ok := s.next()
			if !ok {
				return
			}
			if err := s.receive(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResponseNonce: nonce}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var edges []*session
	list := func(i int) []*item { return edges[i].inv.kinds[TypeRoute].still }
	for i := range 3 {
		edges = append(edges, h.open(Node{ID: fmt.Sprint("edge-", i)}))
		say(edges[i], &discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: names})
		if len(list(i)) != len(names) || &list(i)[0] != &list(0)[0] {
			t.Errorf("edge %d has a list of its own, of %d", i, len(list(i)))
		}
	}
	for i := range 4 * len(h.lists.last) { // others have something else, each
		say(h.open(Node{ID: fmt.Sprint("part-", i)}), &discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: names[i : i+leastShared]})
		if i%(len(h.lists.last)/2) > 0 {
			continue
		}
		edges = append(edges, h.open(Node{ID: fmt.Sprint("late-", i)}))
		last := len(edges) - 1
		if say(edges[last], &discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: names}); &list(last)[0] != &list(0)[0] {
			t.Errorf("edge %d has a list of its own: that of the others was let go", last)
		}
	}
	before := slices.Clone(list(0))
	say(edges[1], &discovery.DeltaDiscoveryRequest{ResourceNamesUnsubscribe: names[7:8]})
	if !slices.Equal(list(0), before) || !slices.Equal(list(2), before) || len(list(1)) != len(names)-1 {
		t.Errorf("%d, %d and %d rest after edge 1 wanted one less", len(list(0)), len(list(1)), len(list(2)))
	}
	say(edges[1], &discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: names[7:8]})
	if !slices.Equal(list(1), before) || &list(1)[0] != &list(0)[0] || cap(list(1)) != len(before) {
		t.Errorf("edge 1 has the same again, and not the list")
	}
}

// When a hold ends, a route of it that waits for its turn is looked at as urgent again, though nothing of it is parked.
func TestARouteThatIsHeldNoLongerMayBeUrgent(t *testing.T) {
	inv := newInventory(&lists{})
	k, _ := inv.kind(TypeRoute)
	for _, name := range []string{"cart", "shop"} {
		res := &Resource{Type: TypeRoute, Name: name}
		k.items.put(name, &item{subscribed: true, sent: res, acked: res})
		k.mark(name)
		k.had.drop(name) // as where it was not urgent
	}
	if inv.released([]string{"search"}, false) || len(k.had.m) > 0 {
		t.Errorf("%v are looked at, of which nothing was held", k.had.m)
	}
	if _, looked := k.had.m["shop"]; looked || !inv.released([]string{"shop"}, false) {
		t.Error("nobody looks at it")
	}
	if _, looked := k.had.m["shop"]; !looked || len(k.had.m) != 1 {
		t.Errorf("%v are looked at", k.had.m)
	}
}
