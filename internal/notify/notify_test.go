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
			n.Send(1, record(rollout.KindAdvanced, "nobody asked for it"))
		}
		n.Send(1, record(rollout.KindRolledBack, "worse"))
		n.Send(1, record(rollout.KindRolledBack, "worse"))
		n.Send(1, record(rollout.KindPromoted, "proven"))
		if d := time.Since(began); d != 0 {
			t.Errorf("Send waited %s", d)
		}
		for i, want := range []rollout.Kind{rollout.KindRolledBack, rollout.KindPromoted} {
			var r rollout.Record
			if err := json.Unmarshal(<-got, &r); err != nil || r.Kind != want || r.Service != "shop" || r.Before["v2"] != 1000 {
				t.Errorf("message %d: %v %+v", i, err, r)
			}
		}
		if want, b := `{"text":"shop v2: rolled back (10% -\u0026gt; 0%): worse (by canaryd)"}`, string(<-texts); b != want {
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
			n.Send(1, record(rollout.KindAlarm, "again"))
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

// What is not delivered when canaryd stops is told in the next life, and nothing else again.
func TestWhatIsNotDeliveredIsToldInTheNextLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		var got []string
		receiver := pipe(t, func(w http.ResponseWriter, r *http.Request) {
			var rec rollout.Record
			if down.Load() || json.NewDecoder(r.Body).Decode(&rec) != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			got = append(got, rec.Reason)
		})
		marks := map[string]uint64{}
		life := func(newest uint64, events func(send func(cursor uint64, k rollout.Kind, reason string))) (after uint64) {
			n := New(quiet(), []Target{{URL: "http://x/hook", Client: receiver}})
			after = n.Resume(marks, newest)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { _ = n.Run(ctx); close(done) }()
			events(func(cursor uint64, k rollout.Kind, reason string) {
				n.Send(cursor, record(k, reason))
				time.Sleep(time.Second)
			})
			cancel()
			<-done
			marks = n.Marks()
			return after
		}
		type send = func(cursor uint64, k rollout.Kind, reason string)
		if after := life(4, func(s send) {
			s(5, rollout.KindPromoted, "a")
			s(6, rollout.KindAdvanced, "b")
			down.Store(true)
			s(7, rollout.KindPromoted, "c")
			s(8, rollout.KindAdvanced, "d")
		}); after != 4 {
			t.Errorf("a new receiver begins after %d", after)
		}
		down.Store(false)
		if after := life(9, func(s send) {
			for c := uint64(5); c < 10; c++ {
				s(c, rollout.KindPromoted, string(rune('a'+c-5)))
			}
		}); after != 6 {
			t.Errorf("it goes on after %d", after)
		}
		if want := "a c d e"; strings.Join(got, " ") != want {
			t.Errorf("told %v, want %s", got, want)
		}
		if after := life(2, func(send) {}); after != 2 {
			t.Errorf("after an older copy it goes on after %d", after)
		}
	})
}

// A redirect to a login page is no delivery; what a container wrote calls nobody in Slack.
func TestARedirectIsNoDelivery(t *testing.T) {
	asked := 0
	login := pipe(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.Redirect(w, r, "https://login.example.com/secret", http.StatusFound)
	})
	n := New(quiet(), []Target{{URL: "http://hook/", Client: login}})
	err := n.targets[0].deliver(t.Context(), record(rollout.KindPromoted, "proven"))
	if err == nil || !strings.Contains(err.Error(), "(302 Found) to login.example.com") || strings.Contains(err.Error(), "secret") || asked != 1 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	n = New(quiet(), []Target{{URL: "http://hook/", Format: Slack}})
	if b, err := n.targets[0].body(record(rollout.KindAlarm, "<!channel> & <https://evil|log in>")); err != nil || strings.ContainsAny(string(b), "<>") || strings.Contains(string(b), `\u003c`) {
		t.Errorf("%s %v", b, err)
	}
}

// A service that is back where it was is told of, however soon.
func TestAReturnIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		receiver := pipe(t, func(http.ResponseWriter, *http.Request) { n++ })
		target := New(quiet(), []Target{{URL: "http://x/", Client: receiver}}).targets[0]
		for _, v := range []string{"v2", "v2", "v1", "v2"} {
			r := record(rollout.KindPromoted, "promoted by hand")
			r.Version = v
			if err := target.deliver(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		if n != 3 {
			t.Errorf("told %d times", n)
		}
	})
}
