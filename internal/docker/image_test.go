package docker

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// An image that somebody removes between the pull and the container is pulled again; a network that is not there stays away.
func TestAnImageThatIsGoneAgain(t *testing.T) {
	for missing, ends := range map[string]bool{"image": false, "network": true} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Api-Version", "1.47")
			w.Header().Set("Content-Type", "application/json")
			if !strings.Contains(r.URL.Path, "/images/") || missing == "image" {
				w.WriteHeader(http.StatusNotFound)
			}
			_, _ = w.Write([]byte(`{"message": "no such ` + missing + `"}`))
		}))
		f := fleetOf(t, srv)
		want := Want{Service: "shop", Container: rollout.Container{Version: "v2", Attempt: 1, Image: "shop:v2", Goal: rollout.Start}, Spec: policy.Docker{Image: "shop", Port: 80}}
		w := &worker{}
		_, err := f.create(t.Context(), want, "c")
		if e := w.blame(want, err); e.Failed != ends || e.Note == "" {
			t.Errorf("no such %s: failed for good is %v: %s", missing, e.Failed, e.Note)
		}
		srv.Close()
	}
}

// A daemon that goes away in the middle of something, as when it is restarted, says nothing of the version: it is tried again until it is
// there. What it says in words does.
func TestADaemonThatGoesAwayBlamesNoVersion(t *testing.T) {
	cut := func(w http.ResponseWriter, begin string) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(c, begin)
		c.Close()
	}
	pulling := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n18\r\n{\"status\":\"Downloading\"}\r\n"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.47")
		switch {
		case strings.HasSuffix(r.URL.Path, "/images/create"):
			cut(w, pulling)
		case strings.HasSuffix(r.URL.Path, "/_ping"):
		case strings.HasSuffix(r.URL.Path, "/broken/start"):
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte(`{"message": "no space left on device"}`))
		case r.Method == http.MethodPost:
			cut(w, "")
		default:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"message": "no such image"}`))
		}
	}))
	defer srv.Close()
	f := fleetOf(t, srv)
	want := Want{Service: "shop", Container: rollout.Container{Version: "v2", Attempt: 1, Image: "shop:v2", Goal: rollout.Start}, Spec: policy.Docker{Image: "shop", Port: 80}}
	for what, c := range map[string]struct {
		do    func() error
		fails bool
	}{
		"a pull":         {func() error { return f.image(t.Context(), want, &worker{}) }, false},
		"a creation":     {func() error { _, err := f.create(t.Context(), want, "c"); return err }, false},
		"a start":        {func() error { return f.startOne(t.Context(), "c", "1") }, false},
		"a broken start": {func() error { return f.startOne(t.Context(), "broken", "1") }, true},
	} {
		w := &worker{}
		var e Event
		for range tries {
			e = w.blame(want, c.do())
		}
		if e.Failed != c.fails || e.Note == "" {
			t.Errorf("%s: failed for good is %v: %s", what, e.Failed, e.Note)
		}
	}
}

// What was tried in vain before a container could be made is no try of its start.
func TestTriesAreThoseOfOneStep(t *testing.T) {
	inVain := tries - 1
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.47")
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/images/create") && inVain > 0:
			inVain--
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte(`{"message": "the registry is away"}`))
		case strings.HasSuffix(r.URL.Path, "/images/create"):
			_, _ = w.Write([]byte(`{"status": "Downloaded"}`))
		case strings.HasSuffix(r.URL.Path, "/containers/create"):
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte(`{"Id": "c0ffee"}`))
		case strings.HasSuffix(r.URL.Path, "/start"):
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte(`{"message": "no address is free"}`))
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"message": "no such image"}`))
		}
	}))
	defer srv.Close()
	f := fleetOf(t, srv)
	want := Want{Service: "shop", Container: rollout.Container{Version: "v2", Attempt: 1, Image: "shop:v2", Goal: rollout.Start}, Spec: policy.Docker{Image: "shop", Port: 80, Replicas: 1}}
	w := &worker{goal: rollout.Start}
	var have []container.Summary
	for try := range 2*tries - 1 {
		_, err := f.start(t.Context(), want, have, w)
		e := w.blame(want, err)
		if strings.Contains(e.Note, "does not start") {
			have = []container.Summary{{Names: []string{"/" + want.name(0)}, State: container.StateCreated, Labels: map[string]string{LabelImage: want.Image}}}
		}
		if last := try == 2*tries-2; e.Failed != last {
			t.Errorf("try %d: failed for good is %v: %s", try+1, e.Failed, e.Note)
		}
	}
}

// An image may be known to several repositories; what a service's registry pushed is told by its own.
func TestDigestsOfAnImage(t *testing.T) {
	all := []string{"localhost:5000/shop@sha256:aaa0", "mirror:5000/shop@sha256:bbb0", "nginx@sha256:ccc0", "localhost:5000/shop@sha256:ddd0"}
	for i := range all { // a digest has 64 digits
		all[i] += "000000000000000000000000000000000000000000000000000000000000"
	}
	for image, want := range map[string][]string{
		"localhost:5000/shop:v2": {all[0][20:], all[3][20:]}, "mirror:5000/shop:v2": {all[1][17:]}, "docker.io/library/nginx": {all[2][6:]}, "other:v2": nil, "No Image": nil,
	} {
		if got := digests(image, all); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", image, got, want)
		}
	}
}

// fleetOf is a fleet whose Docker daemon is a server of the test.
func fleetOf(t *testing.T, srv *httptest.Server) *Fleet {
	t.Helper()
	log, _ := logtest.NewNullLogger()
	f, err := New(Options{Log: log, Store: stored(t), Host: "tcp://" + strings.TrimPrefix(srv.URL, "http://")})
	if err != nil {
		t.Fatal(err)
	}
	return f
}
