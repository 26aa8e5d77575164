package main

import (
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/web"
)

// personCommands are what a person may say to a running rollout.
func personCommands() []*cobra.Command {
	return []*cobra.Command{
		personCommand("promote", "Make a version stable now, without evidence; also the way back", promoted, "it is stable, with 100 % in force",
			`  canaryd promote shop v1 --wait           # back to v1, within seconds
  canaryd promote shop v2 --even-failed    # although it was rolled back`),
		personCommand("abort", "End a canary at once, or send all back from the stable version", cut, "its weight of 0 is in force", `  canaryd abort shop v2 --wait`),
		personCommand("pause", "Freeze a canary's weight; if it proves worse it is rolled back", settled, "its weight is in force", `  canaryd pause shop`),
		personCommand("resume", "Let a paused canary go on, or try again what an Envoy refused", settled, "its weight is in force", `  canaryd resume shop`),
	}
}

// order is a command by a person, and how long it is waited for.
type order struct {
	*client
	verb       string
	goal       goal
	evenFailed bool
	wait       bool
	timeout    time.Duration
	out        *string
}

func personCommand(verb, short string, goal goal, until, example string) *cobra.Command {
	c := &cobra.Command{Use: verb + " SERVICE [VERSION]", Short: short, Example: example}
	c.Long = short + `.

Without VERSION the only canary is meant; with none, or several, the answer lists what could be. It answers when that is decided and stored;
with --wait, when ` + until + `.

Exit codes: 0 done; 1 error, or it is not possible (the answer says why); 2 wrong usage; with --wait also those of canaryd wait, where the version
ends first or the time is up.`
	o := order{client: remote(c), verb: verb, goal: goal, out: output(c)}
	if verb == "promote" {
		c.Flags().BoolVar(&o.evenFailed, "even-failed", false, "also a version that has failed or was aborted")
	}
	c.Flags().BoolVar(&o.wait, "wait", false, "wait until "+until)
	c.Flags().DurationVar(&o.timeout, "timeout", 0, "with --wait: give up after so long (exit 11); what is decided goes on. 0: never")
	c.RunE = func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) }
	return c
}

func (o *order) run(cmd *cobra.Command, args []string) error {
	if err := checkWait(cmd, *o.out, o.timeout); err != nil {
		return err
	}
	path := servicePath(args[0], o.verb)
	if len(args) == 2 {
		path = servicePath(args[0], "versions", args[1], o.verb)
	}
	if o.evenFailed {
		path += "?even_failed=true"
	}
	ctx, cancel := within(cmd.Context(), o.timeout)
	defer cancel()
	since := time.Now()
	var v web.Version
	if err := o.call(ctx, http.MethodPost, path, nil, &v); err != nil {
		return err
	}
	if v.Stored != nil && !*v.Stored {
		fmt.Fprintln(cmd.ErrOrStderr(), "done, but not stored yet: if canaryd is restarted before the disk answers, repeat it")
	}
	if !o.wait {
		return showVersion(cmd.OutOrStdout(), *o.out, args[0], v)
	}
	w := waiter{client: o.client, service: args[0], version: v.Version, attempt: v.Attempt, seen: &v, goal: o.goal, pending: "not in force yet", timeout: left(o.timeout, since), out: *o.out}
	return w.run(cmd)
}
