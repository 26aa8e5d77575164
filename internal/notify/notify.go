// Package notify tells other systems what was decided, by HTTP. It is never in the way of a decision:
// each target has a queue and a goroutine of its own.
package notify

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sirupsen/logrus"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// The formats of a message.
const (
	JSON  = "json"  // the record as it stands in the history
	Slack = "slack" // {"text": "…"}, which Slack, Mattermost and others take
)

const (
	queued   = 1000             // messages that wait for a target; older ones are dropped
	patience = 15 * time.Minute // a message is tried for so long
	timeout  = 10 * time.Second // of one try
	sameFor  = 10 * time.Minute // within it a repeated message is not sent again
)

// Target is one receiver.
type Target struct {
	URL    string
	Events []rollout.Kind // none: DefaultEvents
	Format string         // none: JSON
	Client *http.Client
}

// DefaultEvents are what a person wants to know.
func DefaultEvents() []rollout.Kind {
	return []rollout.Kind{rollout.KindRolledBack, rollout.KindReturned, rollout.KindPromoted, rollout.KindHeld, rollout.KindAlarm, rollout.KindNack}
}

// Notifier sends records to its targets.
type Notifier struct {
	log     logrus.FieldLogger
	targets []*target
}

type target struct {
	Target
	name  string // the host: the path of a webhook is often its secret
	queue chan message
	told  map[string]time.Time
	last  map[string]string // by service: what it was told of that last

	mu      sync.Mutex
	lost    uint64   // messages that were given up or dropped
	since   uint64   // events up to it were told in an earlier life
	seen    uint64   // the newest event that was sent here
	pending []uint64 // messages that were queued and neither delivered nor given up, in order
}

type message struct {
	cursor uint64
	rollout.Record
}

// New makes a notifier.
func New(log logrus.FieldLogger, targets []Target) *Notifier {
	n := &Notifier{log: log}
	for _, t := range targets {
		if len(t.Events) == 0 {
			t.Events = DefaultEvents()
		}
		t.Format, t.Client = cmp.Or(t.Format, JSON), staying(cmp.Or(t.Client, http.DefaultClient))
		name := hostOf(t.URL)
		n.targets = append(n.targets, &target{Target: t, name: name, queue: make(chan message, queued), told: map[string]time.Time{}, last: map[string]string{}})
	}
	return n
}

// Send queues an event for every target that wants its kind and was not told it in an earlier life. It never
// waits: of a full queue the oldest message is dropped.
func (n *Notifier) Send(cursor uint64, r rollout.Record) {
	for _, t := range n.targets {
		if !t.takes(cursor, r.Kind) {
			continue
		}
		for sent := false; !sent; {
			select {
			case t.queue <- message{cursor, r}:
				sent = true
			default:
				select {
				case m := <-t.queue:
					t.loses()
					t.handles(m.cursor)
					n.log.WithField("target", t.name).Warn("a notification was dropped: the receiver does not keep up")
				default:
				}
			}
		}
	}
}

// Run delivers until ctx ends.
func (n *Notifier) Run(ctx context.Context) error {
	done := make(chan struct{})
	for _, t := range n.targets {
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				select {
				case <-ctx.Done():
					return
				case m := <-t.queue:
					if err := t.deliver(ctx, m.Record); ctx.Err() != nil {
						return // not handled: it is told in the next life
					} else if err != nil {
						t.loses()
						n.log.WithError(err).WithField("target", t.name).Error("a notification was not delivered")
					}
					t.handles(m.cursor)
				}
			}
		}()
	}
	for range n.targets {
		<-done
	}
	<-ctx.Done()
	return nil
}

func (t *target) loses() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost++
}

// Lost counts the messages that did not arrive, by target.
func (n *Notifier) Lost() map[string]uint64 {
	out := map[string]uint64{}
	for _, t := range n.targets {
		t.mu.Lock()
		out[t.name] += t.lost
		t.mu.Unlock()
	}
	return out
}

// deliver tries until it works, the receiver refuses the message, or patience ends.
func (t *target) deliver(ctx context.Context, r rollout.Record) error {
	key := fmt.Sprint(r.Service, "/", r.Version, "/", r.Attempt, "/", r.Kind, "/", r.Reason)
	if last, ok := t.told[key]; ok && r.At.Sub(last) < sameFor && (!moves(r.Kind) || t.last[r.Service] == key) {
		return nil
	}
	for k, at := range t.told {
		if r.At.Sub(at) >= sameFor {
			delete(t.told, k)
		}
	}
	body, err := t.body(r)
	if err != nil {
		return err
	}
	retries := backoff.NewExponentialBackOff()
	retries.MaxInterval = time.Minute
	_, err = backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, t.post(ctx, body) },
		backoff.WithBackOff(retries), backoff.WithMaxElapsedTime(patience))
	if err != nil {
		return fmt.Errorf("%s of %s %s: %w", r.Kind, r.Service, r.Version, err)
	}
	t.told[key], t.last[r.Service] = r.At, key
	return nil
}

// moves reports an event after which the service is another one: that is told again when another one was in between.
func moves(k rollout.Kind) bool {
	return k == rollout.KindPromoted || k == rollout.KindRolledBack || k == rollout.KindReturned || k == rollout.KindAborted
}

func (t *target) post(ctx context.Context, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.URL, bytes.NewReader(body))
	if err != nil {
		return backoff.Permanent(errors.New("the URL cannot be used"))
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "canaryd")
	resp, err := t.Client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) { // its text contains the URL, which may be a secret
			err = ue.Err
		}
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)) // for the connection's sake
	switch {
	case resp.StatusCode < 300:
		return nil
	case resp.StatusCode < 400: // to follow would be a GET: a login page answers it with 200, and nobody has read anything
		return backoff.Permanent(fmt.Errorf("the receiver redirects (%s) to %s: write the address that takes the message itself", resp.Status, hostOf(resp.Header.Get("Location"))))
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout:
		return fmt.Errorf("the receiver answers %s", resp.Status)
	}
	return backoff.Permanent(fmt.Errorf("the receiver refused it: %s", resp.Status))
}

func (t *target) body(r rollout.Record) ([]byte, error) {
	if t.Format == Slack {
		return json.Marshal(map[string]string{"text": slackEscaped(Text(r))})
	}
	return json.Marshal(r)
}

// Text is a record in a sentence.
func Text(r rollout.Record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %s", r.Service, r.Version, strings.ReplaceAll(string(r.Kind), "_", " "))
	if before, after := r.Before[r.Version], r.After[r.Version]; before != after {
		fmt.Fprintf(&b, " (%s -> %s)", share(before), share(after))
	}
	fmt.Fprintf(&b, ": %s (by %s)", r.Reason, r.By)
	return b.String()
}

// slackEscaped keeps what a container wrote from becoming a link, or a call to a whole channel.
func slackEscaped(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}

// staying is a client that follows no redirect.
func staying(c *http.Client) *http.Client {
	own := *c
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

// hostOf is what may be said of an address: its path is often its secret.
func hostOf(address string) string {
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		return u.Host
	}
	return "?"
}

func share(w int) string { return policy.Share(float64(w) / policy.FullWeight).String() }
