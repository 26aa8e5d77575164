package registry

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/config"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
)

// watching is a registry that runs.
type watching struct {
	t    *testing.T
	sets chan Set
	log  *logtest.Hook
}

func watch(t *testing.T, o Options) *watching {
	t.Helper()
	w := &watching{t: t, sets: make(chan Set)}
	o.Log, w.log = logtest.NewNullLogger()
	o.Log.SetLevel(logrus.DebugLevel)
	r := New(o)
	r.retry = 50 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- r.Run(ctx, func(s Set) {
			select {
			case w.sets <- s:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("Run does not end")
		}
	})
	return w
}

// next waits for a set and says what is in it, as in `shop/v1: a:1 b:2`.
func (w *watching) next() (origin, versions string) {
	w.t.Helper()
	select {
	case s := <-w.sets:
		return s.Origin, said(s)
	case <-time.After(time.Minute):
		w.t.Fatalf("no set is handed over; logged: %s", w.logged())
		return "", ""
	}
}

func (w *watching) want(versions string) {
	w.t.Helper()
	if _, got := w.next(); got != versions {
		w.t.Fatalf("handed over %q, want %q", got, versions)
	}
}

// quiet waits for what must not come.
func (w *watching) quiet(d time.Duration) {
	w.t.Helper()
	select {
	case s := <-w.sets:
		w.t.Fatalf("handed over %+v", s)
	case <-time.After(d):
	}
}

func (w *watching) logged() string {
	var b strings.Builder
	for _, e := range w.log.AllEntries() {
		fmt.Fprintf(&b, "%s %s %v\n", e.Level, e.Message, e.Data)
	}
	return b.String()
}

func (w *watching) untilLogged(text string) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); !strings.Contains(w.logged(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%q is not logged, but %s", text, w.logged())
		}
	}
}

func said(s Set) string {
	var vs []string
	for _, v := range s.Versions {
		vs = append(vs, fmt.Sprintf("%s/%s: %s", v.Service, v.Version, strings.Join(v.Endpoints, " ")))
	}
	return strings.Join(vs, ", ")
}

// put writes a file as Prometheus' users do: a new one takes the old one's place.
func put(t *testing.T, path, text string) {
	t.Helper()
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one.yml"), filepath.Join(dir, "two.json")
	put(t, one, "- {targets: [b:2, a:1, b:2], labels: {service: shop, version: v1}}\n- {targets: [c:3], labels: {job: other}}\n")
	put(t, two, `[{"targets": ["d:4"], "labels": {"service": "shop", "version": "v2"}}, {"targets": ["e:5"], "labels": {"service": "shop", "version": "v1"}}]`)
	w := watch(t, Options{Files: []File{{Files: []string{dir + "/*.yml", dir + "/*.json"}, Refresh: time.Minute}}})
	w.want("shop/v1: a:1 b:2 e:5, shop/v2: d:4") // both files at once
	put(t, one, "- {targets: [a:1], labels: {service: shop, version: v1}}\n")
	w.want("shop/v1: a:1 e:5, shop/v2: d:4")
	put(t, one, "- {targets: [a:1], labels: {service: shop, version: v1, team: x}}\n") // says nothing else
	put(t, one, "- {targets: [a:1")
	w.untilLogged("Error reading file")
	w.quiet(300 * time.Millisecond)
	if err := os.Remove(two); err != nil {
		t.Fatal(err)
	}
	w.want("shop/v1: a:1")
	if err := os.Remove(one); err != nil {
		t.Fatal(err)
	}
	w.want("")
	put(t, two, `[{"targets": ["d:4"], "labels": {"service": "shop", "version": "v2"}}]`)
	w.want("shop/v2: d:4")
}

// A file that says nothing of versions is something to know as well.
func TestNothingIsASetToo(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/targets.json", "[]")
	w := watch(t, Options{Files: []File{{Files: []string{dir + "/*.json"}, Refresh: time.Minute}}})
	if origin, versions := w.next(); origin != "file_sd ["+dir+"/*.json]" || versions != "" {
		t.Errorf("%s named %q", origin, versions)
	}
}

// server answers as it is told.
type server struct {
	status atomic.Int32
	body   atomic.Value
	asked  atomic.Int32
}

func (s *server) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	s.asked.Add(1)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(s.status.Load()))
	fmt.Fprint(w, s.body.Load())
}

func (s *server) say(status int, body string) {
	s.body.Store(body)
	s.status.Store(int32(status))
}

// askedAgain waits until the server was asked twice more: what it said before is known by then.
func (s *server) askedAgain(t *testing.T) {
	t.Helper()
	for n, end := s.asked.Load()+2, time.Now().Add(time.Minute); s.asked.Load() < n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody asks")
		}
	}
}

func TestURLs(t *testing.T) {
	s := &server{}
	s.say(200, `[{"targets": ["a:1"], "labels": {"service": "shop", "version": "v1"}}, {"targets": ["b:2"], "labels": {"service": "cart", "version": "v7"}}]`)
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	w := watch(t, Options{URLs: []URL{{URL: srv.URL + "/targets", Refresh: 50 * time.Millisecond}}})
	if origin, versions := w.next(); origin != "http_sd "+srv.URL+"/targets" || versions != "cart/v7: b:2, shop/v1: a:1" {
		t.Fatalf("%s named %q", origin, versions)
	}
	s.say(200, `[{"targets": ["a:1", "c:3"], "labels": {"service": "shop", "version": "v1"}}]`)
	w.want("shop/v1: a:1 c:3")
	for _, bad := range []struct {
		status int
		body   string
	}{{500, "[]"}, {404, "[]"}, {200, "{"}, {200, `{"targets": []}`}, {200, "[null]"}} {
		s.say(bad.status, bad.body)
		s.askedAgain(t)
		w.quiet(gather + 50*time.Millisecond)
	}
	s.say(200, "[]")
	w.want("")
	srv.Close()
	w.untilLogged("connection refused")
	w.quiet(gather)
}

// One origin cannot be made: the others are watched all the same, it is told once, and it is watched
// when it can be.
func TestAMissingCAStopsNobodyElse(t *testing.T) {
	s := &server{}
	s.say(200, `[{"targets": ["a:1"], "labels": {"service": "shop", "version": "v1"}}]`)
	srv := httptest.NewTLSServer(s)
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	put(t, dir+"/targets.yml", "- {targets: [b:2], labels: {service: shop, version: v2}}\n")
	w := watch(t, Options{
		URLs:  []URL{{URL: srv.URL, Refresh: time.Minute, HTTP: config.HTTPClientConfig{TLSConfig: config.TLSConfig{CAFile: ca}}}},
		Files: []File{{Files: []string{dir + "/*.yml"}, Refresh: time.Minute}},
	})
	w.want("shop/v2: b:2")
	w.untilLogged(ca)
	time.Sleep(300 * time.Millisecond)
	if n := strings.Count(w.logged(), "until this is mended"); n != 1 || !strings.Contains(w.logged(), "origin:http_sd "+srv.URL) {
		t.Errorf("told %d times: %s", n, w.logged())
	}
	put(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	if origin, versions := w.next(); origin != "http_sd "+srv.URL || versions != "shop/v1: a:1" {
		t.Errorf("%s named %q", origin, versions)
	}
}

// Neither an origin's name nor what is logged has credentials in it.
func TestCredentialsStayHidden(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	address := strings.TrimPrefix(srv.URL, "http://")
	srv.Close()
	w := watch(t, Options{URLs: []URL{
		{URL: "http://robot:swordfish@" + address + "/t?token=sesame&dc=1", Refresh: time.Minute},
		{URL: "http://" + address + "/t?token=sesame&dc=2", Refresh: time.Minute},
		{URL: "http://swordfish@" + address + "/u", Refresh: time.Minute},
	}})
	for _, name := range []string{"origin:http_sd http://" + address + "/t]", "origin:http_sd http://" + address + "/t #2]", "origin:http_sd http://" + address + "/u]"} {
		w.untilLogged(name)
	}
	if l := w.logged(); strings.Contains(l, "swordfish") || strings.Contains(l, "sesame") || strings.Contains(l, "robot") {
		t.Errorf("logged: %s", l)
	}
}

// Prometheus' reader ends the process at a file whose ending it does not know.
func TestEndingsOfFiles(t *testing.T) {
	for name, ok := range map[string]bool{"a.yml": true, "dir/*.YAML": true, "*.json": true, "targets": false, "targets/*": false, "a.yml.bak": false} {
		if err := (File{Files: []string{name}}).Check(); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	put(t, dir+"/README", "- {targets: [a:1], labels: {service: shop, version: v1}}\n")
	w := watch(t, Options{Files: []File{{Files: []string{dir + "/*"}, Refresh: time.Minute}}})
	w.untilLogged("end in .json, .yml or .yaml")
}

// Every start ends when it is told to, whatever could not be made.
func TestManyStarts(t *testing.T) {
	var wg sync.WaitGroup
	ends := make([]bool, 12)
	for i := range ends {
		wg.Go(func() {
			log, _ := logtest.NewNullLogger()
			r := New(Options{Log: log, Files: []File{{Files: []string{"/nowhere/*.yml"}, Refresh: time.Minute}}, URLs: []URL{{URL: "http://127.0.0.1:1/", Refresh: time.Minute,
				HTTP: config.HTTPClientConfig{TLSConfig: config.TLSConfig{CAFile: "/no/such/ca.pem"}}}}})
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx, func(Set) {}) }()
			select {
			case err := <-done:
				ends[i] = err == nil && ctx.Err() != nil
			case <-time.After(time.Minute):
			}
		})
	}
	wg.Wait()
	if slices.Contains(ends, false) {
		t.Errorf("which ended: %v", ends)
	}
}
