package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/world"
)

func testCommand() *cobra.Command {
	var junit, only string
	c := &cobra.Command{
		Use: "test FILE...", Short: "Run unit tests of policies: stories, and what is expected then",
		Long: `Run unit tests of policies: stories of what happens to a service, in a time of their own, and what is expected of
canaryd then. They go through the state machine and the judge that run in production; one Envoy accepts what it is given
at once, and errors come evenly, at the rates that the story says.

Exit codes: 0 all cases hold, 1 a file cannot be read or no case was chosen, 2 wrong usage, 3 a case does not hold, or a file has mistakes.`,
		Example: `  canaryd test config/tests/*.yml
  canaryd test --run 'fails everything' shop.yml`,
	}
	out := output(c)
	c.Flags().StringVar(&junit, "junit", "", "write the results into this file, too, as CI servers read them")
	c.Flags().StringVar(&only, "run", "", "only cases whose name matches this regular expression")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(*out); err != nil {
			return err
		}
		which, err := regexp.Compile(only)
		if err != nil {
			return usage("--run: %v", err)
		}
		var results []caseResult
		for _, file := range args {
			more, err := runTests(cmd.Context(), file, which)
			if err != nil {
				return err
			}
			results = append(results, more...)
		}
		if len(results) == 0 {
			return fmt.Errorf("no case matches --run %q: nothing was tested", only)
		}
		if junit != "" {
			if err := writeJUnit(junit, results); err != nil {
				return err
			}
		}
		return reportTests(cmd.OutOrStdout(), *out, results)
	}
	return c
}

// caseResult is what became of a case.
type caseResult struct {
	File      string          `json:"file"`
	Name      string          `json:"name"`
	Simulated policy.Duration `json:"-"`
	Seconds   float64         `json:"simulated_seconds"`
	Failures  policy.Findings `json:"failures,omitempty"`
}

// runTests runs the cases of a file. Mistakes in it are findings, as those of a case.
func runTests(ctx context.Context, file string, which *regexp.Regexp) ([]caseResult, error) {
	t, err := readTests(file)
	var fs policy.Findings
	if errors.As(err, &fs) {
		return []caseResult{{File: file, Name: file, Failures: fs}}, nil
	}
	if err != nil {
		return nil, err
	}
	var results []caseResult
	for i := range t.Cases {
		if which.MatchString(t.Cases[i].Name) {
			results = append(results, t.runCase(ctx, i))
		}
		if ctx.Err() != nil {
			return nil, errors.New("interrupted: the other cases were not run")
		}
	}
	return results, nil
}

// runCase tells a story, and looks at what is expected.
func (t *testFile) runCase(ctx context.Context, i int) caseResult {
	c := &t.Cases[i]
	r := caseResult{File: t.file, Name: c.Name}
	fail := func(path, format string, args ...any) {
		r.Failures = append(r.Failures, t.finding(path, format, args...))
	}
	s, err := world.NewScript(t.policy, c.past(), c.rate(), fractions(c.Errors))
	if err != nil {
		fail(fmt.Sprintf("cases[%d]", i), "%v", err)
		return r
	}
	s.Ended = ctx.Err
	for j := range c.Story {
		if ctx.Err() != nil {
			break
		}
		sc := &c.Story[j]
		path := fmt.Sprintf("cases[%d].story[%d]", i, j)
		s.Until(sc.At.Std())
		if why := sc.happens(s); why != "" {
			fail(path, "at %s: %s", sc.At, why)
		}
		if why := sc.missed(s); why != "" {
			fail(path+".expect", "at %s: %s", policy.Duration(s.At().Truncate(time.Second)), why)
		}
	}
	r.Simulated = policy.Duration(s.At().Truncate(time.Second))
	r.Seconds = s.At().Seconds()
	return r
}

// reportTests prints the results, and is an error where a case failed.
func reportTests(w io.Writer, out string, results []caseResult) error {
	failed := 0
	for _, r := range results {
		if len(r.Failures) > 0 {
			failed++
		}
	}
	if out == "json" {
		if err := printJSON(w, results); err != nil {
			return err
		}
	} else {
		for _, r := range results {
			if len(r.Failures) == 0 {
				fmt.Fprintf(w, "ok      %s (%s)\n", r.Name, r.Simulated)
				continue
			}
			fmt.Fprintf(w, "FAILED  %s\n", r.Name)
			for _, f := range r.Failures {
				fmt.Fprintf(w, "        %s\n", f)
			}
		}
		fmt.Fprintf(w, "%d cases, %d failed\n", len(results), failed)
	}
	if failed > 0 {
		return &exit{code: exitFindings}
	}
	return nil
}
