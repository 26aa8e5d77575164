package main

import (
	"strings"
	"testing"
)

// A sheet prints the rows that were asked for, and nothing of one of which none was.
func TestRowsAreAskedForByName(t *testing.T) {
	for only, want := range map[string]string{"": "all|small|large|2 rows|", "pets": "all|small|large|2 rows|", "pets: large": "all|large|2 rows|", "cars": ""} {
		var w strings.Builder
		s := sheet{asked: asked{only: only}, w: &w, name: "pets", title: "PETS", columns: "all"}
		for _, row := range []string{"small", "large"} {
			if s.takes(row) {
				s.row("%s", row)
			}
		}
		s.sum("%d rows", 2)
		if got := strings.ReplaceAll(strings.TrimPrefix(w.String(), "\nPETS\n"), "\n", "|"); got != want {
			t.Errorf("%q: %q, want %q", only, got, want)
		}
	}
}

// What is below a head is as wide, and to the right where the head begins with a space; a cell that is wider moves the rest of its row.
func TestCellsStandBelowTheirHeads(t *testing.T) {
	var w strings.Builder
	s := sheet{w: &w, title: "PETS", columns: "pet  \t age\t cut after\tnotes"}
	s.takes("any")
	s.row("%s\t%d\t%.1f\t%s", "cat", 3, 1.5, "-")
	s.row("%s\t%d\t%.1f\t%s", "crocodile", 12, 100.0, "none")
	want := "\nPETS\npet     age   cut after  notes\ncat       3         1.5  -\ncrocodile    12       100.0  none\n"
	if w.String() != want {
		t.Errorf("%s\nwant%s", &w, want)
	}
}

// Rows share no dice, nor do the same rows of another seed.
func TestRowsThrowDiceOfTheirOwn(t *testing.T) {
	seen := map[float64]bool{}
	for seed := range uint64(3) {
		for row := range 100 {
			a := asked{seed: seed + 1}.row(row)
			for run := range 3 {
				seen[a.dice(run).Float64()] = true
			}
		}
	}
	if len(seen) != 900 {
		t.Errorf("%d different dice of 900", len(seen))
	}
}
