package access

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// jobs is an issuer that counts how often it is asked for its keys.
func jobs(t *testing.T, key *rsa.PrivateKey) (url string, asked *atomic.Int32) {
	asked = new(atomic.Int32)
	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": s.URL, "jwks_uri": s.URL + "/keys"})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "first", Algorithm: "RS256", Use: "sig"}}})
	})
	return s.URL, asked
}

func tokenOf(t *testing.T, key *rsa.PrivateKey, kid, issuer string, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{"iss": issuer, "sub": "job", "aud": "canaryd", "exp": time.Now().Add(time.Minute).Unix()}
	for k, v := range claims {
		all[k] = v
	}
	text, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func identify(k *Keeper, authorization string) (Caller, error) {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Authorization", authorization)
	return k.Identify(r)
}

func newKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// An issuer that hangs holds up its own jobs and no others; tokens with keys that nobody has cost an issuer little.
func TestIssuersInTrouble(t *testing.T) {
	key, stranger := newKey(t), newKey(t)
	good, asked := jobs(t, key)
	hanging := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hanging }))
	defer s.Close()
	defer close(hanging)
	rule := func(issuer string) Rule {
		return Rule{OIDC: issuer, Audience: "canaryd", Claims: map[string]string{"sub": "job"}, Role: Deploy}
	}
	k := NewKeeper(Config{Rules: []Rule{rule(good), rule(s.URL)}}, nil)
	bad := tokenOf(t, stranger, "first", s.URL, nil)
	go func() { _, _ = identify(k, "Bearer "+bad) }()
	time.Sleep(100 * time.Millisecond)
	begun := time.Now()
	if who, err := identify(k, "Bearer "+tokenOf(t, key, "first", good, nil)); err != nil || !who.May(Deploy, "shop") {
		t.Error(err)
	}
	if took := time.Since(begun); took > issuerWithin/2 {
		t.Errorf("a job of another issuer waited for %s", took)
	}
	for range 20 {
		if _, err := identify(k, "Bearer "+tokenOf(t, stranger, rand.Text(), good, nil)); err == nil {
			t.Fatal("a stranger's key")
		}
	}
	if n := asked.Load(); n > 2 {
		t.Errorf("20 tokens with unknown keys had the keys fetched %d times", n)
	}
}

// A key that an issuer has withdrawn opens nothing any more, also where no token with a new key has come; while the issuer is away
// its keys are believed as before.
func TestAWithdrawnKeyIsForgotten(t *testing.T) {
	old, young := newKey(t), newKey(t)
	var now atomic.Pointer[rsa.PrivateKey] // nil: it is away
	var keyless atomic.Bool                // its keys alone are away
	now.Store(old)
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := now.Load()
		switch {
		case key == nil, keyless.Load() && r.URL.Path == "/keys":
			w.WriteHeader(http.StatusBadGateway)
		case r.URL.Path == "/keys":
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "RS256", Use: "sig"}}})
		default:
			_ = json.NewEncoder(w).Encode(map[string]any{"issuer": s.URL, "jwks_uri": s.URL + "/keys"})
		}
	}))
	defer s.Close()
	rule := Rule{OIDC: s.URL, Audience: "canaryd", Claims: map[string]string{"sub": "job"}, Role: Deploy}
	k := NewKeeper(Config{Rules: []Rule{rule}}, s.Client())
	can := func(key *rsa.PrivateKey, want bool) {
		t.Helper()
		if _, err := identify(k, "Bearer "+tokenOf(t, key, "k", s.URL, nil)); (err == nil) != want {
			t.Errorf("let in: %v, want %v: %v", err == nil, want, err)
		}
	}
	can(old, true)
	now.Store(nil)
	can(old, true)
	k.issuers.keysFor = 0 // the time is over
	can(old, true)
	now.Store(young)
	keyless.Store(true)
	k.issuers.known[s.URL].failedAt = time.Time{} // and so is that until it is asked again
	can(old, true)
	keyless.Store(false)
	k.issuers.known[s.URL].failedAt = time.Time{}
	can(old, false)
	can(young, true)
}

// Claims are numbers, lists and truth values as well.
func TestClaimsOfEveryKind(t *testing.T) {
	key := newKey(t)
	issuer, _ := jobs(t, key)
	for glob, claims := range map[string]any{"1234567": 1234567, "12345678901234567": 12345678901234567, "true": true, "b*": []string{"a", "b1"}} {
		k := NewKeeper(Config{Rules: []Rule{{OIDC: issuer, Audience: "canaryd", Claims: map[string]string{"c": glob}, Role: Deploy}}}, nil)
		if who, err := identify(k, "Bearer "+tokenOf(t, key, "first", issuer, map[string]any{"c": claims})); err != nil || !who.May(Deploy, "shop") {
			t.Errorf("%s: %v %v", glob, who, err)
		}
		for _, other := range []any{12345678901234568, nil, false, []string{}, map[string]any{"b": "b"}} {
			if who, err := identify(k, "Bearer "+tokenOf(t, key, "first", issuer, map[string]any{"c": other})); err != nil || who.May(View, "shop") {
				t.Errorf("%s: %v is let in: %v", glob, other, err)
			}
		}
	}
}

// A rule for the jobs of GitHub's issuer that fits every job there is refused.
func TestClaimsKeepSomebodyOut(t *testing.T) {
	for glob, good := range map[string]bool{"acme/*": true, "*/*": false, "**": false, "?*/*": false, "*": false} {
		r := Rule{OIDC: "https://token.actions.githubusercontent.com", Audience: "canaryd", Claims: map[string]string{"repository": glob}, Role: Deploy}
		if err := r.Check(); (err == nil) != good {
			t.Errorf("%s: %v", glob, err)
		}
	}
}

// Who guesses passwords and hangs up keeps nobody waiting.
func TestGuessesOfThoseWhoAreGoneAreNotHashed(t *testing.T) {
	k := NewKeeper(Config{Users: map[string]string{"alice": nobody}}, nil)
	k.passwords.hashing <- struct{}{} // somebody else's
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
	r.SetBasicAuth("alice", "guess")
	if _, err := k.Identify(r); err == nil || !strings.Contains(err.Error(), "wrong") {
		t.Error(err)
	}
}
