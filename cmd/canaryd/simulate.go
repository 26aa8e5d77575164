package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	yaml "go.yaml.in/yaml/v4"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/world"
)

// simulation is what the flags of `simulate` say.
type simulation struct {
	rate           float64
	stable, canary string
	late, most     time.Duration
	batch          time.Duration
	past           time.Duration
	envoys         int
	runs           int
	seed           uint64
}

func simulateCommand() *cobra.Command {
	var s simulation
	c := &cobra.Command{
		Use: "simulate [POLICY]", Short: "What a policy would do to a good and to a bad release",
		Long:    "Runs simulated releases through the state machine and the judge that run in production: one as good as stable, and one\nwith the given error rate. Without POLICY: the defaults.\n\nExit codes: 0 done, 1 error, 2 wrong usage, 3 the policy has mistakes.",
		Example: `  canaryd simulate shop.yml --rate 100 --stable 0.1% --canary 1%`,
	}
	out := output(c)
	c.Flags().Float64Var(&s.rate, "rate", 100, "requests/s of the service")
	c.Flags().StringVar(&s.stable, "stable", "0.1%", "error rate of the stable version")
	c.Flags().StringVar(&s.canary, "canary", "1%", "error rate of the bad release")
	c.Flags().DurationVar(&s.late, "late", 0, "delay before the bad release starts to fail")
	c.Flags().DurationVar(&s.batch, "batch", time.Second, "how often evidence comes: the report or scrape interval")
	c.Flags().DurationVar(&s.most, "most", 6*time.Hour, "how long a release is followed")
	c.Flags().DurationVar(&s.past, "past", time.Hour, "how long stable was watched before the release")
	c.Flags().IntVar(&s.envoys, "envoys", 2, "Envoys that the traffic comes through")
	c.Flags().IntVar(&s.runs, "runs", 100, "releases of each kind")
	c.Flags().Uint64Var(&s.seed, "seed", 1, "random seed")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(*out); err != nil {
			return err
		}
		p, err := s.policy(args)
		if err != nil {
			return err
		}
		return s.run(cmd, p, *out)
	}
	return c
}

func (s simulation) policy(args []string) (policy.Policy, error) {
	p := policy.Default()
	p.Service = "shop"
	if len(args) == 0 {
		return p, nil
	}
	data, err := os.ReadFile(args[0])
	if err != nil {
		return p, err
	}
	docs, fs := policy.Parse(args[0], data)
	if errs := fs.Errors(); len(errs) > 0 {
		return p, &exit{exitFindings, errs.Error()}
	}
	return docs[0].Policy, nil
}

func share(flag, text string) (float64, error) {
	var v policy.Share
	if err := v.UnmarshalYAML(&yaml.Node{Kind: yaml.ScalarNode, Value: text}); err != nil {
		return 0, usage("--%s: %v", flag, err)
	}
	return float64(v), nil
}

func (s simulation) run(cmd *cobra.Command, p policy.Policy, out string) error {
	stable, err := share("stable", s.stable)
	if err != nil {
		return err
	}
	canary, err := share("canary", s.canary)
	if err != nil {
		return err
	}
	if s.rate <= 0 || s.runs < 1 || s.envoys < 1 || s.past < 0 || s.batch <= 0 || s.most < s.batch {
		return usage("--rate, --runs, --envoys, --batch and --most must be above 0")
	}
	var done atomic.Int64
	stop := s.showProgress(cmd.ErrOrStderr(), &done)
	q := world.Question{Policy: p, PerSecond: s.rate, Stable: stable, Canary: stable, Horizon: s.most, Past: s.past, Envoys: s.envoys, Batch: s.batch, Runs: s.runs, Seed: s.seed, Done: func() { done.Add(1) }}
	good := q.Ask()
	q.Canary, q.Onset = canary, s.late
	bad := q.Ask()
	stop()
	if out == "json" {
		return printJSON(cmd.OutOrStdout(), map[string]any{"as_good_as_stable": good, "bad": bad})
	}
	return s.table(cmd.OutOrStdout(), good, bad)
}

// showProgress draws a bar on a terminal while the runs are being done.
func (s simulation) showProgress(w io.Writer, done *atomic.Int64) (stop func()) {
	if !isTerminal(w) {
		return func() {}
	}
	quit, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for {
			const width = 40
			full := int(done.Load()) * width / (2 * s.runs)
			fmt.Fprintf(w, "\r[%s%s] %d of %d", strings.Repeat("#", full), strings.Repeat("-", width-full), done.Load(), 2*s.runs)
			select {
			case <-quit:
				fmt.Fprint(w, "\r\033[K")
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return func() { close(quit); <-gone }
}

func (s simulation) table(w io.Writer, good, bad world.Answer) error {
	fmt.Fprintf(w, "%g requests/s, stable fails %s; %d releases of each kind, followed for %s\n\n", s.rate, s.stable, s.runs, s.most)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "RELEASE\tCUT\tAFTER (median, 90 %)\tFAILED REQUESTS\tPROMOTED\tAFTER (median, 90 %)\tUNDECIDED")
	for _, r := range []struct {
		name string
		a    world.Answer
	}{{"as good as stable", good}, {"fails " + s.canary, bad}} {
		n := float64(r.a.Runs)
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.name, percent(float64(r.a.Cut)/n), seconds(r.a.CutAfter), number(r.a.Failed),
			percent(float64(r.a.Promoted)/n), seconds(r.a.PromotedAt), percent(float64(r.a.Undecided)/n))
	}
	return t.Flush()
}

func seconds(q world.Quantiles) string {
	if q.Median == nil {
		return "-"
	}
	d := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)).Round(time.Second) }
	return fmt.Sprintf("%s, %s", d(*q.Median), d(*q.P90))
}

func number(q world.Quantiles) string {
	if q.Median == nil {
		return "-"
	}
	return fmt.Sprintf("%.0f, %.0f", *q.Median, *q.P90)
}
