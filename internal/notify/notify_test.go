package notify

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/rollout"
)

func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// pipe serves a handler without a real network, so that time may be fake.
func pipe(t *testing.T, h http.HandlerFunc) *http.Client {
	return &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		done := make(chan struct{})
		go func() { defer close(done); h(w, r) }()
		select {
		case <-done:
			return w.Result(), nil
		case <-r.Context().Done():
			<-done
			return nil, r.Context().Err()
		}
	})}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func record(kind rollout.Kind, reason string) rollout.Record {
	return rollout.Record{At: time.Now(), Service: "shop", Version: "v2", Kind: kind, Reason: reason, By: "canaryd",
		Before: map[string]int{"v1": 9000, "v2": 1000}, After: map[string]int{"v1": 10000}}
}

// A receiver that is down for a while gets everything once, in order, in its format; one that hangs
// is in nobody's way; the same said twice is told once.
func TestNotificationsArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int64
		got := make(chan []byte, 100)
		flaky := pipe(t, func(w http.ResponseWriter, r *http.Request) {
			if tries.Add(1) <= 3 {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			b, _ := io.ReadAll(r.Body)
			got <- b
		})
		texts := make(chan []byte, 100)
		slack := pipe(t, func(_ http.ResponseWriter, r *http.Request) { b, _ := io.ReadAll(r.Body); texts <- b })
		hanging := pipe(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		n := New(quiet(), []Target{
			{URL: "http://flaky/hook", Client: flaky, Events: []rollout.Kind{rollout.KindRolledBack, rollout.KindPromoted}},
			{URL: "http://hangs/", Client: hanging},
			{URL: "http://slack/secret", Client: slack, Format: Slack},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { _ = n.Run(ctx); close(done) }()
		began := time.Now()
		for range 2000 {
			n.Send(record(rollout.KindAdvanced, "nobody asked for it"))
		}
		n.Send(record(rollout.KindRolledBack, "worse"))
		n.Send(record(rollout.KindRolledBack, "worse"))
		n.Send(record(rollout.KindPromoted, "proven"))
		if d := time.Since(began); d != 0 {
			t.Errorf("Send waited %s", d)
		}
		for i, want := range []rollout.Kind{rollout.KindRolledBack, rollout.KindPromoted} {
			var r rollout.Record
			if err := json.Unmarshal(<-got, &r); err != nil || r.Kind != want || r.Service != "shop" || r.Before["v2"] != 1000 {
				t.Errorf("message %d: %v %+v", i, err, r)
			}
		}
		if want, b := `{"text":"shop v2: rolled back (10% -\u003e 0%): worse (by canaryd)"}`, string(<-texts); b != want {
			t.Errorf("slack got %s", b)
		}
		time.Sleep(time.Hour)
		if len(got) > 0 || len(texts) != 1 { // promoted
			t.Errorf("%d and %d messages too many", len(got), len(texts)-1)
		}
		cancel()
		<-done
	})
}

// What the receiver refuses is not tried again, and a queue that is full drops the oldest.
func TestRefusedAndTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int64
		refusing := pipe(t, func(w http.ResponseWriter, _ *http.Request) { tries.Add(1); w.WriteHeader(http.StatusForbidden) })
		n := New(quiet(), []Target{{URL: "http://refuses/", Client: refusing}})
		for range 2 * queued {
			n.Send(record(rollout.KindAlarm, "again"))
		}
		if len(n.targets[0].queue) != queued {
			t.Errorf("%d are queued", len(n.targets[0].queue))
		}
		for len(n.targets[0].queue) > 1 {
			<-n.targets[0].queue
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_ = n.Run(ctx)
		if tries.Load() != 1 {
			t.Errorf("%d tries", tries.Load())
		}
	})
}

// An error never shows the URL: the path of a webhook is often its secret.
func TestErrorsKeepTheSecret(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	n := New(quiet(), []Target{{URL: "http://" + address + "/s3cret"}})
	err = n.targets[0].post(t.Context(), nil)
	if err == nil {
		t.Fatal("no error")
	}
	if s := err.Error(); strings.Contains(s, "s3cret") {
		t.Errorf("%s", s)
	}
}
