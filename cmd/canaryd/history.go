package main

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/web"
)

func historyCommand() *cobra.Command {
	var limit int
	c := &cobra.Command{Use: "history SERVICE", Short: "What was decided, when, why, by whom, and what each release cost", Args: cobra.ExactArgs(1)}
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
		var rs receipts
		for _, e := range h.History {
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %-12s %-12s %s -> %s  %s  (by %s, policy %s)\n", e.At.Local().Format(time.DateTime),
				e.Version, e.Kind, weights(e.Before), weights(e.After), e.Reason, e.By, e.PolicyHash)
			if r := rs.of(e); r != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "%21s%s\n", "", r)
			}
		}
		return nil
	}
	return c
}

func weights(w map[string]int) string {
	var parts []string
	for v, n := range w {
		parts = append(parts, fmt.Sprintf("%s %s", v, percent(float64(n)/10000)))
	}
	sort.Strings(parts)
	return "[" + strings.Join(parts, ", ") + "]"
}

func explainCommand() *cobra.Command {
	c := &cobra.Command{Use: "explain SERVICE [VERSION]", Short: "Why a version has the weight it has", Args: cobra.RangeArgs(1, 2)}
	cl, out := remote(c), output(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(*out); err != nil {
			return err
		}
		s, err := cl.service(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if len(args) == 2 {
			v := s.Find(args[1])
			if v == nil {
				return fmt.Errorf("service %s has no version %s: `canaryd status %s` lists them", args[0], args[1], args[0])
			}
			s.Versions = []web.Version{*v}
		}
		if *out == "json" {
			return printJSON(cmd.OutOrStdout(), s)
		}
		for _, v := range s.Versions {
			fmt.Fprintln(cmd.OutOrStdout(), explain(v))
		}
		return nil
	}
	return c
}

// explain says in sentences what a verdict rests on.
func explain(v web.Version) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is %s at %s", v.Version, v.Phase, percent(v.Weight))
	if step := stepOf(v); step != "" {
		fmt.Fprintf(&b, ", step %s", step)
	}
	if !v.InForce {
		b.WriteString(" (not in force)")
	}
	b.WriteString(".\n")
	if v.Image != "" {
		fmt.Fprintf(&b, "  Image %s, attempt %d; containers at %s. %s\n", v.Image, v.Attempt, cmp.Or(strings.Join(v.Endpoints, ", "), "no address yet"), v.Launching)
	}
	d := v.Verdict
	if d == nil {
		return b.String()
	}
	fmt.Fprintf(&b, "  Verdict: %s, %s. %s.\n", d.Outcome, d.Code, d.Reason)
	if d.Threshold == 0 {
		return b.String()
	}
	fmt.Fprintf(&b, "  It failed %.0f of %.0f requests lately, stable %.0f of %.0f.\n", d.Errors, d.Requests, d.StableErrors, d.StableRequests)
	most := "unbounded"
	if d.RatioAtMost != nil {
		most = fmt.Sprintf("%.3g", *d.RatioAtMost)
	}
	fmt.Fprintf(&b, "  Its error rate is %.3g to %s times stable's (95 %%), and exceeds what is tolerated by at most %s.\n", d.RatioAtLeast, most, rate(&d.ExcessAtMost))
	fmt.Fprintf(&b, "  Evidence that it is worse: %.3g; it is cut at %.0f. Proof that it is good enough: %.3g; promoted at %.0f.\n", d.Evidence, d.Threshold, d.Promotion, d.PromoteAt)
	if left := toGo(v); left != "" {
		fmt.Fprintf(&b, "  If it is as good as stable, it can be promoted in about %s.\n", left)
	}
	if d.Clump >= 1.5 {
		fmt.Fprintf(&b, "  Errors of stable are taken to arrive in bursts of up to %.0f, so each counts as less evidence, for and against. `judge.clump` in the policy sets another bound.\n", math.Ceil(d.Clump))
	} else if d.Clump > 0 { // 0: nothing was judged yet
		fmt.Fprintln(&b, "  Errors of stable arrive one by one, so each counts in full.")
	}
	return b.String()
}
