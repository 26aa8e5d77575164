package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/web"
	"github.com/canaryd/canaryd/internal/xds"
)

func envoysCommand() *cobra.Command {
	c := &cobra.Command{Use: "envoys [SERVICE]", Short: "Show the Envoys: what they have, what they refuse, since when",
		Example: `  canaryd envoys
  canaryd envoys shop      # with what each has of shop`}
	cl, out := remote(c), output(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(*out); err != nil {
			return err
		}
		nodes, err := cl.envoys(cmd.Context(), append(args, "")[0])
		if err != nil {
			return err
		}
		if *out == "json" {
			return printJSON(cmd.OutOrStdout(), web.Nodes{Nodes: nodes})
		}
		if len(nodes) == 0 {
			of := strings.Join(append([]string{""}, args...), " of ")
			fmt.Fprintf(cmd.ErrOrStderr(), "No Envoy%s has connected yet: `canaryd bootstrap` prints what one needs to.\n", of)
			return nil
		}
		return newTable(terminalWidth(cmd.OutOrStdout()), time.Now()).envoys(cmd.OutOrStdout(), nodes)
	}
	c.AddCommand(forgetCommand())
	return c
}

// envoys asks for all nodes, page by page.
func (c *client) envoys(ctx context.Context, service string) ([]web.Node, error) {
	nodes := []web.Node{}
	for after := ""; ; {
		var page web.Nodes
		q := url.Values{"service": {service}, "after": {after}}
		if err := c.call(ctx, http.MethodGet, "/api/v1/envoys?"+q.Encode(), nil, &page); err != nil {
			return nil, err
		}
		nodes = append(nodes, page.Nodes...)
		if after = page.Next; after == "" {
			return nodes, nil
		}
	}
}

func forgetCommand() *cobra.Command {
	c := &cobra.Command{Use: "forget NODE", Short: "Do not wait for an Envoy any longer",
		Long:    "Of an Envoy that is gone for good. One that is still there counts as new until it accepts something.",
		Example: `  canaryd envoys forget edge-7`}
	cl := remote(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return cl.call(cmd.Context(), http.MethodDelete, "/api/v1/envoys/"+url.PathEscape(args[0]), nil, nil)
	}
	return c
}

// envoys has a line for each node; on a terminal what a node has stands below it where it does not fit.
func (t *table) envoys(w io.Writer, nodes []web.Node) error {
	var rows bytes.Buffer
	columns := tabwriter.NewWriter(&rows, 0, 4, 2, ' ', 0)
	fmt.Fprintln(columns, "NODE\tCLUSTER\tBUILD\tSTANDING\tSINCE\tHAS")
	for _, n := range nodes {
		fmt.Fprintf(columns, "%s\t%s\t%s\t%s\t%s\t\n", n.Node, n.Cluster, n.Build, standing(n), t.now.Sub(n.Since).Round(time.Second))
	}
	if err := columns.Flush(); err != nil {
		return err
	}
	i := -1 // of the node of the row; the first row has the names
	for row := range strings.Lines(rows.String()) {
		row = strings.TrimSuffix(row, "\n")
		holds := ""
		if i >= 0 {
			holds = has(nodes[i])
		}
		if i++; t.width == 0 || len([]rune(row+holds)) < t.width {
			fmt.Fprintln(&t.buf, strings.TrimRight(row+holds, " "))
			continue
		}
		fmt.Fprintln(&t.buf, strings.TrimRight(row, " "))
		t.text("    ", holds)
	}
	_, err := w.Write(t.buf.Bytes())
	return err
}

// standing is a node's standing, or that it takes no service.
func standing(n web.Node) string {
	if n.Standing == "" {
		return "-"
	}
	return string(n.Standing)
}

// has says in words what a node has.
func has(n web.Node) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(n.Services)) {
		s := n.Services[name]
		for _, v := range slices.Sorted(maps.Keys(s.Weights)) {
			parts = append(parts, v+" "+percent(s.Weights[v]))
		}
		if s.Why != "" {
			parts = append(parts, fmt.Sprintf("refuses the %s %s: %s", s.Type, s.Resource, s.Why))
		}
	}
	for _, st := range []xds.Standing{xds.Applied, xds.Joining, xds.Behind, xds.Lagging, xds.Refused, xds.Gone} {
		if c := n.Counts[st]; c > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", c, st))
		}
	}
	return strings.Join(parts, ", ")
}
