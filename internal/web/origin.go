package web

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// guard keeps the pages of other sites away: an operator's browser would send their requests to canaryd,
// with the password it knows. Programs send neither Origin nor Sec-Fetch-Site and are not concerned.
func (a *api) guard(next http.Handler) http.Handler {
	crossSite := http.NewCrossOriginProtection()
	crossSite.SetDenyHandler(http.HandlerFunc(a.refuseCrossSite))
	protected := crossSite.Handler(next)
	own := a.ownHosts()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !own.has(r.Host) {
			a.refuseHost(w, r)
			return
		}
		protected.ServeHTTP(w, r)
	})
}

func (a *api) refuseCrossSite(w http.ResponseWriter, r *http.Request) {
	from := cmp.Or(r.Header.Get("Origin"), "an origin that it does not name")
	a.refuse(w, r, problem(http.StatusForbidden, fmt.Sprintf("a browser sent this for a page of another site (%.100s): nothing was done. "+
		"Use the command line; a proxy in front of canaryd has to pass on the Host that the browser asked for", from)))
}

func (a *api) refuseHost(w http.ResponseWriter, r *http.Request) {
	say := fmt.Sprintf("canaryd does not answer to the Host %.100q", hostName(r.Host))
	if loopback(a.Listener) {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		say += fmt.Sprintf(", for it listens on loopback: ask %s://%s, or set web.listen to an address that other machines reach", scheme, a.Listener)
	}
	a.refuse(w, r, problem(http.StatusForbidden, say+". If it is a name of canaryd's own, such as that of a proxy in front of it, add it to web.hosts in canaryd.yml"))
}

// hosts are the names that canaryd answers to, beside those of loopback.
type hosts struct {
	any   bool
	names []string
}

// ownHosts: on loopback a foreign name is one that somebody's DNS points at 127.0.0.1, so that a page of
// theirs counts as canaryd's own (DNS rebinding). Elsewhere any name may be canaryd's, unless web.hosts lists them.
func (a *api) ownHosts() hosts {
	h := hosts{any: !loopback(a.Listener) && len(a.Hosts) == 0}
	for _, name := range append([]string{a.Listen}, a.Hosts...) {
		h.names = append(h.names, hostName(name))
	}
	return h
}

// has: a request without a Host (HTTP/1.0) comes from no browser.
func (h hosts) has(hostport string) bool {
	name := hostName(hostport)
	if h.any || name == "" || name == "localhost" || strings.HasSuffix(name, ".localhost") || slices.Contains(h.names, name) {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.IsLoopback()
}

// hostName returns what a Host header names, in one spelling: without port, zone and final dot, in lower case.
func hostName(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil { // no port
		host = strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.WithZone("").Unmap().String()
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func loopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// CheckHost says what is wrong with a name of web.hosts.
func CheckHost(name string) error {
	if _, err := netip.ParseAddr(name); err == nil {
		return nil
	}
	if name == "" || strings.ContainsAny(name, ":/*@[], \t") {
		return fmt.Errorf("%q: write a host name without scheme, port and wildcard, such as canaryd.example.com", name)
	}
	return nil
}
