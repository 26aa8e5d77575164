package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/web"
)

// table shows services in columns that stay where they are.
type table struct {
	width   int    // of the terminal; 0: none, nothing is shortened
	version int    // width of that column
	row     string // format of the columns
	now     time.Time
	all     bool // ended versions from before the stable one, too
	buf     bytes.Buffer
}

const (
	narrowRow = "  %-*s %-10s %8s %6s %6s %8s %6s %6s %6s"   // 79 columns with a version of 13
	wideRow   = "  %-*s %-10s %8s %8s %8s %10s %10s %8s %8s" // 119 with one of 39
)

func newTable(width int, now time.Time) *table {
	if width > 0 && width < 120 {
		return &table{width: max(width, 80), version: 13, row: narrowRow, now: now}
	}
	return &table{width: width, version: 39, row: wideRow, now: now}
}

func (t *table) write(w io.Writer, list web.Services) error {
	t.columns("VERSION", "PHASE", "STEP", "WEIGHT", "SHARE", "REQUESTS", "ERRORS", "FOR", "TO GO")
	for i := range list.Services {
		t.service(&list.Services[i])
	}
	if len(list.Services) == 0 {
		fmt.Fprintln(&t.buf, noServices)
	}
	_, err := w.Write(t.buf.Bytes())
	return err
}

const noServices = "There are no services, or none that you may see: each policy file that `policies` in canaryd.yml matches makes one."

func (t *table) columns(version string, texts ...any) {
	line := fmt.Sprintf(t.row, append([]any{t.version, version}, texts...)...)
	fmt.Fprintln(&t.buf, strings.TrimRight(line, " "))
}

func (t *table) service(s *web.Service) {
	fmt.Fprintf(&t.buf, "%s: %s, %.0f requests/s\n", s.Service, envoysOf(s.Envoys), s.Rate)
	vs, hidden := t.shown(s)
	for _, v := range vs {
		t.line(v, s)
	}
	if len(s.Versions) == 0 {
		t.text("  ", "no version yet: it answers 503 until one is announced")
	}
	if hidden > 0 {
		t.text("  ", fmt.Sprintf("and %d that ended before: canaryd status %s", hidden, s.Service))
	}
	for _, w := range unsaid(s, vs) {
		t.text("  ! ", w)
	}
}

// unsaid are the warnings that are not the reason of one of the versions shown.
func unsaid(s *web.Service, vs []web.Version) (warnings []string) {
	for _, w := range s.Warnings {
		if !slices.ContainsFunc(vs, func(v web.Version) bool { return strings.Contains(why(v), w) }) {
			warnings = append(warnings, w)
		}
	}
	return warnings
}

// shown are the versions to show: the stable one, those under test, those beside it, and those that have ended, the last
// ones first.
func (t *table) shown(s *web.Service) (vs []web.Version, hidden int) {
	stable := slices.IndexFunc(s.Versions, s.IsStable)
	for i, v := range s.Versions {
		if ended(v) && i < stable && !t.all {
			hidden++
			continue
		}
		vs = append(vs, v)
	}
	place := func(v web.Version) int {
		switch {
		case s.IsStable(v):
			return 0
		case v.Phase.Waiting():
			return 1
		case v.Phase.Live():
			return 2
		}
		return 3
	}
	slices.SortStableFunc(vs, func(a, b web.Version) int { return cmp.Compare(place(a), place(b)) })
	if first := slices.IndexFunc(vs, func(v web.Version) bool { return place(v) == 3 }); first >= 0 {
		slices.Reverse(vs[first:])
	}
	return vs, hidden
}

func (t *table) line(v web.Version, s *web.Service) {
	name := v.Version
	if t.width > 0 {
		name = shorten(name, t.version)
	}
	since := ""
	if v.StepSince != nil {
		since = short(t.now.Sub(*v.StepSince))
	}
	t.columns(name, string(v.Phase), stepOf(v), percent(v.Weight), percent(v.Share), amount(v.Requests), rate(v.ErrorRate), since, toGo(v))
	reason := why(v)
	if v.Held != nil {
		reason += fmt.Sprintf(" (held: %s)", *v.Held)
	}
	if reason == "" && !v.InForce && !ended(v) {
		reason = notInForce(s.Envoys)
	}
	if reason != "" {
		t.text("    ", reason)
	}
}

// text writes lines that fit, all of them indented as the first one is.
func (t *table) text(indent, text string) {
	line := indent
	for _, word := range strings.Fields(text) {
		if t.width > 0 && line != indent && len([]rune(line))+1+len([]rune(word)) >= t.width {
			fmt.Fprintln(&t.buf, line)
			line, indent = strings.Repeat(" ", len(indent)), strings.Repeat(" ", len(indent))
		}
		if line != indent {
			line += " "
		}
		line += word
	}
	fmt.Fprintln(&t.buf, line)
}

// notInForce says of a weight that no verdict tells of why it is not in force.
func notInForce(e web.Envoys) string {
	if e.Applied > 0 && e.Applied == total(e) {
		return "not in force yet: the Envoys keep what they had before"
	}
	return "not in force yet: " + envoysOf(e)
}

func total(e web.Envoys) int {
	return e.Applied + e.Behind + e.Lagging + e.Refused + e.Gone + e.Joining
}

// envoysOf says how many Envoys have what is decided, and what is the matter with the others.
func envoysOf(e web.Envoys) string {
	all := total(e)
	if all == 0 {
		return "no Envoy yet"
	}
	line := fmt.Sprintf("%d of %d Envoys", e.Applied, all)
	var others []string
	for _, o := range []struct {
		n    int
		what string
	}{{e.Behind, "behind"}, {e.Lagging, "lagging"}, {e.Refused, "refused"}, {e.Gone, "gone"}, {e.Joining, "joining"}} {
		if o.n > 0 {
			others = append(others, fmt.Sprintf("%d %s", o.n, o.what))
		}
	}
	if len(others) > 0 {
		line += " (" + strings.Join(others, ", ") + ")"
	}
	return line
}

// why is the reason for what a version gets.
func why(v web.Version) string {
	switch {
	case v.Launching != "":
		return v.Launching
	case v.Verdict == nil:
		return ""
	}
	return string(v.Verdict.Code) + ": " + v.Verdict.Reason
}

// stepOf is how far up the steps a version under test is, as in `3 of 5`.
func stepOf(v web.Version) string {
	if v.Step == 0 || !v.Phase.Waiting() {
		return ""
	}
	return fmt.Sprintf("%d of %d", v.Step, len(v.Steps))
}

// toGo is about how long it takes until a version can be promoted.
func toGo(v web.Version) string {
	if v.ToDecide == nil {
		return ""
	}
	return short(time.Duration(*v.ToDecide * float64(time.Second)))
}

// short is a duration in six characters.
func short(d time.Duration) string {
	s := int(max(0, d).Round(time.Second) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 24*3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", min(s/(24*3600), 99), s/3600%24)
}

// amount is a number in eight characters.
func amount(n float64) string {
	for _, unit := range []string{"", "k", "M", "G"} {
		if n < 1e7 {
			return strconv.FormatFloat(math.Round(n), 'f', -1, 64) + unit
		}
		n /= 1000
	}
	return "many"
}

// percent is a share of 1, to a hundredth of a percent: no weight is finer.
func percent(f float64) string { return decimals(f*100, 100) + "%" }

// rate is an error rate: finer than a weight, where it is small.
func rate(r *float64) string {
	if r == nil {
		return "-"
	}
	switch p := *r * 100; {
	case p >= 10:
		return decimals(p, 100) + "%"
	case p > 0 && p < 0.001:
		return "<.001%"
	default:
		return decimals(p, 1000) + "%"
	}
}

// decimals rounds, and writes no zeros behind the point and no exponent.
func decimals(f, parts float64) string {
	return strconv.FormatFloat(math.Round(f*parts)/parts, 'f', -1, 64)
}
