package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Whoever reaches the xDS listener or the API decides rollouts. Beyond loopback both serve only those who prove
// who they are, unless somebody wrote that it is meant.

// exposed refuses a listener that strangers reach.
func (c *serverConfig) exposed(webConfig string) error {
	if why := c.exposedXDS(); why != "" {
		return errors.New(why)
	}
	why := c.exposedWeb()
	if why == "" {
		return nil
	}
	w, err := readWebConfig(webConfig)
	if err == nil && !asksWho(w) {
		err = errors.New(why)
	}
	return err
}

func (c *serverConfig) exposedXDS() string {
	if onLoopback(c.XDS.Listen) || c.XDS.TLS.CertFile != "" || c.XDS.Insecure {
		return ""
	}
	return fmt.Sprintf("xds.listen %s is reached from other machines, without TLS: whoever connects is taken for an Envoy and decides rollouts. "+
		"Set xds.tls (cert_file, key_file, client_ca_file), or listen on 127.0.0.1; where only your Envoys reach it, write `insecure: true` under xds (or --insecure)", c.XDS.Listen)
}

func (c *serverConfig) exposedWeb() string {
	if onLoopback(c.Web.Listen) || c.Web.Insecure || len(c.Web.Access) > 0 {
		return ""
	}
	return fmt.Sprintf("web.listen %s is reached from other machines, without users: whoever connects may promote and abort. "+
		"List basic_auth_users in --web.config.file, or who may do what in web.access, or listen on 127.0.0.1; where only people you trust reach it, write `insecure: true` under web (or --insecure)", c.Web.Listen)
}

// onLoopback reports whether only this machine reaches an address. A name is taken for one of another network:
// what it resolves to may change.
func onLoopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}
