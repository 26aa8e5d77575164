package access

import (
	"fmt"
	"strings"
	"time"
)

// Caller is who a request is from.
type Caller struct {
	Name   string    // as it was authenticated; empty: nobody was asked
	Until  time.Time // when what was shown expires; zero: it does not
	grants []grant
}

// Anyone may do everything: canaryd without access rules.
func Anyone() Caller { return Caller{grants: []grant{{role: Admin}}} }

// May reports whether the caller has a role in a service.
func (c *Caller) May(role Role, service string) bool {
	for i := range c.grants {
		if g := &c.grants[i]; g.role >= role && g.covers(service) {
			return true
		}
	}
	return false
}

// MayAll reports whether the caller has a role in every service, also in those that are yet to come.
func (c *Caller) MayAll(role Role) bool {
	for i := range c.grants {
		if g := &c.grants[i]; g.role >= role && g.coversAll() {
			return true
		}
	}
	return false
}

// MaySome reports whether the caller has a role in services of some name.
func (c *Caller) MaySome(role Role) bool {
	for _, g := range c.grants {
		if g.role >= role {
			return true
		}
	}
	return false
}

// Has says in words what the caller may do.
func (c *Caller) Has() string {
	var has []string
	for _, g := range c.grants {
		in := "all services"
		if !g.coversAll() {
			in = strings.Join(g.services, ", ")
		}
		has = append(has, fmt.Sprintf("%s in %s", g.role, in))
	}
	if len(has) == 0 {
		return "no role"
	}
	return "the role " + strings.Join(has, "; ")
}
