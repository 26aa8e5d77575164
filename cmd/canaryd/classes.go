package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/paths"
)

const longestLine = 1 << 20 // of an access log

func classesCommand() *cobra.Command {
	var from string
	var grpc bool
	c := &cobra.Command{Use: "classes [SERVICE]", Short: "Propose classes of requests, from what the stable version serves",
		Long: `Proposes a table of classes for a policy, as YAML to paste: at most 19, what is served most, ids in paths as *.

With source prometheus it names the label of the counters in judge.queries and its values. With source envoy it is made of sampled access log
records, where the listeners of Envoys send them (docs/envoys.md). --from takes an access log instead (common, combined, Envoy's, JSON), a
list of paths, or what "sort | uniq -c" makes of one; no daemon is asked then. Queries, the part of a path behind ?, are not read.`,
		Example: `  canaryd classes shop
  canaryd classes --from /var/log/nginx/access.log
  kubectl logs deploy/shop | canaryd classes --from -`}
	cl, out := remote(c), output(c)
	c.Flags().StringVar(&from, "from", "", "an access log or list of paths; -: standard input")
	c.Flags().BoolVar(&grpc, "grpc", false, "with --from: the paths are gRPC methods")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(*out); err != nil {
			return err
		}
		var p paths.Proposal
		var err error
		switch {
		case from != "" && len(args) > 0:
			return usage("write canaryd classes SERVICE, or canaryd classes --from FILE: not both")
		case from != "":
			p, err = proposalFrom(cmd.InOrStdin(), from, grpc)
		case len(args) == 0:
			return usage("write canaryd classes SERVICE, or canaryd classes --from FILE")
		default:
			err = cl.call(cmd.Context(), http.MethodGet, servicePath(args[0])+"/classes", nil, &p)
		}
		if err != nil {
			return err
		}
		if *out == "json" {
			return printJSON(cmd.OutOrStdout(), p)
		}
		if p.Note != "" {
			fmt.Fprintln(cmd.ErrOrStderr(), p.Note)
		}
		if len(p.Classes) == 0 {
			return errors.New("no class can be proposed")
		}
		return writeProposal(cmd.OutOrStdout(), &p)
	}
	return c
}

// proposalFrom reads an access log.
func proposalFrom(in io.Reader, name string, grpc bool) (paths.Proposal, error) {
	if name != "-" {
		f, err := os.Open(name) //nolint:gosec // the person who calls names it
		if err != nil {
			return paths.Proposal{}, err
		}
		defer f.Close()
		in = f
	}
	var t paths.Tally
	unread := 0
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, longestLine)
	for lines.Scan() {
		if method, path, n, ok := paths.Line(lines.Text()); ok {
			t.Add(method, path, n)
		} else if strings.TrimSpace(lines.Text()) != "" {
			unread++
		}
	}
	if err := lines.Err(); err != nil {
		return paths.Proposal{}, fmt.Errorf("%s: %w", name, err)
	}
	p := paths.FromRequests(&t, grpc)
	if unread > 0 {
		p.Note = fmt.Sprintf("%s: %d lines have no request or path that can be read, and count for nothing", name, unread)
	}
	return p, nil
}

// writeProposal writes the part of a policy.
func writeProposal(w io.Writer, p *paths.Proposal) error {
	var b strings.Builder
	if p.From == paths.FromLabel {
		fmt.Fprintf(&b, "judge:\n  queries:\n    # requests and errors as they are, and:\n    class: %s\n", p.Label)
		for _, c := range p.Classes {
			fmt.Fprintf(&b, "    # %-40s %s\n", plain(c.Name), ofAll(c))
		}
		_, err := io.WriteString(w, b.String())
		return err
	}
	fmt.Fprintf(&b, "route:\n  classes:   # of %.0f requests; first match wins, all else is the class rest\n", p.Requests)
	var left []string
	wide := 0
	for _, c := range p.Classes {
		line := "    - {name: " + c.Name
		for _, f := range []struct{ key, value string }{{"method", c.Method}, {"path", c.Path}, {"template", c.Template}, {"grpc", c.GRPC}} {
			if f.value != "" {
				line += ", " + f.key + ": " + scalar(f.value)
			}
		}
		left, wide = append(left, line+"}"), max(wide, min(len(line), 90))
	}
	for i, c := range p.Classes {
		fmt.Fprintf(&b, "%-*s   # %s\n", wide+1, left[i], ofAll(c))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// scalar is a text as YAML takes it within braces.
func scalar(text string) string {
	if strings.ContainsAny(text, ",:&'\"%[]{}#!|>@`* ") {
		return "'" + strings.ReplaceAll(text, "'", "''") + "'"
	}
	return text
}

func ofAll(c paths.Proposed) string {
	if share := 100 * c.Share; share >= 0.01 && !math.IsNaN(share) {
		return fmt.Sprintf("%.3g%%", share)
	}
	return fmt.Sprintf("%.0f requests", c.Requests)
}
