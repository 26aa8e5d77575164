package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/web"
)

// verbs are all commands that do something.
func verbs(c *cobra.Command) (all []*cobra.Command) {
	for _, sub := range c.Commands() {
		all = append(all, verbs(sub)...)
	}
	if c.Runnable() {
		all = append(all, c)
	}
	return all
}

// Every command shows an example of itself, and says how it may end.
func TestEveryCommandHasExamplesAndExitCodes(t *testing.T) {
	for _, c := range verbs(newRoot()) {
		if !strings.Contains(c.Example, c.CommandPath()) || !strings.Contains(c.Long, "Exit codes: 0 ") {
			t.Errorf("%s: example %q\n%s", c.CommandPath(), c.Example, c.Long)
		}
	}
}

// Help fits a terminal of 80 columns, where a line that is longer would be broken within a word.
func TestHelpFits80Columns(t *testing.T) {
	pages := append(verbs(newRoot()), newRoot())
	for _, c := range newRoot().Commands() {
		if c.HasSubCommands() {
			pages = append(pages, c)
		}
	}
	for _, c := range pages {
		args := append(strings.Fields(c.CommandPath())[1:], "--help")
		code, out, _ := runCLI(t, "", args...)
		for line := range strings.Lines(out) {
			if code != exitOK || len([]rune(strings.TrimSuffix(line, "\n"))) > helpWidth {
				t.Errorf("%s: %s", c.CommandPath(), line)
			}
		}
	}
}

func TestAMissingArgumentIsNamed(t *testing.T) {
	for args, want := range map[string]string{
		"deploy":           "canaryd: SERVICE is missing: write canaryd deploy SERVICE [VERSION]\nTry: canaryd deploy --help\n",
		"wait shop":        "canaryd: VERSION is missing: write canaryd wait SERVICE VERSION\n",
		"check":            "canaryd: FILE is missing: write canaryd check FILE...\n",
		"envoys forget":    "canaryd: NODE is missing: write canaryd envoys forget NODE\n",
		"abort shop v2 v3": `canaryd: "v3" is too much: write canaryd abort SERVICE [VERSION]`,
		"schema policy":    `canaryd: "policy" is too much: write canaryd schema`,
		"staus":            "canaryd: unknown command \"staus\" for \"canaryd\"\n\nDid you mean this?\n\tstatus\n",
	} {
		if code, _, errOut := runCLI(t, "", strings.Fields(args)...); code != exitUsage || !strings.Contains(errOut, want) {
			t.Errorf("canaryd %s: exit %d: %s", args, code, errOut)
		}
	}
}

// Wrong usage is exit code 2, before anything is done or anybody asked.
func TestWrongUsageIsAnExitCodeOfItsOwn(t *testing.T) {
	for args, want := range map[string]string{
		"bootstrap --xds x": "--xds \"x\" is not host:port", "bootstrap --admin x": "--admin \"x\" is not host:port", "bootstrap --envoy-version x": "write it like 1.36", "bootstrap --max-heap x": "is not a size",
		"xds foo": `unknown command "foo" for "canaryd xds": write one of dump`, "completion bsh": `unknown command "bsh" for "canaryd completion": write one of bash, `, "demo --source x": "write envoy or prometheus",
		"deploy shop v2 --endpoint a:1 --image b": "write --endpoint or --image", "check --rate -1 x.yml": "--rate must be above 0", "classes shop --from x": "not both", "wait shop v2 --timeout -1s": "--timeout -1s: write a time such as 2h", "abort shop --timeout -1s": "--timeout -1s", "deploy shop v2 --timeout -1s": "--timeout -1s",
		"deploy shop v2 --endpoint a:1 --timeout 2h": "nothing waits here: add --wait, or leave --timeout out", "promote shop v2 --timeout 0 -o json": "add --wait", "abort shop --wait=false --timeout 1m": "add --wait",
		"serve --log.level=loud": "write debug, info", "status -o x": "write table or json",
	} {
		if code, out, errOut := runCLI(t, "", strings.Fields(args)...); code != exitUsage || !strings.Contains(errOut, want) || out != "" {
			t.Errorf("canaryd %s: exit %d: %s%s", args, code, out, errOut)
		}
	}
	for _, args := range []string{"xds", "xds --help", "completion --help", "completion bash", "help xds", "help", "--version", "__complete st"} {
		if code, out, errOut := runCLI(t, "", strings.Fields(args)...); code != exitOK || out == "" {
			t.Errorf("canaryd %s: exit %d: %s%s", args, code, out, errOut)
		}
	}
}

// Services and versions are completed with those that a command could mean; a daemon that is away is no hindrance.
func TestNamesAreCompleted(t *testing.T) {
	t.Parallel()
	w := newTown(t, strings.Replace(townPolicy, "hold: 1s", "hold: 1h", 1))
	w.want("deploy shop v2 --endpoint 127.0.0.1:2", exitOK, "")
	w.phase("v2", rollout.Canary)
	w.want("deploy shop v3 --endpoint 127.0.0.1:3 --paused", exitOK, "")
	w.want("abort shop v3", exitOK, "")
	complete := func(words ...string) string {
		var out, errOut bytes.Buffer
		cut := len(words) - 1
		args := append(append([]string{"__complete"}, words[:cut]...), "--url", "http://"+w.web, words[cut])
		if words[cut-1] == "-o" {
			args = append([]string{"__complete"}, words...)
		}
		if code := execute(t.Context(), args, strings.NewReader(""), &out, &errOut); code != exitOK || !strings.Contains(out.String(), ":4\n") {
			t.Errorf("%q: exit %d, %s%s", words, code, &out, &errOut)
		}
		names, _, _ := strings.Cut(out.String(), ":4\n")
		return strings.TrimSuffix(strings.ReplaceAll(names, "\n", " "), " ")
	}
	for _, c := range []struct{ words, want string }{
		{"status ", "shop"}, {"status s", "shop"}, {"status x", ""}, {"deploy ", "shop"}, {"history ", "shop"}, {"remove ", "shop"}, {"envoys ", "shop"},
		{"status shop ", ""}, {"promote nosuch ", ""}, {"envoys forget ", "edge-shop\tedge"},
		{"promote shop ", "v2\tcanary at 50% v3\taborted at 0%"}, {"pause shop ", "v2\tcanary at 50%"},
		{"abort shop ", "v1\tstable at 50% v2\tcanary at 50%"}, {"wait shop ", "v1\tstable at 50% v2\tcanary at 50% v3\taborted at 0%"},
		{"status -o ", "table json"}, {"abort shop v2 ", ""},
	} {
		if got := complete(strings.Split(c.words, " ")...); got != c.want {
			t.Errorf("%q: %q, want %q", c.words, got, c.want)
		}
	}
	w.stop()
	begin := time.Now()
	if got := complete("status", ""); got != "" || time.Since(begin) > 5*time.Second {
		t.Errorf("away: %q after %s", got, time.Since(begin))
	}
	hangs := listen(t, "127.0.0.1:0") // it takes the connection, and says nothing
	begin = time.Now()
	var out bytes.Buffer
	if code := execute(t.Context(), []string{"__complete", "status", "--url", "http://" + hangs.Addr().String(), ""}, strings.NewReader(""), &out, io.Discard); code != exitOK || out.String() != ":4\n" || time.Since(begin) > 5*time.Second {
		t.Errorf("hanging: exit %d, %q after %s", code, &out, time.Since(begin))
	}
}

// Where there is nothing to show, that is said, with what to do.
func TestNothingIsSaidInWords(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"services": [], "nodes": []}`)
	}))
	defer s.Close()
	for args, want := range map[string]string{
		"status":      "There are no services, or none that you may see: each policy file",
		"envoys":      "No Envoy has connected yet: `canaryd bootstrap` prints",
		"envoys shop": "No Envoy of shop has connected yet: ",
	} {
		if code, out, errOut := runCLI(t, "", append(strings.Fields(args), "--url", s.URL)...); code != exitOK || out != "" || !strings.HasPrefix(errOut, want) {
			t.Errorf("canaryd %s: exit %d: %q %q", args, code, out, errOut)
		}
		if code, out, errOut := runCLI(t, "", append(strings.Fields(args), "-o", "json", "--url", s.URL)...); code != exitOK || !strings.Contains(out, "[]") || errOut != "" {
			t.Errorf("canaryd %s -o json: exit %d: %q %q", args, code, out, errOut)
		}
	}
}

// Where a service is removed while somebody waits, no rollout goes on.
func TestWaitingEndsWithTheService(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == 1 {
			_, _ = io.WriteString(w, `{"service": "shop", "versions": [{"version": "v2", "phase": "canary", "attempt": 1}]}`)
			return
		}
		web.Refuse(w, http.StatusNotFound, "there is no service shop")
	}))
	defer s.Close()
	if code, _, errOut := runCLI(t, "", "wait", "shop", "v2", "--url", s.URL); code != exitError || !strings.HasSuffix(errOut, "canaryd: there is no service shop\n") {
		t.Errorf("exit %d: %s", code, errOut)
	}
}

// Who waits waits on where canaryd is asked too often, and hears that the rollout goes on where it may not look any more.
func TestWaitingSurvivesTooManyRequests(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch asked++; asked {
		case 1, 3:
			_, _ = io.WriteString(w, `{"service": "shop", "versions": [{"version": "v2", "phase": "canary", "attempt": 1}]}`)
		case 2:
			web.Refuse(w, http.StatusTooManyRequests, "more requests come than rate_limit lets through")
		default:
			web.Refuse(w, http.StatusUnauthorized, "the bearer token is not known here")
		}
	}))
	defer s.Close()
	code, out, errOut := runCLI(t, "", "wait", "shop", "v2", "--url", s.URL)
	if code != exitError || asked != 4 || !strings.Contains(errOut, "canaryd: the bearer token is not known here; the rollout goes on\n") {
		t.Errorf("exit %d after %d answers: %s%s", code, asked, out, errOut)
	}
}
