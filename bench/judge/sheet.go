package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// asked is what to simulate.
type asked struct {
	runs int    // releases of a row
	seed uint64 // 1 or more: another one throws other dice
	only string // rows whose name contains it
}

// row is the same for one row of a table whose rows share no releases: one that chance cuts would be cut in each of them.
func (a asked) row(n int) asked {
	a.seed = (a.seed-1)*1000 + uint64(n) + 1
	return a
}

// dice are those of one release.
func (a asked) dice(run int) dice { return newDice((a.seed-1)<<32 + uint64(run) + 1) }

// past is the seed of one of the pasts that the releases of a row share.
func (a asked) past(n int) uint64 { return (a.seed-1)<<32 + uint64(n) }

// sheet is a table whose rows are printed as they are done, and those only that were asked for: a row's name is the sheet's, ": " and
// its own. Columns are as wide as their heads, which tabs part; a head that begins with a space stands on the right, and so does what is below.
type sheet struct {
	asked
	w                    io.Writer
	name, title, columns string // without a name, rows are called as they are
	begun                bool   // a row was asked for
}

func (s *sheet) takes(row string) bool {
	if s.name != "" {
		row = s.name + ": " + row
	}
	if !strings.Contains(row, s.only) {
		return false
	}
	if !s.begun {
		s.begun = true
		fmt.Fprintf(s.w, "\n%s\n", s.title)
		s.row("%s", s.columns)
	}
	return true
}

// row prints cells, which tabs part as they do the columns.
func (s *sheet) row(format string, cells ...any) {
	heads := strings.Split(s.columns, "\t")
	line := strings.Split(fmt.Sprintf(format, cells...), "\t")
	for i, cell := range line {
		width := utf8.RuneCountInString(heads[i])
		if strings.HasPrefix(heads[i], " ") {
			line[i] = fmt.Sprintf("%*s", width, cell)
		} else {
			line[i] = fmt.Sprintf("%-*s", width, cell)
		}
	}
	fmt.Fprintln(s.w, strings.TrimRight(strings.Join(line, "  "), " "))
}

// sum ends a sheet that has rows.
func (s *sheet) sum(format string, cells ...any) {
	if s.begun {
		fmt.Fprintf(s.w, format+"\n", cells...)
	}
}
