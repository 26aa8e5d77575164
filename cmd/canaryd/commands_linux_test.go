package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/web"
	"github.com/canaryd/canaryd/internal/world"
)

// quietPolicies are services without traffic: nothing happens to them but what is said, so what is printed is always the
// same. A canary of frail fails within a second, as it has no evidence; the endpoints of away are asked whether they answer;
// the only Envoy of stiff refuses every weight of v2.
func quietPolicies(endpoint string) string {
	const common = `
versions: [{version: v1, endpoints: [%q], stable: true}]
ramp: {steps: [50%%, 100%%], hold: 1h}
after_promotion: {watch: 10m}
`
	text := ""
	for _, s := range []struct{ name, more string }{
		{"shop", "route: {probe: \"off\"}"}, {"frail", "route: {probe: \"off\"}\njudge: {no_evidence: {for: 1s, then: rollback}}"}, {"away", ""}, {"stiff", "route: {probe: \"off\"}"},
	} {
		text += "---\nservice: " + s.name + fmt.Sprintf(common, endpoint) + s.more + "\n"
	}
	return text
}

// deed is a command and its exit code; before it is said, everything that was decided is in force, and a version is in a phase.
type deed struct {
	command string
	code    int
	version string // service/version; empty: any
	phase   rollout.Phase
	first   func()
}

// What the commands of a release print, on a terminal of 80 and of 120 columns, and in CI, with exit codes.
func TestCommandsAsTheyArePrinted(t *testing.T) {
	for name, width := range map[string]int{"terminal-80": 80, "terminal-120": 120, "ci": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v1, v2 := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
			w := foundTown(t, quietPolicies(v1.Addr().String()))
			for _, service := range []string{"shop", "frail", "away", "stiff"} {
				w.join(world.Traffic{Service: service, ErrorRate: func(string, time.Time) float64 { return 0 }, Refuse: func(weights map[string]uint32) string {
					return map[bool]string{true: "too many clusters"}[weights["stiff/v2"] > 0]
				}})
			}
			gone := func() { v2.Close() }
			back := func() { v2 = listen(t, v2.Addr().String()) }
			var out strings.Builder
			for _, d := range slices.Concat(deeds(), awayDeeds(v2.Addr().String(), gone, back)) {
				if d.first != nil {
					d.first()
				}
				w.quiet(d)
				code, printed := w.print(width, d)
				if code != d.code {
					t.Errorf("canaryd %s: exit %d, want %d: %s", d.command, code, d.code, printed)
				}
				fmt.Fprintf(&out, "$ canaryd %s\n%s[exit %d]\n\n", d.command, asSeen(printed, width), code)
			}
			golden(t, "commands-"+name+".txt", somewhere(strings.TrimSuffix(out.String(), "\n")))
		})
	}
}

// deeds of a day on which everything is tried.
func deeds() []deed {
	return []deed{
		{command: "deploy shop v2 --endpoint 127.0.0.1:2"},
		{command: "pause shop"},
		{command: "deploy shop v2 --endpoint 127.0.0.1:2"},
		{command: "pause shop --wait"},
		{command: "wait shop v2", code: exitUndecided},
		{command: "resume shop"},
		{command: "resume shop", code: exitError},
		{command: "promote shop --wait"},
		{command: "abort shop", code: exitError},
		{command: "deploy shop v1"}, // CI deploys yesterday's tag
		{command: "wait shop v2"},
		{command: "deploy shop v3 --endpoint 127.0.0.1:3 --paused"},
		{command: "abort shop", code: exitError}, // which one?
		{command: "abort shop v1"},
		{command: "wait shop v1", code: exitAborted},
		{command: "deploy shop v1", code: exitAborted},
		{command: "deploy shop v1 --again"},
		{command: "promote shop v1"},
		{command: "wait shop v3", code: exitSuperseded},
		{command: "abort shop v1 --wait", code: exitError},
		{command: "abort shop v2", code: exitError},

		{command: "deploy frail v2 --endpoint 127.0.0.1:2"},
		{command: "wait frail v2", code: exitRolledBack, version: "frail/v2", phase: rollout.Failed},
		{command: "promote frail v2", code: exitError},
		{command: "promote frail v2 --even-failed --wait"},
		{command: "promote frail v1 --wait"}, // at 3 a.m.
		{command: "wait frail v2", code: exitAborted},
		{command: "abort frail v1", code: exitError},

		{command: "deploy stiff v2 --endpoint 127.0.0.1:2"},
		{command: "wait stiff v2", code: exitUndecided, version: "stiff/v2", phase: rollout.Canary},
		{command: "abort stiff --wait"},
		{command: "promote shop", code: exitError},
		{command: "promote nosuch v1", code: exitError},
		{command: "deploy shop v9", code: exitError},
	}
}

// awayDeeds are about a version that does not answer for a while.
func awayDeeds(endpoint string, gone, back func()) []deed {
	return []deed{
		{command: "deploy away v2 --endpoint " + endpoint},
		{command: "pause away", version: "away/v2", phase: rollout.Canary},
		{command: "wait away v2", code: exitUndecided, version: "away/v2", phase: rollout.Warming, first: gone},
		{command: "wait away v2", code: exitUndecided, version: "away/v2", phase: rollout.Paused, first: back}, // it answers again, and takes nothing
		{command: "resume away"},
		{command: "pause away", version: "away/v2", phase: rollout.Canary},
		{command: "resume away", version: "away/v2", phase: rollout.Warming, first: gone},
		{command: "abort away v1", code: exitError},
		{command: "promote away v2", code: exitError},
	}
}

// quiet waits until all that is decided is in force or refused, and a version is in a phase.
func (w *town) quiet(d deed) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		list, err := (&client{base: "http://" + w.web}).services(context.Background())
		if err == nil && len(list.Services) == 4 && !slices.ContainsFunc(list.Services, func(s web.Service) bool { return !calm(s, d) }) {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("before %q: %v, %+v", d.command, err, list)
		}
	}
}

func calm(s web.Service, d deed) bool {
	for _, v := range s.Versions {
		refused := v.Verdict != nil && v.Verdict.Code == "nack"
		if s.Service+"/"+v.Version == d.version && v.Phase != d.phase {
			return false
		}
		if !v.InForce && s.Service != "stiff" || s.Service+"/"+v.Version == d.version && s.Service == "stiff" && !refused {
			return false
		}
	}
	return len(s.Versions) > 0 && s.Envoys.Behind == 0 && s.Envoys.Applied == 1
}

// print says something on a terminal of a width, or with width 0 elsewhere; what goes to stdout and stderr is printed in
// one. Who waits for what does not come is interrupted (Ctrl-C) at the first word.
func (w *town) print(width int, d deed) (code int, printed string) {
	ctx, interrupt := context.WithCancel(w.t.Context())
	defer interrupt()
	out := &paper{}
	if d.code == exitUndecided {
		out.written = interrupt
	}
	args := append(strings.Fields(d.command), "--url", "http://"+w.web)
	if width == 0 {
		code = execute(ctx, args, strings.NewReader(""), out, out)
		return code, out.String()
	}
	screen, tty := terminal(w.t, width)
	read := make(chan struct{})
	go func() { _, _ = io.Copy(out, screen); close(read) }() // ends with an error when nobody has the other end
	code = execute(ctx, args, strings.NewReader(""), tty, tty)
	tty.Close()
	<-read
	screen.Close()
	return code, strings.ReplaceAll(out.String(), "\r\n", "\n")
}

// somewhere stands for the ports of this run.
func somewhere(text string) string {
	return regexp.MustCompile(`127\.0\.0\.1:\d{4,}`).ReplaceAllString(text, "127.0.0.1:PORT")
}

// terminal opens a pseudo-terminal: what is written to tty is read from screen.
func terminal(t *testing.T, width int) (screen, tty *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(screen.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(width), Row: 25})
	}
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return screen, tty
}

// asSeen is what is left of it to a reader: of a live line the last state, broken where the terminal ends; in a log the time
// of day does not matter.
func asSeen(printed string, width int) string {
	var out strings.Builder
	for line := range strings.Lines(somewhere(printed)) {
		line = strings.TrimSuffix(line[strings.LastIndex(line, "\r\033[K")+1:], "\n")
		line = strings.TrimPrefix(line, "\033[K")
		line = regexp.MustCompile(`^\d\d:\d\d:\d\d `).ReplaceAllString(line, "HH:MM:SS ")
		for r := []rune(line); ; r = r[width:] {
			if width == 0 || len(r) <= width {
				fmt.Fprintln(&out, string(r))
				break
			}
			fmt.Fprintln(&out, string(r[:width]))
		}
	}
	return out.String()
}
