package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Finding is one mistake, where it stands, and what to write instead.
type Finding struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
	Warning bool   `json:"warning,omitempty"`
}

func (f Finding) String() string {
	return fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.Message)
}

// Findings are all the mistakes of a file, in order of position.
type Findings []Finding

func (fs Findings) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Errors are the findings that are errors, not warnings.
func (fs Findings) Errors() Findings {
	return slices.DeleteFunc(slices.Clone(fs), func(f Finding) bool { return f.Warning })
}

// Warnings are the findings that do not stop a policy from being used.
func (fs Findings) Warnings() Findings {
	return slices.DeleteFunc(slices.Clone(fs), func(f Finding) bool { return !f.Warning })
}

// Sort puts the findings in order of position, those of one place in the order they were found.
func (fs Findings) Sort() {
	slices.SortStableFunc(fs, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}
