package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

const (
	issuerWithin = 5 * time.Second // an issuer answers each of two requests by then
	issuerBytes  = 1 << 20         // more than any issuer's keys take
)

// algorithms are those by which identity tokens may be signed: none that takes a secret, nor none at all.
func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}
}

// keys are what an issuer told at one time. The library would fetch keys of its own accord, and keep whoever has a known one waiting.
type keys struct {
	issuer     string
	algorithms []string // that the issuer uses; none: RS256
	list       []jose.JSONWebKey
}

// askForKeys has an issuer tell its addresses, and its keys.
func askForKeys(client *http.Client, issuer string) (*keys, error) {
	var about struct {
		Issuer     string   `json:"issuer"`
		Keys       string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := get(client, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration", &about); err != nil {
		return nil, err
	}
	if about.Issuer != issuer {
		return nil, fmt.Errorf("it calls itself %.100q: web.access has to name it in the same way", about.Issuer)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := get(client, about.Keys, &set); err != nil {
		return nil, err
	}
	if set.Keys == nil {
		return nil, fmt.Errorf("%s has no list of keys", about.Keys)
	}
	k := &keys{issuer: issuer}
	for _, a := range algorithms() {
		for _, uses := range about.Algorithms {
			if uses == string(a) {
				k.algorithms = append(k.algorithms, uses)
			}
		}
	}
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if json.Unmarshal(raw, &key) == nil { // one that is not understood is to be ignored (RFC 7517)
			k.list = append(k.list, key)
		}
	}
	return k, nil
}

// get asks for a JSON document.
func get(client *http.Client, url string, into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), issuerWithin) // nobody's in particular: several wait for it
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Cache-Control", "no-cache")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return &statusError{url, resp.StatusCode}
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, issuerBytes)).Decode(into); err != nil { // what is longer is no JSON then
		return fmt.Errorf("%s: %w", url, err)
	}
	return nil
}

// statusError is an answer that is none.
type statusError struct {
	url    string
	status int
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: %d %s", e.url, e.status, http.StatusText(e.status))
}

// isAway reports whether an issuer may answer later what it does not now. A name that does not exist, a certificate that nobody knows
// and an answer that says something else do not mend themselves.
func isAway(err error) bool {
	var status *statusError
	var name *net.DNSError
	var network *net.OpError
	var slow net.Error
	switch {
	case errors.As(err, &status):
		return status.status >= http.StatusInternalServerError || status.status == http.StatusTooManyRequests
	case errors.As(err, &name) && name.IsNotFound:
		return false
	}
	return errors.As(err, &network) || errors.As(err, &slow) && slow.Timeout() || errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// verify checks a token by these keys; missing: none of them has signed it.
func (k *keys) verify(ctx context.Context, token string) (id *oidc.IDToken, missing bool, err error) {
	t := &trial{keys: k}
	id, err = oidc.NewVerifier(k.issuer, t, &oidc.Config{SkipClientIDCheck: true, SupportedSigningAlgs: k.algorithms}).Verify(ctx, token) // audiences differ by rule
	return id, t.missing, err
}

// trial is one token before some keys.
type trial struct {
	*keys
	missing bool
}

// VerifySignature returns what was signed.
func (t *trial) VerifySignature(_ context.Context, token string) ([]byte, error) {
	signed, err := jose.ParseSigned(token, algorithms()) // whether the issuer uses it was checked before
	if err != nil {
		return nil, err
	}
	kid := signed.Signatures[0].Header.KeyID
	for _, key := range t.list {
		if kid == "" || key.KeyID == kid {
			if payload, err := signed.Verify(&key); err == nil {
				return payload, nil
			}
		}
	}
	t.missing = true
	return nil, errors.New("it is by none of the keys that the issuer has")
}
