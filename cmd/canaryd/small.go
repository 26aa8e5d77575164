package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/prometheus/common/version"
	"github.com/spf13/cobra"
)

func healthcheckCommand() *cobra.Command {
	c := &cobra.Command{Use: "healthcheck", Short: "Exit 0 when the daemon is ready (for Docker's HEALTHCHECK)", Example: `  canaryd healthcheck --url http://127.0.0.1:8080`}
	cl := remote(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cl.token, cl.job = "", nil // anybody may ask whether it is ready
		ctx, cancel := context.WithTimeout(cmd.Context(), answerWithin)
		defer cancel()
		status, err := cl.ready(ctx)
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("the daemon is not ready: %d %s", status, http.StatusText(status))
		}
		fmt.Fprintln(cmd.OutOrStdout(), "ready")
		return nil
	}
	return c
}

// ready asks whether the daemon is ready. On loopback it is also asked over TLS, where it turns out to have that, and whatever name
// its certificate has: the image's HEALTHCHECK does not know, and nothing is told the daemon that others might not hear.
func (c *client) ready(ctx context.Context) (status int, err error) {
	u, err := url.Parse(c.base)
	local := err == nil && onLoopback(net.JoinHostPort(u.Hostname(), "1"))
	if local {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
		c.http = &http.Client{Transport: t}
	}
	for {
		resp, err := c.do(ctx, http.MethodGet, "/-/ready", nil)
		if err != nil {
			return 0, err
		}
		raw, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		address, insecure := strings.CutPrefix(c.base, "http://")
		if err != nil || !local || !insecure || !bytes.Contains(raw, []byte(httpToHTTPS)) {
			return resp.StatusCode, err
		}
		c.base = "https://" + address
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Example: `  canaryd version`,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version.Print("canaryd")) }}
}
