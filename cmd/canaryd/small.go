package main

import (
	"fmt"
	"net/http"

	"github.com/prometheus/common/version"
	"github.com/spf13/cobra"
)

func healthcheckCommand() *cobra.Command {
	c := &cobra.Command{Use: "healthcheck", Short: "Exit 0 when the daemon is ready (for Docker's HEALTHCHECK)", Example: `  canaryd healthcheck --url http://127.0.0.1:8080`}
	cl := remote(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		resp, err := cl.do(cmd.Context(), http.MethodGet, "/-/ready", nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("the daemon is not ready: %s", resp.Status)
		}
		fmt.Fprintln(cmd.OutOrStdout(), "ready")
		return nil
	}
	return c
}

func versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Example: `  canaryd version`,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version.Print("canaryd")) }}
}
