package main

import (
	"fmt"

	yaml "go.yaml.in/yaml/v4"

	"github.com/canaryd/canaryd/internal/access"
)

// anonymous is what a caller without credentials may do: none or view.
type anonymous access.Role

func (a anonymous) role() access.Role { return access.Role(a) }

// UnmarshalYAML reads none or view.
func (a *anonymous) UnmarshalYAML(n *yaml.Node) error {
	switch n.Value {
	case "none":
		*a = anonymous(access.None)
	case "view":
		*a = anonymous(access.View)
	default:
		return fmt.Errorf("%q: write none or view: more than to look takes credentials", n.Value)
	}
	return nil
}

// validateAccess says what is wrong with who may do what.
func (c *serverConfig) validateAccess(say func(path, format string, args ...any)) {
	tokens := false
	for i := range c.Web.Access {
		r := &c.Web.Access[i]
		tokens = tokens || r.Token != ""
		if err := r.Check(); err != nil {
			say(fmt.Sprintf("web.access[%d]", i), "web.access[%d]: %v", i, err)
		}
	}
	switch {
	case tokens && c.Web.TokensFile == "":
		say("web.access", "web.access names tokens: set web.tokens_file, with the lines that `canaryd token NAME` prints")
	case len(c.Web.Access) == 0 && c.Web.TokensFile != "":
		say("web.tokens_file", "web.access is empty: say there what each token may do, such as {token: ci-shop, role: deploy, services: [shop*]}")
	}
}
