package access

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
)

// UnknownError says why a caller is not let in: no credentials, or wrong ones. What it says gives nothing away.
type UnknownError struct{ Message string }

func (e *UnknownError) Error() string { return e.Message }

// AwayError says that it cannot be found out now who a caller is: its issuer does not answer.
type AwayError struct{ Message string }

func (e *AwayError) Error() string { return e.Message }

func unknown(format string, args ...any) error { return &UnknownError{fmt.Sprintf(format, args...)} }

// Keeper finds out who a request is from. What it goes by may be replaced while it is asked.
type Keeper struct {
	config    atomic.Pointer[current]
	passwords passwords
	issuers   issuers
}

// NewKeeper makes a keeper. The client reaches the issuers of identity tokens; nil: a usual one.
func NewKeeper(c Config, client *http.Client) *Keeper {
	k := &Keeper{passwords: passwords{hashing: make(chan struct{}, 1)}, issuers: issuers{client: cmp.Or(client, http.DefaultClient), known: map[string]*issuer{}}}
	k.Set(c)
	return k
}

// current is what is gone by, until something else is.
type current struct {
	Config
	until chan struct{}
}

// Set replaces what the keeper goes by.
func (k *Keeper) Set(c Config) {
	if old := k.config.Swap(&current{c, make(chan struct{})}); old != nil {
		close(old.until)
	}
}

// Changed is closed when the keeper goes by something else: whoever was let in for long has to be asked again.
func (k *Keeper) Changed() <-chan struct{} { return k.config.Load().until }

// Guards reports whether anybody is asked who they are.
func (k *Keeper) Guards() bool { return k.config.Load().Guards() }

// Identify says who a request is from, by its Authorization header. Where nobody is asked who they are, anybody may
// do everything.
func (k *Keeper) Identify(r *http.Request) (Caller, error) {
	c := &k.config.Load().Config
	if !c.Guards() {
		who := Anyone()
		who.Name = certified(r)
		return who, nil
	}
	if user, password, ok := r.BasicAuth(); ok {
		return k.user(r, c, user, password)
	}
	token, isBearer := Bearer(r)
	switch {
	case isBearer:
		return k.bearer(r.Context(), c, token)
	case r.Header.Get("Authorization") != "":
		return Caller{}, unknown("the Authorization header is neither Basic nor Bearer: send a user and a password, or a bearer token")
	case c.Anonymous > None:
		return Caller{grants: []grant{{role: c.Anonymous}}}, nil
	}
	return Caller{}, unknown("canaryd wants to know who you are: send a user and a password, or a bearer token (the command line: CANARYD_TOKEN)")
}

// Bearer is the bearer token that a request carries.
func Bearer(r *http.Request) (token string, ok bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	return strings.TrimSpace(token), true
}

// user: without any rule users may do everything, as they could before there were rules.
func (k *Keeper) user(r *http.Request, c *Config, user, password string) (Caller, error) {
	if !k.passwords.check(r.Context(), peerOf(r), c.Users, user, password) {
		return Caller{}, unknown("the user or the password is wrong")
	}
	if len(c.Rules) == 0 {
		return Caller{Name: user, grants: []grant{{role: Admin}}}, nil
	}
	return Caller{Name: user, grants: c.of(func(r *Rule) bool { return r.User == user })}, nil
}

func (k *Keeper) bearer(ctx context.Context, c *Config, token string) (Caller, error) {
	if name, ok := c.Tokens.find(token); ok {
		return Caller{Name: name, grants: c.of(func(r *Rule) bool { return r.Token == name })}, nil
	}
	issuer := issuerOf(token)
	ours := c.of(func(r *Rule) bool { return issuer != "" && r.OIDC == issuer })
	switch {
	case issuer == "":
		return Caller{}, unknown("the bearer token is not known here: it is wrong, or was taken out of web.tokens_file")
	case len(ours) == 0:
		return Caller{}, unknown("the identity token is of an issuer that no rule of web.access names (%.100q)", issuer)
	}
	id, claims, err := k.issuers.verify(ctx, issuer, token)
	if err != nil {
		return Caller{}, err
	}
	if !slices.ContainsFunc(c.Rules, func(r Rule) bool { return r.OIDC == issuer && slices.Contains(id.Audience, r.Audience) }) {
		return Caller{}, unknown("the identity token is for the audience %.100q: the job has to ask for one with the audience that web.access names", strings.Join(id.Audience, ", "))
	}
	return Caller{Name: subject(id), Until: id.Expiry, grants: c.of(func(r *Rule) bool { return r.fits(id, claims) })}, nil
}

// certified is the name in the client certificate that TLS has verified.
func certified(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0]) == 0 {
		return ""
	}
	return nameIn(r.TLS.VerifiedChains[0][0])
}

func nameIn(c *x509.Certificate) string {
	if len(c.URIs) > 0 {
		return c.URIs[0].String()
	}
	return cmp.Or(strings.Join(c.EmailAddresses, ","), strings.Join(c.DNSNames, ","), c.Subject.CommonName)
}
