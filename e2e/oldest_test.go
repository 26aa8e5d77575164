package e2e

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// relay passes connections on, and may break them all.
type relay struct {
	address string
	mu      sync.Mutex
	open    []net.Conn
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{address: l.Addr().String()}
	t.Cleanup(func() { l.Close(); r.sever() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return // the test is over
			}
			go r.pass(near, to)
		}
	}()
	return r
}

func (r *relay) pass(near net.Conn, to string) {
	defer near.Close()
	far, err := net.Dial("tcp", to)
	if err != nil {
		return // whoever connected sees it end
	}
	defer far.Close()
	r.mu.Lock()
	r.open = append(r.open, near, far)
	r.mu.Unlock()
	go func() { _, _ = io.Copy(far, near); far.Close() }()
	_, _ = io.Copy(near, far) // ends with either side
}

// sever closes all connections; new ones are passed on as before.
func (r *relay) sever() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.open {
		c.Close()
	}
	r.open = nil
}

// Only here the oldest Envoy runs on the bootstrap that canaryd prints for it, without which it never reports a refused
// connection. A canary that refuses them is seen in its reports, and gets nothing as soon as canaryd's own probe is sure (3 s),
// with too few users for any judge. Reports go on after a break; Envoy waits 5 s before it opens their stream anew.
func TestTheOldestEnvoyReportsWhatIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t, setting{envoy: "envoy-oldest", relay: true, ramp: "ramp: {steps: [50%, 100%], hold: 1h}\n"})
	if out := s.run(0, "status"); strings.Contains(out, "loses load reports") {
		t.Errorf("its flag is not seen:\n%s", out)
	}
	s.load(4)
	v2 := s.version("v2")
	s.run(0, s.deploy(v2)...)
	s.until(30*time.Second, "reports of v2", func() bool { return s.Version("shop", "v2").Requests > 0 })

	s.relay.sever()
	severed := time.Now()
	time.Sleep(time.Second) // for what had arrived
	before := s.Version("shop", "v2").Requests
	s.until(30*time.Second, "reports after the break", func() bool { return s.Version("shop", "v2").Requests > before })
	within(t, "the first report after a break", time.Since(severed), 6*time.Second)

	if n := s.Version("shop", "v2").Errors; n > 0 {
		t.Fatalf("%g errors before anything failed", n)
	}
	v2.Close()
	refused := time.Now()
	s.until(30*time.Second, "v2 to get nothing", func() bool { return s.Version("shop", "v2").Weight == 0 })
	within(t, "from the first refused connection to weight 0", time.Since(refused), 4*time.Second)
	s.until(10*time.Second, "the errors to be reported", func() bool { return s.Version("shop", "v2").Errors > 0 })
	v := s.Version("shop", "v2")
	t.Logf("v2 is %s at %g: %+v, %g of %g requests failed", v.Phase, v.Weight, v.Verdict, v.Errors, v.Requests)
	if v.Phase != rollout.Warming {
		t.Errorf("v2 is %s at %g, by something else than the probe: %+v", v.Phase, v.Weight, v.Verdict)
	}
}
