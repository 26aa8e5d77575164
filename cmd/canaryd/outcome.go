package main

import (
	"fmt"
	"io"

	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/web"
)

// goal says of a version whether what is waited for has come, and with which exit code.
type goal func(v web.Version) (code int, done bool)

// promoted waits for the outcome of an attempt. 0 means one thing: it became stable with everything in force, though
// another one may have followed since.
func promoted(v web.Version) (code int, done bool) {
	switch v.Phase {
	case rollout.Stable:
		return exitOK, v.InForce && len(v.Endpoints) > 0 // a first image has none before it runs
	case rollout.Warm, rollout.Draining, rollout.Retired:
		if v.TookOver == nil {
			return exitSuperseded, true // before it was in force
		}
		return exitOK, true
	case rollout.Failed:
		return exitRolledBack, true
	case rollout.Aborted:
		return exitAborted, true
	case rollout.Superseded:
		return exitSuperseded, true
	}
	return 0, false
}

// cut waits until nobody is sent to a version any more.
func cut(v web.Version) (code int, done bool) { return exitOK, v.Weight == 0 && v.InForce }

// settled waits until the weight that a version has now is in force, if it does not end before.
func settled(v web.Version) (code int, done bool) {
	if code, done := promoted(v); done {
		return code, true
	}
	return exitOK, v.InForce
}

// ended reports whether a version has had its time.
func ended(v web.Version) bool { return !v.Phase.Live() }

// sentence says where a version stands, and why.
func sentence(service string, v web.Version) string {
	line := fmt.Sprintf("%s %s: %s", service, v.Version, v.Phase)
	if v.Verdict == nil || v.Verdict.Reason == "" {
		return line + "."
	}
	return line + ". " + v.Verdict.Reason
}

// showVersion says what became of a command.
func showVersion(w io.Writer, out, service string, v web.Version) error {
	if out == "json" {
		return printJSON(w, v)
	}
	force := ""
	if !v.InForce {
		force = ", not in force yet"
	}
	line := fmt.Sprintf("%s %s: %s at %s%s", service, v.Version, v.Phase, percent(v.Weight), force)
	if reason := why(v); reason != "" {
		line += ". " + reason
	}
	_, err := fmt.Fprintln(w, line)
	return err
}
