package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/web"
)

func deployCommand() *cobra.Command {
	var a web.Announcement
	var wait, again bool
	var timeout time.Duration
	c := &cobra.Command{Use: "deploy SERVICE [VERSION]", Short: "Announce a release, and wait for its fate with --wait", Args: cobra.RangeArgs(1, 2),
		Long: "Announces a version with its endpoints, or with an image that canaryd starts. With --image VERSION may be left out: it is the image's tag."}
	cl, out := remote(c), output(c)
	c.Flags().StringSliceVar(&a.Endpoints, "endpoint", nil, "where the version runs, host:port; may be repeated")
	c.Flags().StringVar(&a.Image, "image", "", "container image to start, or a tag of the policy's docker.image")
	c.Flags().BoolVar(&a.Paused, "paused", false, "keep it at weight 0 until `canaryd resume`: testers reach it (route.testers), nobody else")
	c.Flags().BoolVar(&wait, "wait", false, "wait until it is stable, rolled back, aborted or superseded")
	c.Flags().BoolVar(&again, "again", false, "start a new attempt of a version that has ended")
	c.Flags().DurationVar(&timeout, "timeout", 0, "give up waiting after so long (exit 11); the rollout goes on. 0: never")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(*out); err != nil {
			return err
		}
		if len(args) == 1 {
			tag, err := tagOf(a.Image)
			if err != nil {
				return usage("%v", err)
			}
			args = append(args, tag)
		}
		path := servicePath(args[0], "versions", args[1])
		if again {
			path += "?again=true"
		}
		var v web.Version
		if err := cl.call(cmd.Context(), http.MethodPut, path, a, &v); err != nil {
			return err
		}
		if wait {
			w := waiter{client: cl, service: args[0], version: args[1], timeout: timeout, out: *out}
			return w.run(cmd)
		}
		return showVersion(cmd.OutOrStdout(), *out, args[0], v)
	}
	return c
}

// tagOf is the version that an image stands for.
func tagOf(image string) (string, error) {
	if image == "" {
		return "", errors.New("name the VERSION, or give --image")
	}
	name := image[strings.LastIndexByte(image, '/')+1:]
	name, digest, _ := strings.Cut(name, "@")
	_, tag, tagged := strings.Cut(name, ":")
	switch {
	case tagged:
		return tag, nil
	case digest != "":
		return "", fmt.Errorf("--image %s has no tag: name the VERSION", image)
	case image == name: // a bare tag
		return name, nil
	}
	return "", fmt.Errorf("--image %s has no tag: name the VERSION, or add one", image)
}

func waitCommand() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{Use: "wait SERVICE VERSION", Short: "Wait for the fate of a release", Args: cobra.ExactArgs(2)}
	cl, out := remote(c), output(c)
	c.Flags().DurationVar(&timeout, "timeout", 0, "give up after so long (exit 11); 0: never")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(*out); err != nil {
			return err
		}
		w := waiter{client: cl, service: args[0], version: args[1], timeout: timeout, out: *out}
		return w.run(cmd)
	}
	return c
}

func showVersion(w io.Writer, out, service string, v web.Version) error {
	if out == "json" {
		return printJSON(w, v)
	}
	return statusTable(w, web.Services{Services: []web.Service{{Service: service, Versions: []web.Version{v}}}})
}

// waiter follows one version to its end.
type waiter struct {
	*client
	service, version string
	timeout          time.Duration
	out              string
	last             string
}

const askEvery = 200 * time.Millisecond

func (w *waiter) run(cmd *cobra.Command) error {
	ctx := cmd.Context()
	if w.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.timeout)
		defer cancel()
	}
	away := 0
	for {
		s, err := w.client.service(ctx, w.service)
		var p *web.Problem
		switch {
		case ctx.Err() != nil:
			return w.undecided(cmd)
		case errors.As(err, &p):
			return err
		case err != nil:
			if away++; away == 1 {
				fmt.Fprintln(cmd.ErrOrStderr(), "canaryd does not answer; the Envoys keep their weights; waiting for it")
			}
		default:
			away = 0
			v := s.Find(w.version)
			if v == nil {
				return fmt.Errorf("service %s has no version %s: `canaryd status %s` lists them", w.service, w.version, w.service)
			}
			w.progress(cmd.ErrOrStderr(), *v, s)
			if code, done := fate(*v); done {
				return w.end(cmd, *v, code)
			}
		}
		select {
		case <-ctx.Done():
			return w.undecided(cmd)
		case <-time.After(askEvery):
		}
	}
}

// fate is the exit code of a version that has ended, or that is stable with everything in force.
func fate(v web.Version) (code int, done bool) {
	switch v.Phase {
	case rollout.Stable:
		return exitOK, v.InForce && len(v.Endpoints) > 0 // a first image has none before it runs
	case rollout.Warm, rollout.Draining, rollout.Retired:
		return exitOK, true // it was promoted, and later succeeded by another
	case rollout.Failed:
		return exitRolledBack, true
	case rollout.Aborted:
		return exitAborted, true
	case rollout.Superseded:
		return exitSuperseded, true
	}
	return 0, false
}

func (w *waiter) end(cmd *cobra.Command, v web.Version, code int) error {
	if isTerminal(cmd.ErrOrStderr()) {
		fmt.Fprintln(cmd.ErrOrStderr())
	}
	if w.out == "json" {
		if err := printJSON(cmd.OutOrStdout(), v); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s: %s. %s\n", w.service, w.version, v.Phase, reason(v))
	}
	if code == exitOK {
		return nil
	}
	return &exit{code: code}
}

func reason(v web.Version) string {
	if v.Verdict == nil {
		return ""
	}
	return v.Verdict.Reason
}

func (w *waiter) undecided(cmd *cobra.Command) error {
	if isTerminal(cmd.ErrOrStderr()) {
		fmt.Fprintln(cmd.ErrOrStderr())
	}
	return &exit{exitUndecided, fmt.Sprintf("%s %s is undecided; the rollout goes on. Try: canaryd wait %s %s", w.service, w.version, w.service, w.version)}
}

// progress shows one live line on a terminal, and one line per change elsewhere.
func (w *waiter) progress(out io.Writer, v web.Version, s web.Service) {
	if isTerminal(out) {
		fmt.Fprintf(out, "\r\033[K%s", progressLine(v, s))
		return
	}
	line := fmt.Sprintf("%s %s weight %s", v.Version, v.Phase, percent(v.Weight))
	if v.Launching != "" {
		line += " " + v.Launching
	} else if v.Verdict != nil {
		line += " (" + string(v.Verdict.Code) + ")"
	}
	if line != w.last {
		fmt.Fprintf(out, "%s %s\n", time.Now().Format(time.TimeOnly), line)
		w.last = line
	}
}

func progressLine(v web.Version, s web.Service) string {
	const width = 20
	full := min(width, int(v.Weight*width+0.5))
	bar := strings.Repeat("#", full) + strings.Repeat("-", width-full)
	line := fmt.Sprintf("%s %s [%s] %s  %.0f requests, errors %s", v.Version, v.Phase, bar, percent(v.Weight), v.Requests, rate(v.ErrorRate))
	if s.Stable != nil {
		if st := s.Find(*s.Stable); st != nil && st.Version != v.Version {
			line += " (stable " + rate(st.ErrorRate) + ")"
		}
	}
	if v.Verdict == nil {
		return line
	}
	line += fmt.Sprintf("  evidence %.2g/%.0f", v.Verdict.Evidence, v.Verdict.Threshold)
	if t := v.Verdict.SecondsToDecide; t != nil {
		line += fmt.Sprintf("  about %s to go", time.Duration(*t*float64(time.Second)).Round(time.Second))
	}
	return line + "  " + string(v.Verdict.Code)
}
