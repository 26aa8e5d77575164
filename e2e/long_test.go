package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// talker is a version that speaks WebSocket at /ws and streams a line every tenth of a second at /stream.
func talker(t *testing.T, version string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Version", version)
		fmt.Fprintln(w, version, r.Proto)
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Version", version)
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, data, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if c.Write(r.Context(), kind, data) != nil {
				return
			}
		}
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Version", version)
		for i := range 60 {
			fmt.Fprintln(w, i)
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
		fmt.Fprintln(w, "end")
	})
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return l.Addr().String()
}

// Only here something is under way through Envoy at the moment of the cut: a WebSocket and a stream that are open on a
// version when it is cut run to their end; with max_stream_duration they end by then. New ones go elsewhere at once.
func TestLongRequestsOutliveACut(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, envoy string) {
		for _, limit := range []time.Duration{0, 3 * time.Second} {
			t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
				t.Parallel()
				longRequests(t, envoy, limit)
			})
		}
	})
}

func longRequests(t *testing.T, envoy string, limit time.Duration) {
	// The timeout is shorter than what follows: it is not for sockets and not for what is being answered.
	s := newScene(t, setting{envoy: envoy, route: fmt.Sprintf("timeout: 10s, max_stream_duration: %s, testers: {header: x-tester, key: k}", limit), ramp: "ramp: {steps: [50%, 100%], hold: 1h}\n"})
	s.run(0, "deploy", "shop", "v2", "--endpoint", talker(t, "v2"))
	s.until(10*time.Second, "v2 in force", func() bool { return s.Version("shop", "v2").InForce })
	socket := dialUntil(t, s, "v2")
	defer socket.CloseNow()
	stream := streamUntil(t, s, "v2")
	defer stream.Close()
	began := time.Now()
	s.run(0, "abort", "shop", "v2")
	s.until(10*time.Second, "the cut in force", func() bool { return s.Version("shop", "v1").InForce })
	body := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(stream)
		body <- string(b[max(0, len(b)-4):])
	}()
	lived, cutOff := time.Duration(0), false
	for !cutOff && lived < 6*time.Second {
		time.Sleep(50 * time.Millisecond)
		cutOff = echo(t.Context(), socket) != nil
		lived = time.Since(began)
	}
	end := <-body
	t.Logf("after the cut the socket lived %s; the stream ended with %q", lived.Round(100*time.Millisecond), end)
	if limit == 0 && (cutOff || end != "end\n") {
		t.Errorf("cut off by a cut")
	}
	if limit > 0 && (!cutOff || end == "end\n") {
		t.Errorf("not ended by max_stream_duration")
	}
}

func echo(ctx context.Context, c *websocket.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		return err
	}
	_, got, err := c.Read(ctx)
	if err == nil && string(got) != "hello" {
		return fmt.Errorf("the echo was %q", got)
	}
	return err
}

// dialUntil opens sockets until one is on the version.
func dialUntil(t *testing.T, s *scene, version string) *websocket.Conn {
	t.Helper()
	for range 100 {
		c, resp, err := websocket.Dial(t.Context(), "ws://"+s.front+"/ws", nil)
		if err == nil && resp.Header.Get("X-Version") == version && echo(t.Context(), c) == nil {
			return c
		}
		if c != nil {
			c.CloseNow()
		}
	}
	t.Fatalf("no WebSocket to %s in 100 tries", version)
	return nil
}

func streamUntil(t *testing.T, s *scene, version string) io.ReadCloser {
	t.Helper()
	for range 100 {
		resp, err := http.Get("http://" + s.front + "/stream")
		if err != nil {
			t.Fatal(err)
		}
		if resp.Header.Get("X-Version") == version {
			return resp.Body
		}
		resp.Body.Close()
	}
	t.Fatalf("no stream of %s in 100 tries", version)
	return nil
}

// HTTP/2 clients are served on the same listener.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, envoy string) {
		s := newScene(t, setting{envoy: envoy})
		var p http.Protocols
		p.SetUnencryptedHTTP2(true)
		client := http.Client{Transport: &http.Transport{Protocols: &p}}
		resp, err := client.Get("http://" + s.front + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.Header.Get("X-Version") != "v1" {
			t.Errorf("%s %s from %q", resp.Proto, resp.Status, resp.Header.Get("X-Version"))
		}
	})
}
