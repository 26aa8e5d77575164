package main

import (
	"fmt"
	"io"
)

// lines is a table whose rows are printed as soon as they are known. Of one without rows nothing is printed.
type lines struct {
	w      io.Writer
	title  string
	format string
	heads  []any
	begun  bool
}

func (l *lines) row(values ...any) {
	if !l.begun {
		fmt.Fprintf(l.w, "\n%s\n", l.title)
		fmt.Fprintf(l.w, l.format, l.heads...)
	}
	l.begun = true
	fmt.Fprintf(l.w, l.format, values...)
}
