package access

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/canaryd/canaryd/internal/policy"
)

const (
	issuerWithin = 5 * time.Second  // an issuer answers by then
	issuerAgain  = 10 * time.Second // one that does not is asked again after so long
	keysFor      = 15 * time.Minute // then an issuer is asked anew: it may have withdrawn a key
)

// issuers know the keys of those who issue identity tokens. They are asked when the first token comes: canaryd starts
// without them.
type issuers struct {
	client  *http.Client
	keysFor time.Duration

	mu    sync.Mutex
	known map[string]*issuer
}

// issuer is one of them. One that hangs holds up those who come with its tokens, and nobody else.
type issuer struct {
	mu       sync.Mutex
	provider *oidc.Provider // nil: it has not answered yet
	askedAt  time.Time      // when it answered
	failedAt time.Time      // when it last did not, since then
	err      error          // without a provider
}

// issuerOf is who a token says that it is from: nothing is verified yet. Empty: it is no identity token.
func issuerOf(token string) string {
	if strings.Count(token, ".") != 2 {
		return ""
	}
	var claims jwt.Claims
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA})
	if err != nil || parsed.UnsafeClaimsWithoutVerification(&claims) != nil {
		return ""
	}
	return claims.Issuer
}

func (is *issuers) named(name string) *issuer {
	is.mu.Lock()
	defer is.mu.Unlock()
	if is.known[name] == nil {
		is.known[name] = &issuer{}
	}
	return is.known[name]
}

// provider asks an issuer for its addresses and keys. The keys of one that does not answer any more are believed as before.
func (is *issuers) provider(name string) (*oidc.Provider, error) {
	i := is.named(name)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.provider != nil && time.Since(i.askedAt) < is.keysFor || time.Since(i.failedAt) < issuerAgain {
		return i.provider, i.err
	}
	switch p, err := is.ask(name); {
	case err == nil:
		i.provider, i.askedAt, i.failedAt, i.err = p, time.Now(), time.Time{}, nil
	case i.provider != nil:
		i.failedAt = time.Now()
	default:
		i.failedAt, i.err = time.Now(), fmt.Errorf("the issuer %s does not say how its tokens are verified: %w", name, err)
	}
	return i.provider, i.err
}

// ask has an issuer tell its addresses and its keys. The library would ask for the keys with the first token only, after those from
// before are dropped. It keeps the context for as long as the provider lives: a token with a new key has the keys fetched again.
func (is *issuers) ask(name string) (*oidc.Provider, error) {
	ctx := oidc.ClientContext(context.Background(), is.client)
	p, err := oidc.NewProvider(ctx, name)
	if err != nil {
		return nil, err
	}
	var says struct {
		Keys string `json:"jwks_uri"`
	}
	if err := p.Claims(&says); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, says.Keys, nil)
	if err != nil {
		return nil, err
	}
	resp, err := is.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", says.Keys, resp.Status)
	}
	return p, nil
}

// verify checks a token's signature and dates, and returns its subject, audiences and claims.
func (is *issuers) verify(ctx context.Context, issuer, token string) (*oidc.IDToken, map[string]any, error) {
	p, err := is.provider(issuer)
	if err != nil {
		return nil, nil, err
	}
	id, err := p.Verifier(&oidc.Config{SkipClientIDCheck: true}).Verify(ctx, token) // audiences differ by rule
	var expired *oidc.TokenExpiredError
	if errors.As(err, &expired) {
		return nil, nil, fmt.Errorf("the identity token expired at %s, and canaryd's clock says %s: the job has to ask for a new one, or that clock is wrong", expired.Expiry.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the identity token is not valid: %w", err)
	}
	var raw json.RawMessage
	claims := map[string]any{}
	if err = id.Claims(&raw); err == nil {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber() // 1234567 is not 1.234567e+06
		err = d.Decode(&claims)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the identity token's claims cannot be read: %w", err)
	}
	return id, claims, nil
}

// fits reports whether a verified token is one that the rule means.
func (r *Rule) fits(id *oidc.IDToken, claims map[string]any) bool {
	if r.OIDC != id.Issuer || !slices.Contains(id.Audience, r.Audience) {
		return false
	}
	for name, glob := range r.Claims {
		if !claimFits(claims[name], glob) {
			return false
		}
	}
	return true
}

func claimFits(v any, glob string) bool {
	if list, ok := v.([]any); ok {
		return slices.ContainsFunc(list, func(v any) bool { return claimFits(v, glob) })
	}
	return v != nil && policy.Matches(glob, fmt.Sprint(v))
}

// subject names a job in the history: issuers have subjects of their own.
func subject(id *oidc.IDToken) string {
	at := id.Issuer
	if u, err := url.Parse(id.Issuer); err == nil {
		at = u.Host
	}
	return id.Subject + " at " + at
}
