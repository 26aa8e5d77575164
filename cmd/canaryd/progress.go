package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/canaryd/canaryd/internal/web"
)

// progressLog shows one live line on a terminal; elsewhere a line per change, and one a minute.
type progressLog struct {
	out  io.Writer
	last string
	at   time.Time
	line bool // the cursor stands behind the live line
}

const sayAgain = time.Minute

func (p *progressLog) show(v web.Version, s web.Service) {
	if width := terminalWidth(p.out); width > 0 {
		fmt.Fprintf(p.out, "\r\033[K%s", progressLine(v, s, width-1))
		p.line = true
		return
	}
	now := time.Now()
	key := fmt.Sprint(v.Phase, v.Weight, v.Launching)
	if v.Verdict != nil {
		key += string(v.Verdict.Code)
	}
	if key == p.last && now.Sub(p.at) < sayAgain {
		return
	}
	p.last, p.at = key, now
	fmt.Fprintf(p.out, "%s %s\n", now.Format(time.TimeOnly), changeLine(v))
}

// end leaves the live line.
func (p *progressLog) end() {
	if p.line {
		fmt.Fprintln(p.out)
	}
	p.line = false
}

// changeLine is what is new about a version.
func changeLine(v web.Version) string {
	line := fmt.Sprintf("%s %s weight %s", v.Version, v.Phase, percent(v.Weight))
	if step := stepOf(v); step != "" {
		line += ", step " + step
	}
	if left := toGo(v); left != "" {
		line += ", about " + left + " to go"
	}
	if reason := why(v); reason != "" {
		line += " (" + reason + ")"
	}
	return line
}

// progressLine fits a width, if there is one; what has no room for the bar goes without it.
func progressLine(v web.Version, s web.Service, width int) string {
	const most = 20
	full := min(most, int(v.Weight*most+0.5))
	line := progressOf(v, s, "["+strings.Repeat("#", full)+strings.Repeat("-", most-full)+"] ")
	if width > 0 && utf8.RuneCountInString(line) > width {
		line = progressOf(v, s, "")
	}
	return shorten(line, width)
}

func progressOf(v web.Version, s web.Service, bar string) string {
	line := fmt.Sprintf("%s %s %s%s", v.Version, v.Phase, bar, percent(v.Weight))
	if step := stepOf(v); step != "" {
		line += "  step " + step
	}
	if left := toGo(v); left != "" {
		line += "  about " + left + " to go"
	}
	line += fmt.Sprintf("  %.0f requests, errors %s", v.Requests, rate(v.ErrorRate))
	if s.Stable != nil {
		if st := s.Find(*s.Stable); st != nil && st.Version != v.Version {
			line += " (stable " + rate(st.ErrorRate) + ")"
		}
	}
	if v.Verdict == nil {
		return line
	}
	return line + fmt.Sprintf("  %s  evidence %.2g/%.0f", v.Verdict.Code, v.Verdict.Evidence, v.Verdict.Threshold)
}

// terminalWidth is 0 where nobody looks on a terminal.
func terminalWidth(w any) int {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		return 80
	}
	return width
}

// shorten takes what does not fit out of the middle: names often differ at their ends.
func shorten(text string, width int) string {
	r := []rune(text)
	if len(r) <= width || width < 3 {
		return text
	}
	head := width / 2
	return string(r[:head]) + "…" + string(r[len(r)-(width-1-head):])
}
