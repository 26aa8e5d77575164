package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/web"
)

func statusCommand() *cobra.Command {
	var watch bool
	c := &cobra.Command{Use: "status [SERVICE]", Short: "Show services, versions, weights and verdicts", Args: cobra.MaximumNArgs(1)}
	cl, out := remote(c), output(c)
	c.Flags().BoolVarP(&watch, "watch", "w", false, "refresh every second until Ctrl-C")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(*out); err != nil {
			return err
		}
		for {
			if watch && isTerminal(cmd.OutOrStdout()) {
				fmt.Fprint(cmd.OutOrStdout(), "\033[H\033[2J")
			}
			if err := showStatus(cmd.Context(), cl, cmd.OutOrStdout(), args, *out); err != nil || !watch {
				return err
			}
			select {
			case <-cmd.Context().Done():
				return nil
			case <-time.After(time.Second):
			}
		}
	}
	return c
}

func showStatus(ctx context.Context, cl *client, w io.Writer, args []string, out string) error {
	var list web.Services
	if len(args) == 1 {
		s, err := cl.service(ctx, args[0])
		if err != nil {
			return err
		}
		if out == "json" {
			return printJSON(w, s)
		}
		list.Services = append(list.Services, s)
	} else if err := cl.call(ctx, http.MethodGet, "/api/v1/services", nil, &list); err != nil {
		return err
	}
	if out == "json" {
		return printJSON(w, list)
	}
	return statusTable(w, list)
}

func statusTable(w io.Writer, list web.Services) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tVERSION\tPHASE\tWEIGHT\tIN FORCE\tGETS\tREQUESTS\tERRORS\tRATE\tWHY")
	for _, s := range list.Services {
		for _, v := range s.Versions {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%v\t%s\t%.0f\t%.0f\t%s\t%s\n", s.Service, v.Version, v.Phase, percent(v.Weight),
				v.InForce, percent(v.Share), v.Requests, v.Errors, rate(v.ErrorRate), why(v))
		}
		if len(s.Versions) == 0 {
			fmt.Fprintf(t, "%s\t-\t\t\t\t\t\t\t\tno version yet: answers 503 until one is announced\n", s.Service)
		}
		for _, w := range s.Warnings {
			fmt.Fprintf(t, "%s\t!\t\t\t\t\t\t\t\t%s\n", s.Service, w)
		}
	}
	return t.Flush()
}

func percent(f float64) string { return fmt.Sprintf("%.4g%%", f*100) }

func rate(r *float64) string {
	if r == nil {
		return "-"
	}
	return fmt.Sprintf("%.3g%%", *r*100)
}

func why(v web.Version) string {
	switch {
	case v.Launching != "":
		return v.Launching
	case v.Verdict == nil:
		return ""
	}
	return string(v.Verdict.Code) + ": " + v.Verdict.Reason
}
