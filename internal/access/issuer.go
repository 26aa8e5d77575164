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
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/canaryd/canaryd/internal/policy"
)

const (
	issuerAgain = 10 * time.Second // an issuer is asked no sooner again: tokens with keys that nobody has are easily made
	keysFor     = 15 * time.Minute // then an issuer is asked anew before its keys are believed: it may have withdrawn one
)

// issuers know the keys of those who issue identity tokens. They are asked when the first token comes: canaryd starts
// without them.
type issuers struct {
	client *http.Client

	mu    sync.Mutex
	known map[string]*issuer
}

// issuer is one of them. Those whose key is known wait neither for an issuer that hangs nor for those who need a new key.
type issuer struct {
	ask func() (*keys, error)

	mu       sync.Mutex
	keys     *keys         // that it told last; nil: none yet
	toldAt   time.Time     // when it was asked for them
	endedAt  time.Time     // when it was last asked, in vain or not
	wantedAt time.Time     // when somebody last came with a token of its
	err      error         // why it was asked in vain the last time
	away     bool          // it was, and is asked again and again until it answers: until then its keys are believed as before
	asking   chan struct{} // closed when the request under way ends; nil: there is none
}

// issuerOf is who a token says that it is from: nothing is verified yet. Empty: it is no identity token.
func issuerOf(token string) string {
	if strings.Count(token, ".") != 2 {
		return ""
	}
	var claims jwt.Claims
	parsed, err := jwt.ParseSigned(token, algorithms())
	if err != nil || parsed.UnsafeClaimsWithoutVerification(&claims) != nil {
		return ""
	}
	return claims.Issuer
}

func (is *issuers) named(name string) *issuer {
	is.mu.Lock()
	defer is.mu.Unlock()
	if is.known[name] == nil {
		is.known[name] = &issuer{ask: func() (*keys, error) { return askForKeys(is.client, name) }}
	}
	return is.known[name]
}

// told are the keys that the issuer has told last. Where they are too old, or a token's key is not among those that were told
// before, they are asked for; all who wait for that wait for one request.
func (i *issuer) told(ctx context.Context, before *keys) (*keys, error) {
	i.mu.Lock()
	i.wantedAt = time.Now()
	age := time.Since(i.toldAt)
	enough := i.keys != nil && i.keys != before && (age < keysFor || i.away)
	if !enough || age > keysFor/2 { // early enough that nobody waits for it
		i.begin()
	}
	asking := i.asking
	if enough || asking == nil {
		defer i.mu.Unlock()
		return i.keys, i.err
	}
	i.mu.Unlock()
	select {
	case <-asking:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys, i.err
}

// begin asks, unless that is under way or was a moment ago. Whoever calls it has the lock.
func (i *issuer) begin() {
	if i.asking != nil || !i.endedAt.IsZero() && time.Since(i.endedAt) < issuerAgain {
		return
	}
	begun := time.Now()
	i.asking = make(chan struct{})
	go func() {
		keys, err := i.ask()
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.err, i.endedAt = err, time.Now(); err == nil {
			i.keys, i.toldAt = keys, begun
		}
		if i.away = err != nil && i.keys != nil; i.away {
			time.AfterFunc(issuerAgain, i.again)
		}
		close(i.asking)
		i.asking = nil
	}()
}

// again asks an issuer that was away, until it answers or nobody comes with its tokens any more: whoever comes later waits for an answer.
func (i *issuer) again() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Since(i.wantedAt) > keysFor {
		i.away = false
		return
	}
	i.begin()
}

// verify checks a token's signature and dates, and returns its subject, audiences and claims.
func (is *issuers) verify(ctx context.Context, name, token string) (*oidc.IDToken, map[string]any, error) {
	i := is.named(name)
	known, unasked := i.told(ctx, nil)
	if known == nil {
		return nil, nil, cannotVerify(name, unasked)
	}
	id, missing, err := known.verify(ctx, token)
	if missing {
		newer, unasked := i.told(ctx, known)
		switch {
		case newer != nil && newer != known:
			id, _, err = newer.verify(ctx, token)
		case unasked != nil:
			return nil, nil, cannotVerify(name, unasked)
		}
	}
	var expired *oidc.TokenExpiredError
	if errors.As(err, &expired) {
		return nil, nil, unknown("the identity token expired at %s, and canaryd's clock says %s: the job has to ask for a new one, or that clock is wrong", expired.Expiry.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339))
	}
	if err != nil {
		return nil, nil, unknown("the identity token is not valid: %v", err)
	}
	claims, err := claimsOf(id)
	if err != nil {
		return nil, nil, unknown("the identity token's claims cannot be read: %v", err)
	}
	return id, claims, nil
}

// cannotVerify: a token may be good whose issuer is away, and one whose issuer is none is not.
func cannotVerify(issuer string, err error) error {
	says := fmt.Sprintf("the issuer %s does not say how its tokens are verified: %v", issuer, err)
	if isAway(err) {
		return &AwayError{says}
	}
	return &UnknownError{says}
}

func claimsOf(id *oidc.IDToken) (map[string]any, error) {
	var raw json.RawMessage
	if err := id.Claims(&raw); err != nil {
		return nil, err
	}
	claims := map[string]any{}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // 1234567 is not 1.234567e+06
	return claims, d.Decode(&claims)
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
