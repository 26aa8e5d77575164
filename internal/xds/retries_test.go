package xds

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
)

// What an Envoy refused is not walked through each time that it is asked what goes out next: however many clusters that are, one
// costs about the logarithm of their number, and nothing to send costs nothing.
func TestWhatWasRefusedIsNotWalkedThrough(t *testing.T) {
	const services = 500
	h := NewHub(quietLog())
	for i := range services {
		at := table(1, nil)
		p := *at.Policy
		p.Service, at.Service, at.Policy = fmt.Sprintf("svc-%04d", i), fmt.Sprintf("svc-%04d", i), &p
		publish(t, h, at)
	}
	at := time.Now()
	h.now = func() time.Time { return at }
	s := h.open(Node{ID: "edge"})
	says(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster})
	queue := &s.inv.failed.queue
	for round, backoff := range []time.Duration{retryRefused, 2 * retryRefused} {
		queue.looks = 0
		answersAll(t, s, "no")
		if n := len(queue.all); n != services || len(s.inv.failed.by.m) != n || queue.looks > 60*n {
			t.Errorf("round %d: %d were looked at while %d of %d clusters were refused", round, queue.looks, n, services)
		}
		queue.looks = 0
		for range 100 {
			s.next()
		}
		if queue.looks > 200 {
			t.Errorf("round %d: %d were looked at where nothing is due", round, queue.looks)
		}
		if due, ok := s.inv.due(); !ok || !due.Equal(at.Add(backoff)) {
			t.Errorf("round %d: %v, due in %s", round, ok, due.Sub(at))
		}
		at = at.Add(backoff)
	}
	if answersAll(t, s, ""); len(queue.all)+len(s.inv.failed.by.m) > 0 || queue.all != nil {
		t.Errorf("all are accepted, and %d are sent again", len(queue.all))
	}
}

// In whatever order things are put, dropped and hurried, what is due first is taken first.
func TestRetriesAreTakenInOrder(t *testing.T) {
	for seed := range uint64(200) {
		r, plain, q := rand.New(rand.NewPCG(seed, 3)), map[Ref]time.Time{}, retries{}
		now := time.Unix(1e9, 0)
		earliest := func() (first time.Time) {
			for _, at := range plain {
				if first.IsZero() || at.Before(first) {
					first = at
				}
			}
			return first
		}
		for range 200 {
			of := Ref{TypeCluster, fmt.Sprint(r.IntN(30))}
			switch r.IntN(6) {
			case 0, 1, 2:
				plain[of] = now.Add(time.Second * time.Duration(1+r.IntN(100)))
				q.put(of, plain[of])
			case 3:
				delete(plain, of)
				q.drop(of)
			case 4:
				if q.hurry(of); !plain[of].IsZero() {
					plain[of] = time.Unix(0, 0)
				}
			case 5:
				now = now.Add(time.Second * time.Duration(r.IntN(10)))
				for of, ok := q.take(now); ok; of, ok = q.take(now) {
					if !plain[of].Equal(earliest()) || now.Before(plain[of]) {
						t.Fatalf("seed %d: %s is taken, due at %s, at %s; the first is due at %s", seed, of.Name, plain[of], now, earliest())
					}
					delete(plain, of)
				}
			}
			if at, ok := q.first(); ok != (len(plain) > 0) || ok && !at.Equal(earliest()) {
				t.Fatalf("seed %d: %v, due at %s, not %s", seed, ok, at, earliest())
			}
		}
	}
}

// What an Envoy refused and then let go, answering in another order than it was sent, is sent again at once: that it was refused is
// not known any more.
func TestWhatIsGoneIsNotWaitedFor(t *testing.T) {
	h := NewHub(quietLog())
	at := time.Now()
	h.now = func() time.Time { return at }
	s := h.open(Node{ID: "edge"})
	says(t, s, &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster})
	answersAll(t, s, "")
	var nonces []string
	sent := func(is bool) {
		t.Helper()
		r, nonce, ok := s.next()
		if !ok || len(r.parcels) != 1 || (r.parcels[0].res != nil) != is {
			t.Fatalf("sent %v %+v", ok, r)
		}
		nonces = append(nonces, nonce)
	}
	says := func(nonce string, refuses bool) {
		t.Helper()
		req := &discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResponseNonce: nonce}
		if refuses {
			req.ErrorDetail = &rpcstatus.Status{Message: "no"}
		}
		says(t, s, req)
	}
	publish(t, h, table(1, nil))
	sent(true)
	if err := h.Remove("shop"); err != nil {
		t.Fatal(err)
	}
	sent(false)
	publish(t, h, table(2, nil))
	sent(true)
	says(nonces[0], true)
	says(nonces[2], true)
	if r, _, ok := s.next(); ok {
		t.Errorf("what was refused is sent again: %+v", r)
	}
	says(nonces[1], false)
	sent(true)
	if n := len(s.inv.failed.by.m); n > 0 {
		t.Errorf("%d wait for their time", n)
	}
}
