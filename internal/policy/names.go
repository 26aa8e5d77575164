package policy

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// What may be a name where.
var (
	serviceName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	versionName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	hostLabel   = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$`)
	digits      = regexp.MustCompile(`^[0-9]+$`)
	tokenName   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

// ServiceName refuses what cannot be the name of a service.
func ServiceName(s string) error {
	if s == "" {
		return fmt.Errorf("service is missing: write `service: NAME`")
	}
	if !serviceName.MatchString(s) {
		return fmt.Errorf("%q cannot be a service name: up to 63 small letters, digits and inner hyphens", s)
	}
	return nil
}

// VersionName refuses what cannot be the name of a version: it may be what a Docker tag may be.
func VersionName(s string) error {
	if !versionName.MatchString(s) {
		return fmt.Errorf("%q cannot be a version: up to 128 letters, digits, underscores, dots and hyphens, as in a Docker tag", s)
	}
	return nil
}

// WireName is the version's name in Envoy's statistics: dots break Envoy's Prometheus labels.
func WireName(version string) string { return strings.ReplaceAll(version, ".", "_") }

// EndpointList refuses empty lists, malformed addresses and duplicates.
func EndpointList(endpoints []string) error {
	if len(endpoints) == 0 {
		return fmt.Errorf("no endpoints: name at least one host:port")
	}
	seen := map[string]bool{}
	for _, e := range endpoints {
		if err := endpoint(e); err != nil {
			return err
		}
		if seen[strings.ToLower(e)] {
			return fmt.Errorf("endpoint %s is listed twice", e)
		}
		seen[strings.ToLower(e)] = true
	}
	return nil
}

func endpoint(e string) error {
	host, port, err := net.SplitHostPort(e)
	if err != nil {
		return fmt.Errorf("endpoint %q is not host:port, as in 10.0.0.7:8080 or [2001:db8::1]:8080", e)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("endpoint %q: the port must be a number from 1 to 65535", e)
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if !hostName(host) {
		return fmt.Errorf("endpoint %q: %q is neither an IP address nor a host name", e, host)
	}
	return nil
}

// ByName reports an endpoint that Envoy looks up: there may be any number of instances behind it.
func ByName(endpoint string) bool {
	host, named := plainHost(endpoint)
	if named {
		return true
	}
	if host == "" {
		var err error
		if host, _, err = net.SplitHostPort(endpoint); err != nil {
			return false
		}
	}
	_, err := netip.ParseAddr(host)
	return err != nil
}

// plainHost is the host of an endpoint without brackets, and whether one of its characters is of no address: that is told
// without an error being made, as it is asked for all endpoints. Empty: look closer.
func plainHost(endpoint string) (host string, named bool) {
	colon := -1
	for i := range len(endpoint) {
		switch c := endpoint[i]; {
		case c == '[', c == ']', c == ':' && colon >= 0:
			return "", false
		case c == ':':
			colon = i
		case colon < 0 && c != '.' && (c < '0' || c > '9'):
			named = true
		}
	}
	if colon < 0 {
		return "", false
	}
	return endpoint[:colon], named
}

func hostName(h string) bool {
	labels := strings.Split(strings.TrimSuffix(h, "."), ".")
	if len(h) > 253 || digits.MatchString(labels[len(labels)-1]) {
		return false
	}
	return !slices.ContainsFunc(labels, func(l string) bool { return !hostLabel.MatchString(l) })
}

// token is what a header or cookie may be called here.
func token(s string) bool { return tokenName.MatchString(s) }
