package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
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

// sheet is a table whose rows are printed as they are done, and those only that were asked for: a row's name is the sheet's, ": " and its own.
type sheet struct {
	asked
	w                    io.Writer
	name, title, columns string
	t                    *tabwriter.Writer // nil: no row was asked for yet
}

func (s *sheet) takes(row string) bool {
	if !strings.Contains(s.name+": "+row, s.only) {
		return false
	}
	if s.t == nil {
		fmt.Fprintf(s.w, "\n%s\n", s.title)
		s.t = tabwriter.NewWriter(s.w, 16, 4, 2, ' ', 0) // cells have a width of their own
		s.row("%s", s.columns)
	}
	return true
}

func (s *sheet) row(format string, cells ...any) {
	fmt.Fprintf(s.t, format+"\n", cells...)
	_ = s.t.Flush() // standard output: who reads it sees when it ends early
}

// sum ends a sheet that has rows.
func (s *sheet) sum(format string, cells ...any) {
	if s.t != nil {
		fmt.Fprintf(s.w, format+"\n", cells...)
	}
}
