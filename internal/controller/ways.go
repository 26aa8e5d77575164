package controller

import (
	"os"
	"path/filepath"
)

// ways are the names of what is on the way to policy files, also of what links name and is not there: it may come.
type ways struct {
	names   map[string]bool
	visited map[string]bool // by path
}

func newWays() ways { return ways{map[string]bool{}, map[string]bool{}} }

// note notes each name that a path goes by if it is a link: a link may lead over others, as those of config maps do.
func (w *ways) note(path string) {
	if w.visited[path] {
		return
	}
	w.visited[path] = true
	to, err := os.Readlink(path)
	if err != nil {
		return
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(filepath.Dir(path), to)
	}
	for ; to != filepath.Dir(to); to = filepath.Dir(to) {
		w.names[filepath.Base(to)] = true
		w.note(to)
	}
}
