package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/web"
)

// A canaryd that hangs, or something in between, takes connections and answers nothing: --timeout counts from the beginning.
func TestTheTimeoutIsOfTheAnnouncementToo(t *testing.T) {
	t.Parallel()
	hung := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hung }))
	defer s.Close()
	defer close(hung)
	for command, want := range map[string]string{
		"deploy shop v2 --endpoint a:1 --wait --timeout 200ms": "the time is up: v2 may have been announced or not: `canaryd status shop` says it",
		"promote shop v2 --wait --timeout 200ms":               "what it was told to do it may have done: `canaryd status` says it",
		"wait shop v2 --timeout 200ms":                         "no canaryd has answered at",
	} {
		ended := make(chan int, 1)
		var out, errOut bytes.Buffer
		go func() {
			ended <- execute(t.Context(), append(strings.Fields(command), "--url", s.URL), strings.NewReader(""), &out, &errOut)
		}()
		select {
		case code := <-ended:
			if code != exitError || !strings.Contains(errOut.String(), want) {
				t.Errorf("canaryd %s: exit %d: %s%s", command, code, &out, &errOut)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("canaryd %s does not end", command)
		}
	}
}

// Whoever waits for no outcome waits for no answer for ever either, and an announcement that was not answered is said again.
func TestAnAnswerIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	hung := make(chan struct{})
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			<-hung
		}
		_, _ = w.Write([]byte(`{"version": "v2", "phase": "failed"}`))
	}))
	defer s.Close()
	defer close(hung)
	c := &client{base: s.URL, patience: 100 * time.Millisecond}
	_, err := c.service(context.Background(), "shop")
	if err == nil || !unheard(err) || !strings.Contains(err.Error(), "Try: look whether it hangs") {
		t.Error(err)
	}
	asked.Store(0)
	d := deployment{client: c, service: "shop", version: "v2"}
	cmd := deployCommand()
	var talk bytes.Buffer
	cmd.SetErr(&talk)
	cmd.SetContext(t.Context())
	c.patience = 500 * time.Millisecond
	if err := d.announce(cmd, "/api/v1/services/shop/versions/v2", web.Announcement{Endpoints: []string{"a:1"}}, true, 0); err != nil || d.v.Version != "v2" || strings.Count(talk.String(), "Announcing it again") != 1 {
		t.Errorf("%v\n%s", err, &talk)
	}
}

// Many jobs that announce at once are asked to come again (rate_limit of the web-config file): with --wait they do, and no release fails by that.
func TestAnAnnouncementThatComesAtABusyMomentIsSaidAgain(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n := asked.Add(1); {
		case r.Method == http.MethodPut && n < 3:
			web.Refuse(w, http.StatusTooManyRequests, "more requests come than rate_limit lets through")
		case r.Method == http.MethodPut:
			_, _ = w.Write([]byte(`{"version": "v2", "phase": "stable", "attempt": 1}`))
		default:
			_, _ = w.Write([]byte(`{"service": "shop", "versions": [{"version": "v2", "phase": "stable", "attempt": 1, "in_force": true, "endpoints": ["a:1"]}]}`))
		}
	}))
	defer s.Close()
	var out, errOut bytes.Buffer
	deploy := strings.Fields("deploy shop v2 --endpoint a:1 --timeout 1m --wait --url " + s.URL)
	if code := execute(t.Context(), deploy, strings.NewReader(""), &out, &errOut); code != exitOK || strings.Count(errOut.String(), "Announcing it again") != 1 {
		t.Errorf("exit %d: %s%s", code, &out, &errOut)
	}
	asked.Store(0)
	if code := execute(t.Context(), append(deploy[:5:5], "--url", s.URL), strings.NewReader(""), &out, &errOut); code != exitError || !strings.Contains(errOut.String(), "rate_limit") {
		t.Errorf("without --wait: exit %d: %s", code, &errOut)
	}
}
