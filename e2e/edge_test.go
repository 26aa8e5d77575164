package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Envoy's own default turns 574 of these away.
func TestAHealthyVersionTakesManyRequestsAtOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t, setting{})
	s.versions["v1"].Delay(2 * time.Second)
	codes := map[string]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	for range 2600 {
		all.Go(func() {
			what := ""
			if resp, err := client.Get("http://" + s.front + "/"); err != nil {
				what = err.Error()
			} else {
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				what = fmt.Sprint(resp.StatusCode, " ", strings.TrimSpace(string(body)))
			}
			mu.Lock()
			defer mu.Unlock()
			codes[what]++
		})
	}
	all.Wait()
	if codes["200 v1"] != 2600 {
		t.Errorf("answers: %v", codes)
	}
}

// limit edits the policy in flight.
func (s *scene) limit(limits string) {
	s.t.Helper()
	text := policyText(s.front, s.versions["v1"].Address, "ramp: {steps: [50%, 100%], hold: 1h}\n")
	if err := s.WritePolicy("shop.yml", strings.Replace(text, "route: {", "route: {limits: "+limits+", ", 1)); err != nil {
		s.t.Fatal(err)
	}
	if code, body := post(s.t, "http://"+s.Web+"/-/reload"); code >= 300 {
		s.t.Fatalf("%d %s", code, body)
	}
}

// A canary that is slower than stable meets the limits, and users are turned away. That is shown and is no error of it. What
// Envoy books for each kind of limit, and each Envoy and source for itself, only real ones show.
func TestWhatLimitsDropIsShownAndNoError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ envoy, source, limits string }{
		{"envoy-newest", "envoy", "{requests: 5}"}, {"envoy-newest", "envoy", "{connections: 4, pending: 1}"},
		{"envoy-oldest", "envoy", "{requests: 5}"}, {"envoy-newest", "prometheus", "{requests: 5}"}, {"envoy-oldest", "prometheus", "{requests: 5}"},
	} {
		t.Run(strings.Join([]string{c.envoy, c.source, c.limits}, " "), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, setting{envoy: c.envoy, source: c.source, scrape: time.Second, ramp: "ramp: {steps: [50%, 100%], hold: 1h}\n"})
			v2 := s.version("v2")
			v2.Delay(200 * time.Millisecond)
			s.run(0, s.deploy(v2)...)
			s.until(10*time.Second, "v2 in force", func() bool { return s.Version("shop", "v2").InForce })
			l := s.load(150)
			s.until(15*time.Second, "evidence", func() bool { return s.Version("shop", "v2").Requests > 30 })
			if sent := l.Count(); sent.Failed > 0 {
				t.Fatalf("users saw errors before there were limits: %s", sent)
			}
			s.limit(c.limits)
			s.until(10*time.Second, "150 drops", func() bool { return s.dropped() >= 150 })
			time.Sleep(time.Second)
			// Envoy does not show all its counters as of one moment: a scrape may have a few drops as errors before they are among the drops.
			if v := s.phase("v2", time.Second, rollout.Canary); v.Errors > 0.05*s.dropped() || v.Requests == 0 {
				t.Errorf("v2 has %g errors of %g requests: %+v", v.Errors, v.Requests, v.Verdict)
			}
			if out := s.run(0, "status", "shop"); !strings.Contains(out, "requests to v2 were dropped in the last minute by route.limits") {
				t.Errorf("not shown:\n%s", out)
			}
			sent := l.Stop()
			s.until(10*time.Second, "all drops to be counted", func() bool { return s.dropped() >= 0.8*float64(sent.Failed) })
			if n := s.dropped(); n > float64(sent.Failed) {
				t.Errorf("%g drops were counted, users saw %d: %s", n, sent.Failed, sent)
			}
		})
	}
}

// dropped is what canaryd counts, of both versions: on a busy machine stable meets the limits, too.
func (s *scene) dropped() (sum float64) {
	_, body := get(s.t, "http://"+s.Web+"/metrics")
	for line := range strings.Lines(body) {
		if _, n, ok := strings.Cut(line, "} "); ok && strings.HasPrefix(line, "canaryd_version_dropped_total{") {
			var one float64
			_, _ = fmt.Sscan(n, &one)
			sum += one
		}
	}
	return sum
}

// echoer answers with the request as it came.
func echoer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s under=%s for=%s", r.RequestURI, r.Header.Get("user_id"), r.Header.Get("X-Forwarded-For"))
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return l.Addr().String()
}

// What clients may send, and what reaches a version of it: docs/decisions.md says why each.
func TestTheListenerIsAnEdge(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, envoy string) {
		s := newScene(t, setting{envoy: envoy, first: echoer(t)})
		for _, c := range [][2]string{
			{"/a/../b", "/b"}, {"/a/./b", "/a/b"}, {"/a/%2e%2e/b", "/b"}, {"/../../b", "/b"}, {`/a\b`, "/a/b"},
			{"/a//b", "/a//b"}, {"/go/https://example.com/", "/go/https://example.com/"}, // a path within a path
			{"/projects/group%2Fproject", "/projects/group%2Fproject"}, {"/a%5Cb", "/a%5Cb"}, {"/a%20b?q=../x//y", "/a%20b?q=../x//y"},
		} {
			if got := raw(t, s.front, "GET "+c[0]+" HTTP/1.1\r\nHost: shop\r\nuser_id: 7\r\n\r\n"); !strings.HasPrefix(got, "200 "+c[1]+" under=7 ") {
				t.Errorf("%s came as %s, want %s", c[0], got, c[1])
			}
		}
		if got := raw(t, s.front, "GET / HTTP/1.1\r\nHost: shop\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"); !strings.Contains(got, "for=6.6.6.6,") {
			t.Errorf("who asked is not added to what it says: %s", got)
		}
		began := time.Now()
		got := raw(t, s.front, "GET / HTTP/1.1\r\nHost: shop\r\nX-Slow: ") // and nothing more
		if took := time.Since(began); !strings.HasPrefix(got, "408 ") || took < 9*time.Second {
			t.Errorf("headers that do not end: %s after %s", got, took)
		}
	})
}

// raw sends what no Go client would, and returns status and body.
func raw(t *testing.T, address, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, body)
}
