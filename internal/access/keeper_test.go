package access

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

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

// Claims are numbers, lists and truth values as well.
func TestClaimsOfEveryKind(t *testing.T) {
	key := newKey(t)
	p := &press{}
	p.issue("first", key)
	for glob, claims := range map[string]any{"1234567": 1234567, "12345678901234567": 12345678901234567, "true": true, "b*": []string{"a", "b1"}} {
		k := NewKeeper(Config{Rules: []Rule{{OIDC: press1, Audience: "canaryd", Claims: map[string]string{"c": glob}, Role: Deploy}}}, p.client())
		if who, err := identify(k, "Bearer "+tokenOf(t, key, "first", press1, map[string]any{"c": claims})); err != nil || !who.May(Deploy, "shop") {
			t.Errorf("%s: %v %v", glob, who, err)
		}
		for _, other := range []any{12345678901234568, nil, false, []string{}, map[string]any{"b": "b"}} {
			if who, err := identify(k, "Bearer "+tokenOf(t, key, "first", press1, map[string]any{"c": other})); err != nil || who.May(View, "shop") {
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
