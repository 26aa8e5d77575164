package xds

import (
	"fmt"
	"io"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// crowded is a hub of so many services, all held by the same hosts but one, and of 200 nodes of which each is in the books of ten.
func crowded(t testing.TB, services int) *Hub {
	log := logrus.New()
	log.SetOutput(io.Discard)
	h := NewHub(log)
	var ps []Prepared
	for i := range services {
		p := policy.Default()
		p.Service = fmt.Sprintf("shop-%05d", i)
		p.Route.Listener, p.Route.Domains = "0.0.0.0:10000", []string{p.Service + ".example.com", "lent.example.com"}
		if i > 1 {
			p.Route.Domains = p.Route.Domains[:1]
		}
		ps = append(ps, h.Prepare(rollout.Table{Service: p.Service, Generation: 1, Policy: &p, Stable: "v1", Slots: []rollout.Run{{Version: "v1", Count: policy.FullWeight}}}))
	}
	for _, err := range h.Publish(ps...) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 {
		var nodes []string
		for n := range 200 {
			nodes = append(nodes, fmt.Sprintf("edge-%03d", n))
		}
		h.Restore(fmt.Sprintf("shop-%05d", i), []rollout.Crowd{{Version: "0123456789abcdef", Nodes: nodes}})
	}
	return h
}

// BenchmarkNewProcess is a node that comes back as a new process: it costs what it had.
func BenchmarkNewProcess(b *testing.B) {
	for _, services := range []int{10, 10_000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			h := crowded(b, services)
			for b.Loop() {
				h.nodes.of("edge-100").lost = true
				h.restarted("edge-100")
			}
		})
	}
}

// BenchmarkNewProcessByWalking asks every book, to compare with.
func BenchmarkNewProcessByWalking(b *testing.B) {
	h := crowded(b, 10_000)
	for b.Loop() {
		for name, s := range h.services {
			if len(s.force.of("edge-100")) > 0 {
				s.force.Restarted("edge-100")
				s.restarted = append(s.restarted, "edge-100")
				h.changes(name)
			}
		}
	}
}

// BenchmarkRestore is a start with one Envoy that had all services: a service costs the same, however many there are.
func BenchmarkRestore(b *testing.B) {
	for _, services := range []int{10, 10_000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			h, had := crowded(b, services), []rollout.Crowd{{Version: "0123456789abcdef", Nodes: []string{"edge-all"}}}
			for n := 0; b.Loop(); n++ {
				h.Restore(fmt.Sprintf("shop-%05d", n%services), had)
			}
		})
	}
}

// BenchmarkHandBack gives a host back to the other service that has it.
func BenchmarkHandBack(b *testing.B) {
	for _, services := range []int{10, 10_000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			h := crowded(b, services)
			var lent Ref
			for r, names := range h.listeners.claims {
				if len(names) == 2 {
					lent = r
				}
			}
			if lent == (Ref{}) {
				b.Fatal("no host is lent")
			}
			for b.Loop() {
				h.handBack(lent, "shop-00000")
			}
		})
	}
}
