package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/web"
)

const (
	classWide  = 26 // letters of a class's name, where there is a terminal
	wantedMost = 3  // classes that are named in a sentence
)

// classes is the table of the classes that a version is judged by: what was answered of each, what speaks against it, and what is still wanted.
func (t *table) classes(v web.Version) {
	if len(v.Classes) == 0 {
		return
	}
	wide := classWide
	if t.width == 0 {
		for _, c := range v.Classes {
			wide = max(wide, len([]rune(c.Class)))
		}
	}
	row := func(class string, cells ...any) {
		line := fmt.Sprintf("  %-*s %8s %6s %8s %6s %8s %6s", append([]any{wide, class}, cells...)...)
		fmt.Fprintln(&t.buf, strings.TrimRight(line, " "))
	}
	row("CLASS", "REQUESTS", "FAILED", "STABLE", "FAILED", "EVIDENCE", "WANTED")
	for _, c := range v.Classes {
		evidence, wanted := "-", "-"
		if c.Evidence != nil {
			evidence = strength(*c.Evidence)
		}
		if c.Wanted != nil {
			wanted = fmt.Sprintf("%.0f", *c.Wanted)
		}
		row(shorten(c.Class, wide), amount(c.Requests), part(c.Errors, c.Requests), amount(c.Stable.Requests), part(c.Stable.Errors, c.Stable.Requests), evidence, wanted)
	}
	for _, line := range classLines(v) {
		t.text("  ", line)
	}
}

// classLines say what the table means.
func classLines(v web.Version) (lines []string) {
	if at := v.Classes[0].Threshold; at != nil {
		lines = append(lines, fmt.Sprintf("One class alone rolls it back with evidence of %.0f; all of them count together as well.", *at))
	}
	var wanted []string
	more := 0
	for _, c := range v.Classes {
		switch {
		case c.Wanted == nil || *c.Wanted == 0:
		case len(wanted) == wantedMost:
			more++
		default:
			wanted = append(wanted, fmt.Sprintf("%.0f of %s%s", *c.Wanted, c.Class, inAbout(c.ToSee)))
		}
	}
	if more > 0 {
		wanted = append(wanted, fmt.Sprintf("some of %d other classes", more))
	}
	if len(wanted) > 0 {
		lines = append(lines, "Before a promotion successful answers are still wanted (judge.exercise): "+strings.Join(wanted, ", ")+".")
	}
	classed := 0.0
	for _, c := range v.Classes {
		classed += c.Errors
	}
	if lost := v.Errors - classed; lost >= 0.5 {
		lines = append(lines, fmt.Sprintf("%.0f of its failed requests are in no class: they got no answer, or came before its classes were settled.", lost))
	}
	return lines
}

// strength is evidence in eight characters.
func strength(e float64) string {
	if e >= 1000 {
		return amount(e)
	}
	return fmt.Sprintf("%.3g", e)
}

func inAbout(seconds *float64) string {
	if seconds == nil || *seconds > 365*24*3600 {
		return ""
	}
	return " (expected in " + short(time.Duration(*seconds*float64(time.Second))) + ")"
}
