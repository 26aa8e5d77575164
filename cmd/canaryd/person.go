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
		personCommand("promote", "Make a version stable now, without evidence: the way back at 3 a.m.", promoted, "it is stable, with 100 % in force"),
		personCommand("abort", "Cut a canary to zero, or send everything back from the stable version", cut, "its weight of 0 is in force"),
		personCommand("pause", "Freeze a canary's weight; it is still cut when it is worse", settled, "its weight is in force"),
		personCommand("resume", "Let a paused canary go on", settled, "its weight is in force"),
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

func personCommand(verb, short string, goal goal, until string) *cobra.Command {
	c := &cobra.Command{Use: verb + " SERVICE [VERSION]", Short: short, Args: cobra.RangeArgs(1, 2),
		Long: short + ".\n\nWithout VERSION the only canary is meant; with none, or several, the answer lists what could be. The answer 0 means that it is decided\nand stored; with --wait, that " + until + "."}
	o := order{client: remote(c), verb: verb, goal: goal, out: output(c)}
	if verb == "promote" {
		c.Flags().BoolVar(&o.evenFailed, "even-failed", false, "also a version that has failed or was aborted")
	}
	c.Flags().BoolVar(&o.wait, "wait", false, "wait until "+until)
	c.Flags().DurationVar(&o.timeout, "timeout", 0, "give up waiting after so long (exit 11); what is decided goes on. 0: never")
	c.RunE = func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) }
	return c
}

func (o *order) run(cmd *cobra.Command, args []string) error {
	if err := checkOutput(*o.out); err != nil {
		return err
	}
	path := servicePath(args[0], o.verb)
	if len(args) == 2 {
		path = servicePath(args[0], "versions", args[1], o.verb)
	}
	if o.evenFailed {
		path += "?even_failed=true"
	}
	var v web.Version
	if err := o.call(cmd.Context(), http.MethodPost, path, nil, &v); err != nil {
		return err
	}
	if v.Stored != nil && !*v.Stored {
		fmt.Fprintln(cmd.ErrOrStderr(), "carried out, but not stored yet: if canaryd is restarted before the disk answers, say it again")
	}
	if !o.wait {
		return showVersion(cmd.OutOrStdout(), *o.out, args[0], v)
	}
	w := waiter{client: o.client, service: args[0], version: v.Version, attempt: v.Attempt, seen: &v, goal: o.goal, pending: "not in force yet", timeout: o.timeout, out: *o.out}
	return w.run(cmd)
}
