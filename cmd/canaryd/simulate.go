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
	classes        []string
	slow           slowFlags
}

func simulateCommand() *cobra.Command {
	var s simulation
	c := &cobra.Command{
		Use: "simulate [POLICY]", Short: "What a policy would do to a good and to a bad release",
		Long: "Runs simulated releases through the state machine and the judge that run in production: one as good as stable, and one\nwith the given error rate. Without POLICY: the defaults.\n\n--class says that a class of requests has a share of them, how often it fails on stable (--stable where it is left out), and how\noften on a release that breaks it (100%): such a release is simulated as well, one for each class. Classes of the policy that are\nnot named share what is left with the rest. Without POLICY the classes named are those that are counted.\n\n--canary-slow simulates a release that fails no more than stable, but answers slower: it is held as long as it does, or rolled back with\njudge.slow.then: rollback. Shares are of answers that take longer than all edges of judge.slow; where the policy names none, than one\nedge. Without judge.slow in the policy: its defaults. --stable-slow alone tells how often others are held.\n\nExit codes: 0 done, 1 error, 2 wrong usage, 3 the policy has mistakes.",
		Example: `  canaryd simulate shop.yml --rate 100 --stable 0.1% --canary 1%
  canaryd simulate --rate 1000 --class checkout=0.03%    # a path that breaks
  canaryd simulate --stable-slow 1% --canary-slow 5%     # slower answers`,
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
	c.Flags().StringArrayVar(&s.classes, "class", nil, "a class of requests, and a release that breaks it: NAME=SHARE[:STABLE[:CANARY]] (may be repeated)")
	s.slow.add(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(*out); err != nil {
			return err
		}
		p, err := s.policy(args)
		if err != nil {
			return err
		}
		return s.run(cmd, p, len(args) == 0, *out)
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

func (s simulation) run(cmd *cobra.Command, p policy.Policy, defaults bool, out string) error {
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
	flags, err := readClasses(s.classes, stable)
	if err != nil {
		return err
	}
	var done atomic.Int64
	q := world.Question{Policy: p, PerSecond: s.rate, Stable: stable, Canary: stable, Horizon: s.most, Past: s.past, Envoys: s.envoys, Batch: s.batch, Runs: s.runs, Seed: s.seed, Done: func() { done.Add(1) }}
	if len(flags) > 0 {
		if err := classed(&q, flags, defaults); err != nil {
			return err
		}
	}
	slower, err := s.slow.timed(cmd, &q)
	if err != nil {
		return err
	}
	kinds := 2 + len(flags)
	if s.slow.canary != "" {
		kinds++
	}
	stop := s.showProgress(cmd.ErrOrStderr(), &done, kinds*s.runs)
	results := []simulated{{Release: "as good as stable", Answer: q.Ask()}}
	q.Onset = s.late
	bad := q
	bad.Canary = canary
	results = append(results, simulated{Release: "fails " + s.canary, Answer: bad.Ask()})
	for _, f := range flags {
		results = append(results, simulated{f.release(), f.name, f.breaking(q).Ask()})
	}
	told := map[string]any{"as_good_as_stable": results[0].Answer, "bad": results[1].Answer, "classes": results[2:]}
	if s.slow.canary != "" {
		q.Slow.Canary = slower
		r := simulated{Release: s.slow.canary + " slow", Answer: q.Ask()}
		results, told["slower"] = append(results, r), r.Answer
	}
	stop()
	if out == "json" {
		return printJSON(cmd.OutOrStdout(), told)
	}
	if q.Told.Nothing {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning: the policy has no route.classes: all requests are judged together")
	}
	return s.table(cmd.OutOrStdout(), results, q.Slow.Edges)
}

// simulated is what became of releases of one kind.
type simulated struct {
	Release string `json:"release"`
	Class   string `json:"class,omitempty"` // that it breaks
	world.Answer
}

// showProgress draws a bar on a terminal while the runs are being done.
func (s simulation) showProgress(w io.Writer, done *atomic.Int64, all int) (stop func()) {
	if !isTerminal(w) {
		return func() {}
	}
	quit, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for {
			const width = 40
			full := int(done.Load()) * width / all
			fmt.Fprintf(w, "\r[%s%s] %d of %d", strings.Repeat("#", full), strings.Repeat("-", width-full), done.Load(), all)
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

// table writes the results; edges: those beyond which answers are slow, none where nobody tells.
func (s simulation) table(w io.Writer, results []simulated, edges []float64) error {
	usual, columns := "", ""
	if n := len(edges); n > 0 {
		usual, columns = fmt.Sprintf(", %s of its answers take longer than %s", s.slow.stable, edge(edges[n-1])), "\tHELD AS SLOWER\tAFTER (median, 90 %)"
	}
	fmt.Fprintf(w, "%g requests/s, stable fails %s%s; %d releases of each kind, followed for %s\n\n", s.rate, s.stable, usual, s.runs, s.most)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "RELEASE\tCUT\tAFTER (median, 90 %)\tFAILED REQUESTS\tPROMOTED\tAFTER (median, 90 %)\tUNDECIDED"+columns)
	for _, r := range results {
		n := float64(r.Runs)
		undecided := percent(float64(r.Undecided) / n)
		if r.Held > 0 {
			undecided += fmt.Sprintf(" (%s unexercised)", percent(float64(r.Held)/n))
		}
		if len(edges) > 0 {
			undecided += "\t" + slowed(r)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Release, percent(float64(r.Cut)/n), seconds(r.CutAfter), number(r.Failed),
			percent(float64(r.Promoted)/n), seconds(r.PromotedAt), undecided)
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
