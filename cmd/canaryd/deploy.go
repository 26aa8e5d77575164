package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/web"
)

const deployHelp = `Announces a version with its endpoints, or with an image that canaryd starts. With --image VERSION may be left out: it is the image's tag.

A version that has served before, or was superseded, begins a new attempt and is judged like a new release. One that was rolled back
or aborted stays that: its outcome is printed, and nothing is started without --again.

Exit codes: 0 announced; with --wait: this attempt became stable, with 100 % in force. 10 rolled back, 11 undecided at the timeout or
after Ctrl-C (the rollout goes on), 12 aborted by a person, 13 superseded by a newer release, 1 an error, 2 wrong usage.`

const deployExamples = `  canaryd deploy shop v2 --endpoint 10.0.0.21:8080 --wait --timeout 2h
  canaryd deploy shop v3 --endpoint 10.0.0.22:8080 --paused     # for testers
  canaryd deploy shop --image 1.4.2 --wait`

func deployCommand() *cobra.Command {
	var a web.Announcement
	var wait, again bool
	var timeout time.Duration
	c := &cobra.Command{Use: "deploy SERVICE [VERSION]", Short: "Announce a release, and wait for its outcome with --wait",
		Long: deployHelp, Example: deployExamples}
	cl, out := remote(c), output(c)
	c.Flags().StringSliceVar(&a.Endpoints, "endpoint", nil, "where the version runs, host:port; may be repeated")
	c.Flags().StringVar(&a.Image, "image", "", "container image to start, or a tag of the policy's docker.image")
	c.Flags().BoolVar(&a.Paused, "paused", false, "keep it at weight 0 until it is resumed: testers reach it (route.testers), nobody else")
	c.Flags().BoolVar(&wait, "wait", false, "wait until it is stable, rolled back, aborted or superseded")
	c.Flags().BoolVar(&again, "again", false, "start a new attempt of a version that was rolled back or aborted, too")
	c.Flags().DurationVar(&timeout, "timeout", 0, "with --wait: give up after so long (exit 11); the rollout goes on. 0: never")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkWait(cmd, *out, timeout); err != nil {
			return err
		}
		if len(args) == 1 {
			tag, err := tagOf(a.Image)
			if err != nil {
				return usage("%v", err)
			}
			args = append(args, tag)
		}
		if a.Image != "" && len(a.Endpoints) > 0 {
			return usage("write --endpoint or --image: an image's endpoints are found by themselves")
		}
		path := servicePath(args[0], "versions", args[1])
		if again {
			path += "?again=true"
		}
		d := deployment{client: cl, service: args[0], version: args[1], out: *out}
		since := time.Now()
		if err := d.announce(cmd, path, a, wait, timeout); err != nil {
			return err
		}
		if v := d.v; v.Phase.Cut() {
			return d.nothingStarted(cmd)
		}
		if !wait {
			return showVersion(cmd.OutOrStdout(), *out, args[0], d.v)
		}
		w := waiter{client: cl, service: args[0], version: args[1], attempt: d.v.Attempt, seen: &d.v, timeout: left(timeout, since), out: *out, goal: promoted, pending: "undecided"}
		return w.run(cmd)
	}
	return c
}

// deployment is an announcement and what came of it.
type deployment struct {
	*client
	service, version, out string
	v                     web.Version
}

// announce says to a person what it began, and what it did not.
func (d *deployment) announce(cmd *cobra.Command, path string, a web.Announcement, wait bool, timeout time.Duration) error {
	ctx, cancel := within(cmd.Context(), timeout)
	defer cancel()
	status, err := d.ask(ctx, http.MethodPut, path, a, &d.v)
	if wait && (notYetTaken(status) || unheard(err)) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%v\nAnnouncing it again until it is stored\n", err)
		status, err = d.insist(ctx, path, a)
	}
	switch talk := cmd.ErrOrStderr(); {
	case err != nil && cmd.Context().Err() != nil:
		return fmt.Errorf("interrupted: %s may have been announced or not: `canaryd status %s` says it", d.version, d.service)
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("the time is up: %s may have been announced or not: `canaryd status %s` says it", d.version, d.service)
	case err != nil:
		return err
	case status == http.StatusCreated && d.v.Attempt > 1:
		fmt.Fprintf(talk, "attempt %d of %s begins, judged like a new release; to send everything to it at once: canaryd promote %s %s\n", d.v.Attempt, d.version, d.service, d.version)
	case status == http.StatusOK && !ended(d.v):
		fmt.Fprintf(talk, "%s is known and %s: its attempt %d goes on\n", d.version, d.v.Phase, d.v.Attempt)
	}
	return nil
}

// insist announces a version until that is stored: canaryd keeps what it decided, and takes it once.
func (d *deployment) insist(ctx context.Context, path string, a web.Announcement) (status int, err error) {
	for pause := askEvery; ; pause = min(2*pause, askRarely) { // others may have as much to say
		select {
		case <-ctx.Done():
			return status, ctx.Err()
		case <-time.After(pause):
		}
		status, err = d.ask(ctx, http.MethodPut, path, a, &d.v)
		again := notYetTaken(status) || status == 0 // it restarts
		if !again || ctx.Err() != nil {
			return status, err
		}
	}
}

// notYetTaken reports an answer that says to come again: it is not stored yet, or too many came at once.
func notYetTaken(status int) bool {
	return status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests
}

// unheard reports whether a request may have reached a canaryd that ended, or hung, before it answered.
func unheard(err error) bool {
	var op *net.OpError
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) && op.Op != "dial"
}

// within is a context that ends when the time of --timeout is up; 0: it does not.
func within(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, timeout)
}

// left is what is left of a timeout that began to run: at least a moment, because 0 is none.
func left(timeout time.Duration, since time.Time) time.Duration {
	if timeout == 0 {
		return 0
	}
	return max(timeout-time.Since(since), time.Millisecond)
}

// nothingStarted says how a version ended that was announced once more, and exits as that attempt did.
func (d *deployment) nothingStarted(cmd *cobra.Command) error {
	code, _ := promoted(d.v)
	hint := fmt.Sprintf("Nothing was started: this is how attempt %d ended. Try: --again starts another", d.v.Attempt)
	if d.out == "json" {
		fmt.Fprintln(cmd.ErrOrStderr(), hint)
		if err := printJSON(cmd.OutOrStdout(), d.v); err != nil {
			return err
		}
		return &exit{code: code}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s. %s\n", strings.TrimSuffix(sentence(d.service, d.v), "."), hint)
	return &exit{code: code}
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
