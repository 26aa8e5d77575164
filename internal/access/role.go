// Package access says who a request is from, and what that caller may do: users with passwords, bearer tokens, and
// the identity tokens (OIDC) of CI jobs, each with roles per service.
package access

import (
	"fmt"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// Role is what a caller may do. Each includes those before it.
type Role int

// The roles.
const (
	None    Role = iota
	View         // read everything
	Deploy       // announce versions; pause and abort those under test
	Operate      // promote, resume, abort the stable version, remove services, forget Envoys
	Admin        // reload, profiles
)

var roleNames = []string{"none", "view", "deploy", "operate", "admin"}

func (r Role) String() string { return roleNames[r] }

// UnmarshalYAML reads a role by its name.
func (r *Role) UnmarshalYAML(n *yaml.Node) error {
	for i, name := range roleNames[1:] {
		if n.Kind == yaml.ScalarNode && n.Value == name {
			*r = Role(i + 1)
			return nil
		}
	}
	return fmt.Errorf("%q is not a role: write one of %s", n.Value, strings.Join(roleNames[1:], ", "))
}
