package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/journal"
	"github.com/canaryd/canaryd/internal/policy"
)

// told says what a replay under another policy is worth.
const told = `Each release is taken alone, from its announcement on, with what was counted of it and of stable then.
It tells whether, and when, that evidence would have been enough for the other policy to roll the release back, or to promote it.
It cannot tell more: the weights would have been others, and so the requests that the release had, and those that failed. A policy
that raises weights sooner would have had its evidence sooner than it says here. What became of a release after its end then nobody
knows: where the other policy had not decided by then, it is undecided. What people commanded is left out.`

func replayCommand() *cobra.Command {
	r := replay{}
	c := &cobra.Command{
		Use: "replay SERVICE [VERSION]", Short: "Take past releases again: as they were, or under another policy",
		Example: "  canaryd replay shop\n  canaryd replay --policy stricter.yml shop v7",
		Long: `Fetches what the state machine received during past releases, and gives it that once more, here. The decisions must come out as
they were, byte for byte. With --policy each release is taken under that policy as well.

` + told + `

Exit codes: 0 all came out as it was, 1 not (the journal may be from another release of canaryd), or it cannot be read, 2 usage.`,
	}
	r.client, r.out = remote(c), output(c)
	c.Flags().StringVar(&r.file, "policy", "", "policy file to take the releases under")
	c.Flags().StringVar(&r.from, "from", "", "from then on: a time (RFC 3339), or how long ago, such as 168h; default: all that is kept")
	c.Flags().StringVar(&r.to, "to", "", "up to then")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(*r.out); err != nil {
			return err
		}
		r.service, r.version = args[0], strings.Join(args[1:], "")
		return r.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return c
}

type replay struct {
	client           *client
	out              *string
	file, from, to   string
	service, version string
}

func (r *replay) run(ctx context.Context, w, talk io.Writer) error {
	var re journal.Replay
	if r.file != "" {
		d, err := r.policy()
		if err != nil {
			return err
		}
		re.Policy = d
	}
	query := url.Values{}
	for name, text := range map[string]string{"from": r.from, "to": r.to} {
		if text == "" {
			continue
		}
		at, err := moment(text, time.Now())
		if err != nil {
			return usage("--%s %q: write a time such as 2026-11-28T12:00:00Z, or how long ago, such as 168h", name, text)
		}
		query.Set(name, at.UTC().Format(time.RFC3339))
	}
	if err := r.read(ctx, &re, servicePath(r.service, "journal")+"?"+query.Encode()); err != nil {
		return err
	}
	if r.version != "" {
		re.Releases = slices.DeleteFunc(re.Releases, func(rel *journal.Release) bool { return rel.Version != r.version })
	}
	if re.Chunks == 0 || r.version != "" && len(re.Releases) == 0 {
		return fmt.Errorf("nothing is in the journal of %s: it is written while a release is under way, and kept for storage.retention", strings.TrimSpace(r.service+" "+r.version))
	}
	return r.show(&re, w, talk)
}

func (r *replay) policy() (*policy.Document, error) {
	data, err := os.ReadFile(r.file)
	if err != nil {
		return nil, fmt.Errorf("--policy: %w", err)
	}
	docs, fs := policy.Parse(r.file, data)
	if errs := fs.Errors(); len(errs) > 0 {
		return nil, errs
	}
	i := slices.IndexFunc(docs, func(d policy.Document) bool { return d.Policy.Service == r.service })
	if i < 0 {
		return nil, fmt.Errorf("--policy %s: it has no document with `service: %s`", r.file, r.service)
	}
	return &docs[i], nil
}

// moment is a time, or how long ago it was.
func moment(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil {
		return now.Add(-ago), nil
	}
	return time.Parse(time.RFC3339, text)
}

// read takes chunk by chunk as they come.
func (r *replay) read(ctx context.Context, re *journal.Replay, path string) error {
	resp, err := r.client.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // what can be read of it is told
		return refusal(http.MethodGet, path, resp, raw)
	}
	rd, err := journal.NewReader()
	if err != nil {
		return err
	}
	for stream := bufio.NewReader(resp.Body); ; {
		parts, err := journal.ReadFrame(stream)
		if err != nil {
			return err
		}
		if len(parts) == 0 {
			re.Finish()
			return nil
		}
		chunk, broken := rd.Read(parts)
		re.Take(&chunk, broken)
	}
}

// replayed is what is printed as JSON.
type replayed struct {
	Service   string               `json:"service"`
	Policy    string               `json:"policy,omitempty"`
	Chunks    int                  `json:"chunks"`
	Events    int                  `json:"events"`
	Decisions int                  `json:"decisions"`
	Same      int                  `json:"same"`  // byte for byte
	Alike     int                  `json:"alike"` // but for the last digits of their numbers
	Otherwise []journal.Difference `json:"otherwise"`
	Gaps      []journal.GapSpan    `json:"gaps"`
	Releases  []*journal.Release   `json:"releases"`
	Note      string               `json:"note,omitempty"`
}

func (r *replay) show(re *journal.Replay, w, talk io.Writer) error {
	if *r.out == "json" {
		j := replayed{Service: r.service, Policy: r.file, Chunks: re.Chunks, Events: re.Events, Decisions: re.Decisions, Same: re.Same, Alike: re.Alike,
			Otherwise: append([]journal.Difference{}, re.Otherwise...), Gaps: append([]journal.GapSpan{}, re.Gaps...), Releases: append([]*journal.Release{}, re.Releases...)}
		if r.file != "" {
			j.Note = told
		}
		if err := printJSON(w, j); err != nil {
			return err
		}
	} else if err := r.table(re, w); err != nil {
		return err
	}
	for i, d := range re.Otherwise {
		if i == 5 {
			fmt.Fprintf(talk, "and %d more\n", len(re.Otherwise)-i)
			break
		}
		fmt.Fprintf(talk, "%s: %s\n  then %s\n  now  %s\n", d.At.Format(time.RFC3339), d.What, cmp.Or(string(d.Then), "-"), cmp.Or(string(d.Now), "-"))
	}
	if len(re.Otherwise) > 0 {
		return errors.New("not everything came out as it was: the journal was written by another release of canaryd, or this is a defect")
	}
	return nil
}

func (r *replay) table(re *journal.Replay, w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := "VERSION\tANNOUNCED\tDECIDED THEN\tAFTER\tFAILED"
	if r.file != "" {
		head += "\tWITH " + filepath.Base(r.file) + "\tAFTER\tFAILED"
	}
	fmt.Fprintln(t, head)
	for _, rel := range re.Releases {
		name := rel.Version
		if rel.Attempt > 1 {
			name += fmt.Sprintf(" (%d)", rel.Attempt)
		}
		line := fmt.Sprintf("%s\t%s\t%s", name, rel.Announced.Local().Format(time.DateTime), decisionCells(rel, &rel.Then))
		switch {
		case r.file == "":
		case rel.Would == nil:
			line += "\tnot known: its beginning is not in the journal\t-\t-"
		default:
			line += "\t" + decisionCells(rel, rel.Would)
		}
		fmt.Fprintln(t, line)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%d events in %d chunks: %s\n", re.Events, re.Chunks, cameOut(re))
	for _, g := range re.Gaps {
		fmt.Fprintf(w, "Not in the journal: %s to %s (%s)\n", g.From.Local().Format(time.DateTime), g.To.Local().Format(time.DateTime), g.Why)
	}
	if r.file != "" {
		fmt.Fprintf(w, "\nFAILED are the requests that failed beyond stable's rate, up to that decision.\n%s\n", told)
	}
	return nil
}

func decisionCells(rel *journal.Release, o *journal.Outcome) string {
	failed := "-"
	if o.Receipt != nil {
		failed = fmt.Sprintf("%.0f", math.Round(o.Receipt.Beyond))
	}
	what := strings.ReplaceAll(o.Decided, "_", " ")
	if o.Decided == "undecided" && o.Evidence > 0 {
		what = fmt.Sprintf("undecided (against it %.3g, for it %.3g)", o.Evidence, o.Proof)
	}
	return fmt.Sprintf("%s\t%s\t%s", what, lasting(o.At.Sub(rel.Announced)), failed)
}

func lasting(d time.Duration) string {
	if d < 0 {
		return "-"
	}
	if d < time.Minute {
		return d.Round(100 * time.Millisecond).String()
	}
	return policy.Duration(d.Round(time.Second)).String()
}

func cameOut(re *journal.Replay) string {
	switch {
	case len(re.Otherwise) > 0:
		return fmt.Sprintf("%d of %d decisions came out as they were, byte for byte", re.Same, re.Decisions)
	case re.Alike > 0:
		return fmt.Sprintf("all %d decisions came out as they were, %d of them with other last digits (another kind of machine decided)", re.Decisions, re.Alike)
	}
	return fmt.Sprintf("all %d decisions came out as they were, byte for byte", re.Decisions)
}
