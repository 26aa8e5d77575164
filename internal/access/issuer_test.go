package access

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const press1 = "https://jobs.example.com"

// press is an issuer of identity tokens, reached without a network.
type press struct {
	mu    sync.Mutex
	set   jose.JSONWebKeySet
	asked int // how often it was asked for its keys, or for where they are, in vain

	trouble func(r *http.Request) (*http.Response, error) // nil: there is none
}

// issue has it sign with one key, and with no other any more.
func (p *press) issue(kid string, key *rsa.PrivateKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set.Keys = []jose.JSONWebKey{{Key: key.Public(), KeyID: kid, Algorithm: "RS256", Use: "sig"}}
}

func (p *press) troubled(trouble func(*http.Request) (*http.Response, error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trouble = trouble
}

func (p *press) times() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func hangs(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func answers(status int, v any) *http.Response {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(bytes.NewReader(raw))}
}

func (p *press) client() *http.Client { return &http.Client{Transport: p} }

func (p *press) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	set, trouble := p.set, p.trouble
	if trouble != nil || r.URL.Path == "/keys" {
		p.asked++
	}
	p.mu.Unlock()
	if trouble != nil {
		if resp, err := trouble(r); resp != nil || err != nil {
			return resp, err
		}
	}
	if r.URL.Path == "/keys" {
		return answers(http.StatusOK, set), nil
	}
	return answers(http.StatusOK, map[string]any{"issuer": press1, "jwks_uri": press1 + "/keys"}), nil
}

// gate is a keeper who lets in the jobs of an issuer.
type gate struct {
	*Keeper
	t *testing.T
}

func newGate(t *testing.T, client *http.Client, issuers ...string) *gate {
	var c Config
	for _, issuer := range issuers {
		c.Rules = append(c.Rules, Rule{OIDC: issuer, Audience: "canaryd", Claims: map[string]string{"sub": "job"}, Role: Deploy})
	}
	return &gate{NewKeeper(c, client), t}
}

// shows shows a token, and returns how long the answer took.
func (g *gate) shows(key *rsa.PrivateKey, kid string) (took time.Duration, err error) {
	g.t.Helper()
	token := "Bearer " + tokenOf(g.t, key, kid, press1, nil)
	begun := time.Now()
	_, err = identify(g.Keeper, token)
	return time.Since(begun), err
}

// admits shows a token that has to be let in, or not, by then.
func (g *gate) admits(what string, key *rsa.PrivateKey, kid string, want bool, within time.Duration) {
	g.t.Helper()
	if took, err := g.shows(key, kid); (err == nil) != want || took > within {
		g.t.Errorf("%s: let in: %v, want %v, after %s: %v", what, err == nil, want, took, err)
	}
}

// While an issuer hangs, those whose key is known wait for nobody, neither for it nor for those whose key is not known.
func TestAnIssuerThatHangsHoldsUpNoKnownKey(t *testing.T) {
	key, stranger := newKey(t), newKey(t)
	synctest.Test(t, func(t *testing.T) {
		p := &press{}
		p.issue("a", key)
		g := newGate(t, p.client(), press1)
		g.admits("first", key, "a", true, 0)
		p.troubled(hangs)
		before := p.times()
		var all sync.WaitGroup
		for at := time.Duration(0); at < time.Hour; at += 7 * time.Second {
			time.Sleep(7 * time.Second)
			all.Go(func() { g.admits("a stranger", stranger, "b", false, 2*issuerWithin) })
			synctest.Wait()
			g.admits(fmt.Sprint("after ", at), key, "a", true, 0)
		}
		all.Wait()
		if n, most := p.times()-before, int(time.Hour/issuerAgain); n > most || n < most/4 {
			t.Errorf("asked %d times in an hour, at most %d are meant", n, most)
		}
		time.Sleep(time.Hour) // whoever asks an issuer that is away does so for somebody
	})
}

// Where tokens come all the time, keys are asked for before anybody has to wait for them.
func TestKeysAreAskedForInTime(t *testing.T) {
	key := newKey(t)
	synctest.Test(t, func(t *testing.T) {
		p := &press{}
		p.issue("a", key)
		p.troubled(func(*http.Request) (*http.Response, error) { // there is none, but it takes its time
			time.Sleep(2 * time.Second)
			return nil, nil
		})
		g := newGate(t, p.client(), press1)
		g.admits("first", key, "a", true, 4*time.Second)
		for range 120 {
			time.Sleep(time.Minute)
			g.admits("later", key, "a", true, 0)
		}
		if n := p.times(); n > 40 {
			t.Errorf("asked %d times in two hours", n)
		}
		time.Sleep(time.Hour)
	})
}

// Where the keys are too old to be believed, all wait for one request; when that was in vain they are believed as before, and nobody waits.
func TestWhoeverWaitsForAnIssuerWaitsForOneRequest(t *testing.T) {
	key := newKey(t)
	synctest.Test(t, func(t *testing.T) {
		p := &press{}
		p.issue("a", key)
		g := newGate(t, p.client(), press1)
		g.admits("first", key, "a", true, 0)
		p.troubled(hangs)
		time.Sleep(24 * time.Hour)
		before := p.times()
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { g.admits("one of 50", key, "a", true, issuerWithin) })
		}
		all.Wait()
		g.admits("the next", key, "a", true, 0)
		if n := p.times() - before; n != 1 {
			t.Errorf("asked %d times, want once", n)
		}
		time.Sleep(time.Hour)
	})
}

// Who needs the first keys, or new ones, hears whether the issuer is away, and when to come again.
func TestWhoCannotBeFoundOutIsNotWrong(t *testing.T) {
	key, young := newKey(t), newKey(t)
	refused := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for name, c := range map[string]struct {
		trouble func(*http.Request) (*http.Response, error)
		away    bool
	}{
		"hangs":     {hangs, true},
		"is down":   {func(*http.Request) (*http.Response, error) { return nil, refused }, true},
		"is broken": {func(*http.Request) (*http.Response, error) { return answers(502, nil), nil }, true},
		"is busy":   {func(*http.Request) (*http.Response, error) { return answers(429, nil), nil }, true},
		"is none":   {func(*http.Request) (*http.Response, error) { return answers(404, nil), nil }, false},
		"is unknown": {func(*http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}
		}, false},
		"is another": {func(*http.Request) (*http.Response, error) {
			return answers(200, map[string]string{"issuer": "x"}), nil
		}, false},
		"has no keys": {func(*http.Request) (*http.Response, error) {
			return answers(200, map[string]string{"issuer": press1, "jwks_uri": press1 + "/keys"}), nil
		}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := &press{trouble: c.trouble}
			p.issue("a", key)
			g := newGate(t, p.client(), press1)
			says := func(when string, key *rsa.PrivateKey, kid string, away bool) {
				t.Helper()
				_, err := g.shows(key, kid)
				var isAway *AwayError
				var unknown *UnknownError
				if errors.As(err, &isAway) != away || errors.As(err, &unknown) == away || !strings.Contains(err.Error(), "does not say how its tokens are verified") {
					t.Errorf("an issuer that %s, %s: %v", name, when, err)
				}
			}
			says("at first", key, "a", c.away)
			says("at once again", key, "a", c.away)
			p.troubled(nil)
			time.Sleep(issuerAgain)
			g.admits("when it answers", key, "a", true, 0)
			p.troubled(c.trouble)
			time.Sleep(issuerAgain)
			says("by a new key", young, "b", c.away)
			g.admits("by the one from before", key, "a", true, 0)
			time.Sleep(time.Hour)
		})
	}
}

// Tokens with keys that nobody has cost an issuer little, and those who have one nothing.
func TestUnknownKeysAreNoStampede(t *testing.T) {
	key, stranger := newKey(t), newKey(t)
	synctest.Test(t, func(t *testing.T) {
		p := &press{}
		p.issue("a", key)
		g := newGate(t, p.client(), press1)
		g.admits("first", key, "a", true, 0)
		before := p.times()
		for range 60 {
			for range 3 {
				g.admits("a stranger", stranger, rand.Text(), false, 0)
				g.admits("a stranger with a known name", stranger, "a", false, 0)
			}
			g.admits("one of ours", key, "a", true, 0)
			time.Sleep(time.Second)
		}
		if n := p.times() - before; n > 6 || n < 5 {
			t.Errorf("asked %d times in a minute", n)
		}
	})
}

// A key that was withdrawn opens nothing after 15 minutes, whether others come meanwhile or nobody does, nor after its issuer was
// away: until that has told its keys, those from before are believed.
func TestAWithdrawnKeyIsForgotten(t *testing.T) {
	old, young := newKey(t), newKey(t)
	synctest.Test(t, func(t *testing.T) {
		for _, often := range []time.Duration{time.Second, time.Minute, 10 * time.Minute, 20 * time.Minute, 24 * time.Hour} {
			p := &press{}
			p.issue("k", old)
			g := newGate(t, p.client(), press1)
			g.admits("first", old, "k", true, 0)
			time.Sleep(time.Second)
			g.admits("a moment later", old, "k", true, 0)
			p.issue("k", young)
			for at := often; at < keysFor; at += often {
				time.Sleep(often)
				_, _ = g.shows(old, "k")
			}
			time.Sleep(often)
			g.admits(fmt.Sprintf("withdrawn, asked every %s", often), old, "k", false, 0)
			g.admits("the new one", young, "k", true, 0)
			p.troubled(func(r *http.Request) (*http.Response, error) { // its keys alone are away
				if r.URL.Path == "/keys" {
					return answers(502, nil), nil
				}
				return nil, nil
			})
			for at := time.Duration(0); at < 2*keysFor; at += often {
				time.Sleep(often)
				g.admits("away", young, "k", true, 0)
			}
			time.Sleep(often)
			p.issue("k", old)
			p.troubled(nil)
			if often < keysFor { // it is asked although nobody comes
				time.Sleep(issuerAgain + time.Second)
			}
			g.admits(fmt.Sprintf("back, asked every %s", often), young, "k", false, 0)
			g.admits("the one that it has then", old, "k", true, 0)
		}
		time.Sleep(time.Hour)
	})
}

// An issuer that has no keys any more has withdrawn all; an answer that is none withdraws nothing.
func TestAnEmptyListIsAList(t *testing.T) {
	key := newKey(t)
	for body, want := range map[string]bool{`{"keys":[]}`: false, `{"keys":[{"kty":"XY","kid":"a"}]}`: false, `{}`: true, `{"error":"try later"}`: true, `<html>`: true, `{"keys":null}`: true} {
		synctest.Test(t, func(t *testing.T) {
			p := &press{}
			p.issue("a", key)
			g := newGate(t, p.client(), press1)
			g.admits("first", key, "a", true, 0)
			p.troubled(func(r *http.Request) (*http.Response, error) {
				if r.URL.Path == "/keys" {
					return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(body))}, nil
				}
				return nil, nil
			})
			time.Sleep(keysFor)
			g.admits(body, key, "a", want, 0)
			time.Sleep(time.Hour)
		})
	}
}

// One issuer holds up no other, and who hangs up waits for none.
func TestIssuersAreOnTheirOwn(t *testing.T) {
	key := newKey(t)
	synctest.Test(t, func(t *testing.T) {
		p := &press{}
		p.issue("a", key)
		other := "https://other.example.com"
		p.troubled(func(r *http.Request) (*http.Response, error) {
			if strings.HasPrefix(other, "https://"+r.URL.Host) {
				return hangs(r)
			}
			return nil, nil
		})
		g := newGate(t, p.client(), press1, other)
		ctx, hangUp := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, _, err := g.issuers.verify(ctx, other, tokenOf(t, key, "a", other, nil))
			gone <- err
		}()
		synctest.Wait()
		g.admits("of another issuer", key, "a", true, 0)
		begun := time.Now()
		hangUp()
		if err := <-gone; err == nil || time.Since(begun) > 0 {
			t.Errorf("who has hung up is answered %v after %s", err, time.Since(begun))
		}
		time.Sleep(time.Hour)
	})
}
