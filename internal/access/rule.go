package access

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/canaryd/canaryd/internal/policy"
)

// Rule gives whom it names a role: a user of the web-config file, a token of the tokens file, or CI jobs whose
// identity token of an issuer has certain claims. A caller has what all its rules give together.
type Rule struct {
	User     string            `yaml:"user"`
	Token    string            `yaml:"token"`
	OIDC     string            `yaml:"oidc"`     // the issuer, as tokens name it
	Audience string            `yaml:"audience"` // of an identity token
	Claims   map[string]string `yaml:"claims"`   // globs; `*` stops at a slash. All have to fit
	Role     Role              `yaml:"role"`
	Services []string          `yaml:"services"` // globs; none: all services, and what concerns all
}

// Config is what canaryd.yml says of access, with what the files say that it names.
type Config struct {
	Rules     []Rule
	Anonymous Role              // of a caller without credentials: None or View
	Users     map[string]string // bcrypt hashes
	Tokens    Tokens
}

// Check says what is wrong with a rule.
func (r *Rule) Check() error {
	named := 0
	for _, s := range []string{r.User, r.Token, r.OIDC} {
		if s != "" {
			named++
		}
	}
	switch {
	case named != 1:
		return errors.New("name one of user, token and oidc")
	case r.Role == None:
		return fmt.Errorf("role is missing: write one of %s", strings.Join(roleNames[1:], ", "))
	case r.OIDC == "" && (r.Audience != "" || len(r.Claims) > 0):
		return errors.New("audience and claims belong to oidc")
	}
	for _, s := range r.Services {
		if _, err := path.Match(s, ""); err != nil || s == "" {
			return fmt.Errorf("services: %q is not a valid glob, such as shop or shop*", s)
		}
	}
	if r.OIDC != "" {
		return r.checkIssuer()
	}
	return nil
}

// checkIssuer: GitHub's issuer speaks for everybody's jobs, so a rule without claims would let the whole world in.
func (r *Rule) checkIssuer() error {
	u, err := url.Parse(r.OIDC)
	if err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())) {
		return fmt.Errorf("oidc: %q is not the https address of an issuer, such as https://token.actions.githubusercontent.com", r.OIDC)
	}
	if r.Audience == "" {
		return errors.New("audience is missing: name what the jobs ask their token for, such as canaryd; a token for somebody else must not open canaryd")
	}
	if len(r.Claims) == 0 {
		return errors.New("claims are missing: without them every job of this issuer, other people's too, has the role; write such as {repository: acme/shop}")
	}
	narrow := false
	for name, glob := range r.Claims {
		narrow = narrow || strings.Trim(glob, "*?/") != ""
		if _, err := path.Match(glob, ""); err != nil || glob == "" || glob == "*" {
			return fmt.Errorf("claims: %s: %q is not a glob that keeps anybody out", name, glob)
		}
	}
	if !narrow {
		return errors.New("claims: none of them keeps anybody out: write such as {repository: acme/shop}")
	}
	return nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Check says what is wrong between the rules.
func (c *Config) Check() error {
	if c.Anonymous > None && !c.Guards() {
		return errors.New("web.anonymous: view is for callers without credentials, yet nobody has any, so anybody may do everything: say in web.access who may do what, or list basic_auth_users in --web.config.file")
	}
	users := map[string]bool{}
	for name := range c.Users {
		users[name] = true
	}
	for _, r := range c.Rules {
		users[r.User] = true
	}
	for _, r := range c.Rules {
		if r.Token != "" && users[r.Token] {
			return fmt.Errorf("%s is the name of a token and of a user: the history would not tell them apart", r.Token)
		}
	}
	return nil
}

// Idle says what has no effect: rules about tokens and users that the files do not have, and tokens without any rule. Neither is
// wrong, while a token is on its way in or out; both are what a misspelt name looks like. Users that are nil are not known.
func (c *Config) Idle() (says []string) {
	ruled, held := map[string]bool{}, map[string]bool{}
	for _, name := range c.Tokens {
		held[name] = true
	}
	for _, r := range c.Rules {
		if r.Token != "" && !held[r.Token] && !ruled[r.Token] {
			says = append(says, fmt.Sprintf("web.access has a rule for the token %s, which is not in web.tokens_file", r.Token))
		}
		ruled[r.Token] = true
		if _, known := c.Users[r.User]; r.User != "" && c.Users != nil && !known {
			says = append(says, fmt.Sprintf("web.access has a rule for the user %s, whom --web.config.file does not list", r.User))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(held)) {
		if !ruled[name] {
			says = append(says, fmt.Sprintf("web.tokens_file has the token %s, for which web.access has no rule: it opens nothing", name))
		}
	}
	return says
}

// Guards reports whether anybody is asked who they are; else anybody may do everything.
func (c *Config) Guards() bool { return len(c.Rules) > 0 || len(c.Users) > 0 }

// grant is a role in some services.
type grant struct {
	role     Role
	services []string
}

func (r *Rule) grant() grant { return grant{r.Role, r.Services} }

// of returns the grants of those rules that fit.
func (c *Config) of(fits func(*Rule) bool) (gs []grant) {
	for i := range c.Rules {
		if fits(&c.Rules[i]) {
			gs = append(gs, c.Rules[i].grant())
		}
	}
	return gs
}

func (g *grant) covers(service string) bool {
	return len(g.services) == 0 || slices.ContainsFunc(g.services, func(glob string) bool { return policy.Matches(glob, service) })
}

// coversAll: a list of globs covers all services where one of them fits every name.
func (g *grant) coversAll() bool { return len(g.services) == 0 || slices.Contains(g.services, "*") }
