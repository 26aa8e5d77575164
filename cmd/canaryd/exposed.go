package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	yaml "go.yaml.in/yaml/v4"
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
	users, err := webUsers(webConfig)
	if err == nil && !users {
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
	if onLoopback(c.Web.Listen) || c.Web.Insecure {
		return ""
	}
	return fmt.Sprintf("web.listen %s is reached from other machines, without users: whoever connects may promote and abort. "+
		"List basic_auth_users in --web.config.file, or listen on 127.0.0.1; where only people you trust reach it, write `insecure: true` under web (or --insecure)", c.Web.Listen)
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

// webUsers reports whether a web-config file of Prometheus' format asks who is there.
func webUsers(file string) (bool, error) {
	if file == "" {
		return false, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return false, fmt.Errorf("--web.config.file: %w", err)
	}
	var c struct {
		Users map[string]any `yaml:"basic_auth_users"`
		TLS   struct {
			ClientAuth string `yaml:"client_auth_type"`
		} `yaml:"tls_server_config"`
	}
	if err := yaml.Unmarshal(data, &c); err != nil {
		return false, fmt.Errorf("--web.config.file %s: %w", file, err)
	}
	return len(c.Users) > 0 || c.TLS.ClientAuth == "RequireAndVerifyClientCert", nil
}
