// Command tally reads what `go test -json` says, shows it as a person wants it, and counts: every test and subtest that
// passed, failed or was skipped. It ends with 1 when anything failed.
//
//	go test -json ./... | tally -into bin/tally.txt unit     # shows what failed and what was skipped; -v: everything
//	tally -sum bin/tally.txt                                 # adds up what was written there
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	verbose := flag.Bool("v", false, "show what passed too")
	into := flag.String("into", "", "write the counts to this file's end")
	sum := flag.String("sum", "", "add up the counts in this file")
	flag.Parse()
	var failed bool
	var err error
	if *sum != "" {
		failed, err = add(os.Stdout, *sum)
	} else {
		failed, err = count(os.Stdin, os.Stdout, flag.Arg(0), *into, *verbose)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		os.Exit(2)
	}
	if failed {
		os.Exit(1)
	}
}

// event is one line of `go test -json`.
type event struct{ Action, Package, Test, Output string }

// tally is what has been counted, and what has not been shown yet.
type tally struct {
	out     io.Writer
	verbose bool
	passed  int
	failed  int
	skipped int
	running map[[2]string]bool     // package and test
	said    map[[2]string][]string // by package and test at the top
	blamed  map[string]bool        // packages with a failure that was counted
	shown   map[[2]string]bool     // tests at the top of which all is to be shown
	broken  map[[2]string]bool     // those of them that failed, or a subtest of which did
}

func count(in io.Reader, out io.Writer, name, into string, verbose bool) (failed bool, err error) {
	t := &tally{out: out, verbose: verbose, running: map[[2]string]bool{}, said: map[[2]string][]string{}, blamed: map[string]bool{}, shown: map[[2]string]bool{}, broken: map[[2]string]bool{}}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			t.line(line)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return true, err
		}
	}
	t.end()
	text := fmt.Sprintf("%s: %d passed, %d failed, %d skipped\n", name, t.passed, t.failed, t.skipped)
	fmt.Fprint(out, text)
	if into == "" {
		return t.failed > 0, nil
	}
	f, err := os.OpenFile(into, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return true, err
	}
	if _, err := f.WriteString(text); err != nil { // one write: others may write there too
		return true, err
	}
	return t.failed > 0, f.Close()
}

func (t *tally) line(line string) {
	var e event
	if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
		fmt.Fprint(t.out, line) // of the go command itself
		return
	}
	test := [2]string{e.Package, e.Test}
	top, _, _ := strings.Cut(e.Test, "/")
	root := [2]string{e.Package, top}
	switch e.Action {
	case "build-output":
		fmt.Fprint(t.out, e.Output)
	case "run":
		t.running[test] = true
	case "output":
		switch {
		case e.Test == "" && (e.Output != "PASS\n" || t.verbose):
			fmt.Fprint(t.out, e.Output)
		case e.Test != "" && !strings.HasPrefix(e.Output, "=== "):
			t.said[root] = append(t.said[root], e.Output)
		}
	case "pass", "fail", "skip":
		t.ended(e.Action, test, root)
	}
}

// ended counts a test or, when it has none to blame, a package.
func (t *tally) ended(action string, test, root [2]string) {
	delete(t.running, test)
	if test[1] == "" {
		if action == "fail" && !t.blamed[test[0]] && !t.left(test[0]) {
			t.failed++
		}
		return
	}
	switch action {
	case "pass":
		t.passed++
	case "skip":
		t.skipped++
		t.shown[root] = true
	case "fail":
		t.failed++
		t.blamed[test[0]] = true
		t.shown[root], t.broken[root] = true, true
	}
	if test == root {
		t.show(root)
	}
}

// left reports whether tests of a package have not ended; they are counted as failed at the end.
func (t *tally) left(pkg string) bool {
	for k := range t.running {
		if k[0] == pkg {
			return true
		}
	}
	return false
}

func (t *tally) show(root [2]string) {
	if t.verbose || t.shown[root] {
		fmt.Fprint(t.out, strings.Join(t.said[root], ""))
	}
	if t.broken[root] {
		t.why(root)
	}
	delete(t.said, root)
}

// why says again, in a line each, what a failed test said of its own: what came between may be a long log.
func (t *tally) why(root [2]string) {
	var lines []string
	for _, line := range t.said[root] {
		if line = strings.TrimSpace(line); strings.Contains(line, "_test.go:") {
			lines = append(lines, fmt.Sprintf("%s: %.300s\n", root[1], line))
		}
	}
	fmt.Fprint(t.out, strings.Join(lines[max(0, len(lines)-10):], ""))
}

// end takes what began and never ended for failed.
func (t *tally) end() {
	for k := range t.running {
		t.failed++
		fmt.Fprintf(t.out, "--- FAIL: %s %s did not end\n", k[0], k[1])
	}
	for root := range t.said {
		t.shown[root] = true
		t.show(root)
	}
}

// add sums up the lines of a file, by name and altogether. An empty file is a failure: nothing was tested.
func add(out io.Writer, file string) (failed bool, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return true, err
	}
	var names []string
	sums := map[string][3]int{}
	var all [3]int
	for line := range strings.Lines(string(text)) {
		name, counts, _ := strings.Cut(line, ": ")
		var n [3]int
		if _, err := fmt.Sscanf(counts, "%d passed, %d failed, %d skipped", &n[0], &n[1], &n[2]); err != nil {
			return true, fmt.Errorf("%s: %q: %w", file, line, err)
		}
		s, seen := sums[name]
		if !seen {
			names = append(names, name)
		}
		for i := range n {
			s[i] += n[i]
			all[i] += n[i]
		}
		sums[name] = s
	}
	for _, name := range names {
		fmt.Fprintf(out, "%s: %d passed, %d failed, %d skipped\n", name, sums[name][0], sums[name][1], sums[name][2])
	}
	fmt.Fprintf(out, "%d tests were run\nall: %d passed, %d failed, %d skipped\n", all[0]+all[1], all[0], all[1], all[2])
	return all[1] > 0 || all[0] == 0, nil
}
