package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	yaml "go.yaml.in/yaml/v4"

	"github.com/canaryd/canaryd/config"
	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

func checkCommand() *cobra.Command {
	var strict, show bool
	var rate float64
	var stable string
	var classes []string
	c := &cobra.Command{
		Use: "check FILE...", Short: "Check policies, canaryd.yml and the files beside it; - is stdin",
		Long: `Finds every mistake in policies and in canaryd.yml, with its position; with a canaryd.yml also in the files that it names,
and what its docker.allow and docker.volumes refuse. Warnings go to stderr.

Exit codes: 0 nothing found, 1 a file cannot be read, 2 wrong usage, 3 mistakes found (with --strict: warnings, too).`,
		Example: `  canaryd check canaryd.yml policies/
  canaryd check --print shop.yml          # with all defaults
  canaryd check --rate 1 shop.yml         # what is out of reach at 1 request/s
  canaryd check --rate 20 --class checkout=0.01% shop.yml    # of a rare class
  generate-policy | canaryd check -`,
	}
	out := output(c)
	c.Flags().BoolVar(&strict, "strict", false, "count warnings as findings")
	c.Flags().BoolVar(&show, "print", false, "print the policies with all their defaults, without their secrets")
	c.Flags().Float64Var(&rate, "rate", 0, "the service's requests/s: warn about what the policy cannot do with so many")
	c.Flags().StringVar(&stable, "stable", "0%", "stable's usual error rate, with --rate")
	c.Flags().StringArrayVar(&classes, "class", nil, "a class's share of the requests, with --rate: NAME=SHARE[:STABLE] (may be repeated)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(*out); err != nil {
			return err
		}
		if rate < 0 {
			return usage("--rate must be above 0")
		}
		usual, err := share("stable", stable)
		if err != nil {
			return err
		}
		shares, err := readClasses(classes, usual)
		if err != nil {
			return err
		}
		k := checker{stdin: cmd.InOrStdin(), seen: map[string]bool{}}
		for _, a := range args {
			if err := k.path(a); err != nil {
				return err
			}
		}
		if err := k.named(); err != nil {
			return err
		}
		k.findings = append(append(k.findings, policy.CheckSet(k.docs, k.source())...), append(k.beyond(), k.idle()...)...)
		k.atRate(rate, usual, shares)
		return k.report(cmd, *out, strict, show)
	}
	return c
}

type checker struct {
	stdin    io.Reader
	docs     []policy.Document
	sources  []string // of the canaryd.yml among the files
	findings policy.Findings
	files    int
	seen     map[string]bool     // files, by their absolute names
	policies []string            // files that a canaryd.yml names
	servers  []server            // each canaryd.yml
	users    []map[string]string // of each web-config file
}

// source is where the evidence for the policies comes from; empty when the files do not say it, or
// disagree.
func (k *checker) source() string {
	if s := slices.Compact(slices.Sorted(slices.Values(k.sources))); len(s) == 1 {
		return s[0]
	}
	return ""
}

func (k *checker) path(p string) error {
	if p == "-" {
		data, err := io.ReadAll(k.stdin)
		if err != nil {
			return fmt.Errorf("standard input: %w", err)
		}
		k.text("stdin", data)
		return nil
	}
	info, err := os.Stat(p)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return k.file(p)
	}
	var files []string
	for _, pattern := range []string{"*.yml", "*.yaml"} {
		m, err := filepath.Glob(filepath.Join(p, pattern))
		if err != nil {
			return err
		}
		files = append(files, m...)
	}
	if len(files) == 0 {
		return fmt.Errorf("%s holds no .yml or .yaml file", p)
	}
	slices.Sort(files)
	for _, f := range files {
		if err := k.file(f); err != nil {
			return err
		}
	}
	return nil
}

// atRate warns of what the policies cannot do with so many requests/s; 0: nobody said how many.
func (k *checker) atRate(rate, stable float64, shares []classFlag) {
	if rate == 0 {
		return
	}
	for _, d := range k.docs {
		k.findings = append(append(k.findings, feasible(d, rate, stable)...), rare(d, rate, shares)...)
	}
}

// feasible warns of what a policy cannot do at a request rate: prove a release before its deadline, or
// see a rise of the error rate by 0.1 % within an hour.
func feasible(d policy.Document, rate, stable float64) policy.Findings {
	cfg := rollout.JudgeConfig(&d.Policy)
	cfg.D1 = analysis.MarginByCost(cfg.D1, d.Policy.Judge.PromoteWithin.Cost, rate)
	steps := d.Policy.Ramp.Weights()
	w := float64(steps[len(steps)-2]) / policy.FullWeight
	clump := max(float64(d.Policy.Judge.Clump), 1)
	var fs policy.Findings
	warn := func(path, format string, args ...any) {
		f := d.Finding(path, fmt.Sprintf(format, args...))
		f.Warning = true
		fs = append(fs, f)
	}
	if t := analysis.TimeToPromote(&cfg, rate, w, stable, clump); t > d.Policy.Judge.Deadline.After.Std().Seconds() {
		warn("judge.promote_within", "at %g requests/s a release as good as stable is proven after about %s, beyond the deadline of %s: widen promote_within.margin or promote_within.cost", rate, words(t), d.Policy.Judge.Deadline.After)
	}
	const rise = 0.001
	if t := analysis.TimeToCut(&cfg, rate, w, stable, stable+rise, clump); t > 3600 {
		warn("judge.tolerate", "at %g requests/s and %s a rise of the error rate by 0.1%% is found after about %s", rate, policy.Share(w), words(t))
	}
	return fs
}

func words(seconds float64) string {
	if seconds > 10*365*24*3600 {
		return "never"
	}
	return policy.Duration(time.Duration(seconds) * time.Second).String()
}

func (k *checker) report(cmd *cobra.Command, out string, strict, show bool) error {
	k.findings.Sort()
	errs, warnings := k.findings.Errors(), k.findings.Warnings()
	if strict {
		errs = k.findings
		warnings = nil
	}
	if out == "json" {
		if k.findings == nil {
			k.findings = policy.Findings{}
		}
		if err := printJSON(cmd.OutOrStdout(), map[string]any{"files": k.files, "findings": k.findings}); err != nil {
			return err
		}
	} else {
		for _, f := range errs {
			fmt.Fprintln(cmd.OutOrStdout(), f)
		}
	}
	for _, f := range warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning:", f)
	}
	if len(errs) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s in %s\n", count(len(errs), "finding"), count(k.files, "file"))
		return &exit{code: exitFindings}
	}
	if show {
		return k.print(cmd.OutOrStdout())
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s OK\n", count(k.files, "file"))
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (k *checker) print(w io.Writer) error {
	for _, d := range k.docs {
		text, err := yaml.Dump(d.Policy)
		if err != nil {
			return fmt.Errorf("print %s: %w", d.File, err)
		}
		fmt.Fprintf(w, "---\n%s", policy.Redacted(strings.TrimPrefix(string(text), "---\n")))
	}
	return nil
}

func schemaCommand() *cobra.Command {
	var markdown bool
	c := &cobra.Command{Use: "schema", Short: "Print the JSON schema of a policy",
		Example: "  canaryd schema >policy.schema.json\n  # and in a policy, for the editor:\n  # yaml-language-server: $schema=policy.schema.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if markdown {
				return writeReference(cmd.OutOrStdout())
			}
			_, err := cmd.OutOrStdout().Write(config.PolicySchema)
			return err
		}}
	c.Flags().BoolVar(&markdown, "markdown", false, "print the reference of all keys instead, docs/policy.md")
	return c
}
