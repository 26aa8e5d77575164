package main

import (
	"fmt"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/xds"
)

func bootstrapCommand() *cobra.Command {
	var b xds.Bootstrap
	var heap string
	c := &cobra.Command{Use: "bootstrap", Short: "Print an Envoy bootstrap that works as it is",
		Example: `  canaryd bootstrap --xds canaryd.internal:18000 --node-id edge-7 >envoy.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if heap != "" {
				var err error
				if b.MaxHeap, err = units.RAMInBytes(heap); err != nil || b.MaxHeap <= 0 {
					return usage("--max-heap %q is not a size: write a number and a unit, as in 2GiB", heap)
				}
			}
			text, err := b.YAML()
			if err != nil { // of its flags
				return usage("%v", err)
			}
			if w := b.Warning(); w != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning: "+w)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		}}
	c.Flags().StringVar(&b.XDS, "xds", "127.0.0.1:18000", "where canaryd serves ADS")
	c.Flags().StringVar(&b.Admin, "admin", "127.0.0.1:9901", "where Envoy's admin page and statistics are")
	c.Flags().StringVar(&b.NodeID, "node-id", "envoy", "this Envoy's name; give each its own")
	c.Flags().StringVar(&b.Cluster, "cluster", "edge", "the group this Envoy belongs to (route.nodes)")
	c.Flags().StringVar(&b.EnvoyVersion, "envoy-version", "", "this Envoy's version, where that is before 1.39: 1.36 needs a runtime flag")
	c.Flags().StringVar(&heap, "max-heap", "", "memory, as in 2GiB, beyond which Envoy turns requests away instead of being killed; give it some less than the machine or container has")
	c.Flags().StringVar(&b.TLSDir, "tls-dir", "", "directory with client.pem, client.key and ca.pem: speak mTLS to canaryd")
	c.Flags().StringVar(&b.ServerName, "server-name", "", "with --tls-dir: the name in canaryd's certificate; default: the host of --xds")
	return c
}

func xdsCommand() *cobra.Command {
	parent := &cobra.Command{Use: "xds", Short: "Look at what Envoys are given"}
	var d xds.Dump
	dump := &cobra.Command{Use: "dump", Short: "Print what an Envoy is given, as JSON",
		Example: `  canaryd xds dump --node-id edge-7 --route shop`,
		RunE:    func(cmd *cobra.Command, _ []string) error { return d.Run(cmd.Context(), cmd.OutOrStdout()) }}
	dump.Flags().StringVar(&d.XDS, "xds", "127.0.0.1:18000", "where canaryd serves ADS")
	dump.Flags().StringVar(&d.NodeID, "node-id", "xds-dump", "the node to pretend to be")
	dump.Flags().StringVar(&d.Cluster, "cluster", "edge", "its group")
	dump.Flags().StringSliceVar(&d.Routes, "route", nil, "ask for these route configurations too (for Envoys with a listener of their own)")
	dump.Flags().StringVar(&d.TLSDir, "tls-dir", "", "directory with client.pem, client.key and ca.pem")
	parent.AddCommand(dump)
	return parent
}
