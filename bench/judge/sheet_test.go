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
