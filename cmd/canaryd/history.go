package main

import (
	"fmt"
	"net/http"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/controller"
)

func historyCommand() *cobra.Command {
	var limit int
	c := &cobra.Command{Use: "history SERVICE", Short: "What was decided, when, why, by whom, and what each release cost",
		Example: `  canaryd history shop -n 20`}
	cl, out := remote(c), output(c)
	c.Flags().IntVarP(&limit, "limit", "n", 1000, "newest records to show")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(*out); err != nil {
			return err
		}
		var h struct {
			History []controller.Entry `json:"history"`
		}
		if err := cl.call(cmd.Context(), http.MethodGet, servicePath(args[0], "history")+fmt.Sprintf("?limit=%d", limit), nil, &h); err != nil {
			return err
		}
		if *out == "json" {
			return printJSON(cmd.OutOrStdout(), h)
		}
		_, err := cmd.OutOrStdout().Write(historyText(terminalWidth(cmd.OutOrStdout()), h.History))
		return err
	}
	return c
}

// historyText has a line for each entry, and on a terminal as many as it takes there.
func historyText(width int, entries []controller.Entry) []byte {
	t := newTable(width, time.Now())
	var rs receipts
	for _, e := range entries {
		what := fmt.Sprintf("%s  %-12s %-12s %s -> %s", e.At.Local().Format(time.DateTime), e.Version, e.Kind, weights(e.Before), weights(e.After))
		why, receipt := fmt.Sprintf("%s  (by %s, policy %s)", e.Reason, e.By, e.PolicyHash), rs.of(e)
		if width == 0 {
			fmt.Fprintf(&t.buf, "%s  %s\n", what, why)
		} else {
			fmt.Fprintln(&t.buf, what)
			t.text("    ", why)
		}
		switch {
		case receipt != "" && width == 0:
			fmt.Fprintf(&t.buf, "%21s%s\n", "", receipt)
		case receipt != "":
			t.text("    ", receipt)
		}
	}
	return t.buf.Bytes()
}

func weights(w map[string]int) string {
	var parts []string
	for v, n := range w {
		parts = append(parts, fmt.Sprintf("%s %s", v, percent(float64(n)/10000)))
	}
	sort.Strings(parts)
	return "[" + strings.Join(parts, ", ") + "]"
}
