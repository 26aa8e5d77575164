//go:build race

package analysis

// raced: the race detector makes arithmetic ten times slower. `make unit` runs these tests without it too, in full.
const raced = true
