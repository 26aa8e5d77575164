package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/web"
)

func waitCommand() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{Use: "wait SERVICE VERSION", Short: "Wait for the outcome of a release",
		Long: `Waits for the outcome of a release that was announced before, over restarts of canaryd too.

Exit codes: 0 stable, with 100 % in force; 10 rolled back, 11 undecided at the timeout or after Ctrl-C (the rollout goes on), 12 aborted
by a person, 13 superseded by a newer release, also if it was stable before; 1 an error, 2 wrong usage.`,
		Example: `  canaryd wait shop v2 --timeout 2h`}
	cl, out := remote(c), output(c)
	c.Flags().DurationVar(&timeout, "timeout", 0, "give up after so long (exit 11); 0: never")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkWait(cmd, *out, timeout); err != nil {
			return err
		}
		w := waiter{client: cl, service: args[0], version: args[1], timeout: timeout, out: *out, goal: promoted, pending: "undecided"}
		return w.run(cmd)
	}
	return c
}

// waiter follows one attempt of a version until what is waited for has come.
type waiter struct {
	*client
	service, version string
	attempt          int // 0: the one that there is
	goal             goal
	pending          string // what is said of it as long as that has not come
	timeout          time.Duration
	out              string

	seen *web.Version // last; nil: no canaryd has answered yet
	away bool
	log  progressLog
}

const (
	askEvery  = 200 * time.Millisecond
	askRarely = 2 * time.Second // what was not taken yet
)

func (w *waiter) run(cmd *cobra.Command) error {
	ctx, cancel := within(cmd.Context(), w.timeout)
	defer cancel()
	w.log.out = cmd.ErrOrStderr()
	for {
		s, err := w.client.service(ctx, w.service)
		if ctx.Err() != nil {
			return w.undecided(cmd)
		}
		if err != nil {
			if err := w.unanswered(cmd.ErrOrStderr(), err); err != nil {
				return err
			}
		} else if done, err := w.look(cmd, s); done {
			return err
		}
		select {
		case <-ctx.Done():
			return w.undecided(cmd)
		case <-time.After(askEvery):
		}
	}
}

// unanswered lets a canaryd that has answered before be away: it restarts. An error that another try does not mend is
// returned.
func (w *waiter) unanswered(talk io.Writer, err error) error {
	switch {
	case w.seen == nil:
		return err
	case statusOf(err) == http.StatusNotFound: // the service was removed
		w.log.end()
		return err
	case refused(err):
		w.log.end()
		return fmt.Errorf("%w; the rollout goes on", err)
	}
	if !w.away {
		w.log.end()
		fmt.Fprintln(talk, "canaryd does not answer (the Envoys keep their weights): waiting for it")
	}
	w.away = true
	return nil
}

// checkWait checks the flags of commands that wait, always or with --wait.
func checkWait(cmd *cobra.Command, out string, timeout time.Duration) error {
	if timeout < 0 {
		return usage("--timeout %s: write a time such as 2h, or 0 to wait without end", timeout)
	}
	if wait := cmd.Flags().Lookup("wait"); wait != nil && wait.Value.String() != "true" && cmd.Flags().Changed("timeout") {
		return usage("--timeout says how long --wait waits, and nothing waits here: add --wait, or leave --timeout out")
	}
	return checkOutput(out)
}

// refused reports whether the daemon says that it will not, now or later; that it is asked too often is not that.
func refused(err error) bool {
	s := statusOf(err)
	return s != 0 && s < http.StatusInternalServerError && s != http.StatusTooManyRequests
}

// statusOf is with which status the daemon says no; 0: that is not what is wrong.
func statusOf(err error) int {
	if p := (*web.Problem)(nil); errors.As(err, &p) {
		return p.Status
	}
	return 0
}

// look takes an answer in; done: there is nothing more to wait for.
func (w *waiter) look(cmd *cobra.Command, s web.Service) (done bool, err error) {
	v := s.Find(w.version)
	if v == nil {
		return true, fmt.Errorf("service %s has no version %s: `canaryd status %s` lists them", w.service, w.version, w.service)
	}
	late := w.attempt == 0 && v.Phase.Replaced() // it succeeded before anybody waited, and was replaced since
	if w.attempt == 0 {
		w.attempt = v.Attempt
	}
	if v.Attempt != w.attempt {
		w.log.end()
		fmt.Fprintf(cmd.ErrOrStderr(), "attempt %d of %s was followed by attempt %d\n", w.attempt, w.version, v.Attempt)
		return true, w.end(cmd, *v, exitSuperseded)
	}
	w.seen, w.away = v, false
	w.log.show(*v, s)
	code, done := w.goal(*v)
	if !done || v.Stored != nil && !*v.Stored { // a restart would forget it
		return false, nil
	}
	w.log.end()
	if late {
		code = exitSuperseded
		fmt.Fprintf(cmd.ErrOrStderr(), "%s was stable, and another version took its place since\n", w.version)
	}
	return true, w.end(cmd, *v, code)
}

func (w *waiter) end(cmd *cobra.Command, v web.Version, code int) error {
	if w.out == "json" {
		if err := printJSON(cmd.OutOrStdout(), v); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(cmd.OutOrStdout(), sentence(w.service, v))
	}
	annotate(cmd.ErrOrStderr(), os.Getenv, w.service, v, code)
	if code == exitOK {
		return nil
	}
	return &exit{code: code}
}

// undecided ends the waiting and nothing else.
func (w *waiter) undecided(cmd *cobra.Command) error {
	w.log.end()
	v := w.seen
	if v == nil {
		return fmt.Errorf("no canaryd has answered at %s: set --url or CANARYD_URL", w.shown())
	}
	if w.out == "json" {
		if err := printJSON(cmd.OutOrStdout(), v); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s: %s, %s at %s. %s\n", w.service, w.version, w.pending, v.Phase, percent(v.Weight), why(*v))
	}
	annotate(cmd.ErrOrStderr(), os.Getenv, w.service, *v, exitUndecided)
	return &exit{exitUndecided, fmt.Sprintf("%s %s is %s; the rollout goes on. Try: canaryd wait %s %s, or canaryd envoys %s", w.service, w.version, w.pending, w.service, w.version, w.service)}
}
