package xds

import (
	"cmp"
	"strings"
)

// ClusterID is a cluster: a version of a service, and what for. A version is what a tag may be, so it has neither of the
// separators.
type ClusterID struct {
	Service, Version string
	Role             Role
}

// Role is what a version has a cluster for.
type Role string

// The roles. By way of Testers those reach a version who ask for it by name; its load is no evidence.
const (
	Users   Role = ""
	Testers Role = "testers"
)

// String is the cluster's name on the wire.
func (c ClusterID) String() string {
	name := c.Service + "/" + c.Version
	if c.Role != Users {
		name += "~" + string(c.Role)
	}
	return name
}

// ParseCluster reads a name on the wire; false: it is of no service.
func ParseCluster(name string) (c ClusterID, ok bool) {
	service, rest, ok := strings.Cut(name, "/")
	version, role, _ := strings.Cut(rest, "~")
	return ClusterID{service, version, Role(role)}, ok
}

func (c ClusterID) compare(o ClusterID) int {
	return cmp.Or(cmp.Compare(c.Service, o.Service), cmp.Compare(c.Version, o.Version), cmp.Compare(c.Role, o.Role))
}
