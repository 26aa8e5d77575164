package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/exporter-toolkit/web"

	canarydweb "github.com/canaryd/canaryd/internal/web"
)

// oneConn is a listener with one connection, without any buffer.
type oneConn struct {
	conns chan net.Conn
	addr  net.TCPAddr
}

func (l *oneConn) Addr() net.Addr { return &l.addr }
func (l *oneConn) Close() error   { close(l.conns); return nil }
func (l *oneConn) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

// A client that does not read its answer is let go; a deadline of one answer is not that of the next on its connection.
func TestAnAnswerHasATimeOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		s := newWebServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/short" {
				_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(30 * time.Second))
				return
			}
			defer close(ended)
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}))
		client, server := net.Pipe()
		l := &oneConn{conns: make(chan net.Conn, 1)}
		l.conns <- server
		go func() { _ = s.Serve(l) }()
		defer s.Close()
		r := bufio.NewReader(client)
		for range 2 {
			if _, err := io.WriteString(client, "GET /short HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			time.Sleep(time.Minute)
		}
		if _, err := io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*time.Minute + time.Second)
		select {
		case <-ended:
		default:
			t.Fatal("it still waits for a client that does not read")
		}
	})
}

// What the file's rate limit turns away is told so as by the API.
func TestTooManyRequestsAreAProblem(t *testing.T) {
	h := configured(http.NotFoundHandler(), &web.Config{RateLimiterConfig: web.RateLimiterConfig{Burst: 1, Interval: time.Hour}})
	var w *httptest.ResponseRecorder
	for range 2 {
		w = httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/services", nil))
	}
	var p canarydweb.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != http.StatusTooManyRequests || p.Status != w.Code || w.Header().Get("Content-Type") != "application/problem+json" || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}
