package web

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/rollout"
)

func TestEventsAreSentLive(t *testing.T) {
	s := newSite(t, "service: shop\n")
	resp, err := http.Get(s.URL + "/api/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	s.call("PUT", "/api/v1/services/shop/versions/v1", `{"endpoints":["127.0.0.1:1"]}`, 201, "Version")
	buf := make([]byte, 4096)
	n, err := resp.Body.Read(buf)
	if err != nil || !strings.HasPrefix(string(buf[:n]), "id: 1\nevent: announced\ndata: {") {
		t.Errorf("%v %s", err, buf[:n])
	}
}

func TestOnlySoManyListenToTheEvents(t *testing.T) {
	s := newSite(t, "service: shop\n")
	var open []*http.Response
	defer func() {
		for _, resp := range open {
			resp.Body.Close()
		}
	}()
	for range maxListeners {
		resp, err := http.Get(s.URL + "/api/v1/events")
		if err != nil {
			t.Fatal(err)
		}
		if open = append(open, resp); resp.StatusCode != 200 {
			t.Fatalf("listener %d: %s", len(open), resp.Status)
		}
	}
	p := s.call("GET", "/api/v1/events", "", 503, "Problem")
	if d, _ := p["detail"].(string); !strings.Contains(d, "256 clients are connected") {
		t.Errorf("it says %q", d)
	}
	open[0].Body.Close() // makes room
	deadline := time.Now().Add(time.Minute)
	for {
		resp, err := http.Get(s.URL + "/api/v1/events")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("no room for another although one has gone")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// One caller leaves room for others, and a token that is taken away hears nothing more.
func TestListenersAreAskedAgain(t *testing.T) {
	config, tokens := callers(t)
	keeper := access.NewKeeper(config, nil)
	s := newSiteWith(t, Options{Access: keeper}, "service: shop\n", "service: pay\n")
	listen := func(name string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/api/v1/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tokens[name])
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	views := listen("view")
	for range mostOfOne - 1 {
		listen("view")
	}
	if one, other := listen("view"), listen("other"); one.StatusCode != 503 || other.StatusCode != 200 || !strings.Contains(body(t, one), "64 clients of view are connected") {
		t.Errorf("%s, another caller %s", one.Status, other.Status)
	}
	deploys := listen("deploy")
	config.Rules = slices.DeleteFunc(slices.Clone(config.Rules), func(r access.Rule) bool { return r.Token == "view" })
	config.Tokens = maps.Clone(config.Tokens)
	maps.DeleteFunc(config.Tokens, func(_ [32]byte, name string) bool { return name == "view" })
	keeper.Set(config)
	if raw, err := io.ReadAll(views.Body); err != nil || len(raw) > 0 { // it ends
		t.Errorf("%q %v", raw, err)
	}
	if status, text, _ := s.as(tokens["deploy"], "PUT", "/api/v1/services/shop/versions/v1", `{"endpoints": ["127.0.0.1:1"]}`); status != 201 {
		t.Fatal(text)
	}
	if line, err := bufio.NewReader(deploys.Body).ReadString('\n'); err != nil || line != "id: 1\n" {
		t.Errorf("%q %v", line, err)
	}
}

// taking is a client that, while it is sent the first bytes, loses its token, and then there is an entry.
type taking struct {
	http.ResponseWriter
	sent  bytes.Buffer
	first func()
}

func (w *taking) SetWriteDeadline(time.Time) error { return nil }
func (w *taking) Flush()                           {}
func (w *taking) Write(b []byte) (int, error) {
	if w.first != nil {
		w.first()
		w.first = nil
	}
	return w.sent.Write(b)
}

// An entry that comes after a token was taken away is not sent any more, although nothing orders the two.
func TestWhatComesAfterARevocationIsNotSent(t *testing.T) {
	config, tokens := callers(t)
	for range 50 {
		a := &api{Options: Options{Access: access.NewKeeper(config, nil), Log: logrus.New()}}
		r := httptest.NewRequest("GET", "/api/v1/events", nil)
		r.Header.Set("Authorization", "Bearer "+tokens["view"])
		entries := make(chan controller.Entry, 1)
		w := &taking{ResponseWriter: httptest.NewRecorder()}
		w.first = func() {
			less := config
			less.Tokens = nil
			a.Access.Set(less)
			entries <- controller.Entry{Record: rollout.Record{Service: "shop", Kind: rollout.KindPromoted}}
		}
		a.follow(w, r, entries)
		if w.sent.Len() > 0 {
			t.Fatalf("it hears %s", &w.sent)
		}
	}
}

// A journal is not sent to its end when the role is taken away meanwhile.
func TestAJournalEndsWithTheRole(t *testing.T) {
	config, tokens := callers(t)
	keeper := access.NewKeeper(config, nil)
	s := newSiteWith(t, Options{Access: keeper}, strings.TrimSuffix(stableShop, "\n")+"\nroute: {probe: \"off\"}\n")
	if status, text, _ := s.as(tokens["operate"], "PUT", "/api/v1/services/shop/versions/v2", `{"endpoints": ["127.0.0.1:2"]}`); status != http.StatusCreated {
		t.Fatal(text)
	}
	read := func(meanwhile func()) (chunks int, whole bool) {
		r := httptest.NewRequest("GET", "http://localhost/api/v1/services/shop/journal", nil)
		r.Header.Set("Authorization", "Bearer "+tokens["operate"])
		w := &taking{ResponseWriter: httptest.NewRecorder(), first: meanwhile}
		s.Config.Handler.ServeHTTP(w, r)
		for stream := bufio.NewReader(&w.sent); ; chunks++ {
			if parts, err := journal.ReadFrame(stream); err != nil || len(parts) == 0 {
				return chunks, err == nil
			}
		}
	}
	chunks, whole := read(nil)
	for deadline := time.Now().Add(time.Minute); chunks == 0 && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		chunks, whole = read(nil)
	}
	less := config
	less.Tokens = nil
	if sent, ended := read(func() { keeper.Set(less) }); !whole || sent != 1 || ended {
		t.Errorf("%d chunks, to its end: %v; with the role %d chunks, %v", sent, ended, chunks, whole)
	}
}

// pipe is a connection without any buffer: what the client does not read is not written.
type pipe struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipe() *pipe { return &pipe{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error   { close(p.done); return nil }
func (p *pipe) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipe) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	p.conns <- server
	return client, nil
}

// A body that does not come holds nobody, also where no body is read: this caller is not known.
func TestABodyThatDoesNotComeIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logrus.New()
		log.SetOutput(io.Discard)
		l := newPipe()
		keeper := access.NewKeeper(access.Config{Users: map[string]string{"alice": "x"}}, nil)
		handler := NewHandler(Options{Log: log, Registry: prometheus.NewRegistry(), Access: keeper, Listener: l.Addr()})
		server := &http.Server{Handler: handler}
		go func() { _ = server.Serve(l) }()
		defer server.Close()
		for _, path := range []string{"/api/v1/services/shop/promote", "/-/reload", "/nowhere"} {
			conn, err := l.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(bodyWithin + time.Second))
			if raw, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(raw), "HTTP/1.1 40") {
				t.Errorf("%s: %q %v", path, raw, err)
			}
		}
	})
}

// One who may call is told that the body did not come, in words; a body that is longer than what is read is another matter.
func TestWhyABodyWasNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logrus.New()
		log.SetOutput(io.Discard)
		l := newPipe()
		server := &http.Server{Handler: NewHandler(Options{Log: log, Registry: prometheus.NewRegistry(), Listener: l.Addr(), HookToken: func() string { return "x" }})}
		go func() { _ = server.Serve(l) }()
		defer server.Close()
		for _, call := range []string{"POST /api/v1/services/shop/promote", "PUT /api/v1/services/shop/versions/v2", "POST /api/v1/hooks/registry"} {
			for sent, want := range map[int]string{0: `"status":408,"detail":"the body did not come within 10s"`, maxBody + 1: `"status":413,"detail":"the body is longer than 1048576 bytes`} {
				conn, err := l.dial(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					head := fmt.Sprintf("%s HTTP/1.1\r\nHost: localhost\r\nAuthorization: bearer x\r\nContent-Length: %d\r\n\r\n", call, max(sent, 10))
					_, _ = io.WriteString(conn, head+strings.Repeat(" ", sent)) // no more is read of it than is wanted
				}()
				_ = conn.SetReadDeadline(time.Now().Add(bodyWithin + time.Second))
				if raw, _ := io.ReadAll(conn); !strings.Contains(string(raw), want) {
					t.Errorf("%s, %d bytes are sent: %q", call, sent, raw)
				}
				conn.Close()
			}
		}
	})
}

// Over both protocols: a listener that hears only heartbeats for ten minutes stays; one that stops reading is let go.
func TestAListenerWhoDoesNotReadIsLetGo(t *testing.T) {
	var http1, http2 http.Protocols
	http1.SetHTTP1(true)
	http2.SetUnencryptedHTTP2(true)
	for name, protocols := range map[string]*http.Protocols{"HTTP/1.1": &http1, "HTTP/2.0": &http2} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { stopReading(t, name, protocols) }) })
	}
}

func stopReading(t *testing.T, name string, protocols *http.Protocols) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	a := &api{Options: Options{Log: log, Access: access.NewKeeper(access.Config{}, nil)}}
	entries, ended := make(chan controller.Entry, 16), make(chan struct{})
	l := newPipe()
	server := &http.Server{Protocols: protocols, WriteTimeout: 2 * time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		a.follow(w, r, entries)
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	transport := &http.Transport{Protocols: protocols, DialContext: l.dial}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://canaryd/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Proto != name {
		t.Fatalf("it is %s", resp.Proto)
	}
	lines := bufio.NewReader(resp.Body)
	for n := range 40 {
		beat, err := lines.ReadString('\n')
		_, err2 := lines.ReadString('\n')
		if beat != ": still here\n" || err != nil || err2 != nil {
			t.Fatalf("heartbeat %d: %q %v %v", n, beat, err, err2)
		}
	}
	for range cap(entries) { // more than HTTP/2 sends ahead
		entries <- controller.Entry{Record: rollout.Record{Kind: rollout.KindAnnounced, Reason: strings.Repeat("x", 1<<20)}}
	}
	time.Sleep(writeWithin - time.Second)
	select {
	case <-ended:
		t.Fatal("it was let go before its time")
	default:
	}
	time.Sleep(2 * time.Second)
	select {
	case <-ended:
	default:
		t.Error("it still waits for a client that does not read")
	}
}
