package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

const (
	usualCodes  = "Exit codes: 0 done, 1 error, 2 wrong usage."
	remoteCodes = "Exit codes: 0 done, 1 error (no canaryd answers, or it refuses), 2 wrong usage."
)

// dress gives a command and those below it what follows from their use lines: which arguments they take, and the exit
// codes where they have no others.
func dress(c *cobra.Command) {
	for _, sub := range c.Commands() {
		dress(sub)
	}
	defer func() { c.Long = wrapped(c.Long) }()
	if !c.Runnable() {
		return
	}
	c.Args = argumentsOf(c.Use)
	if !strings.Contains(c.Long, "Exit codes: ") {
		codes := usualCodes
		if c.Flags().Lookup("url") != nil {
			codes = remoteCodes
		}
		short := c.Short
		if !strings.HasSuffix(short, ".") {
			short += "."
		}
		c.Long = short + "\n\n" + strings.TrimPrefix(c.Long+"\n\n", "\n\n") + codes
	}
	for flag, values := range map[string][]string{
		"output": {"table", "json"}, "log.level": {"debug", "info", "warning", "error"}, "log.format": {"text", "json"}, "source": {"envoy", "prometheus"},
	} {
		if c.Flags().Lookup(flag) != nil {
			_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // it fails for a flag that is not there
		}
	}
}

// argumentsOf checks arguments against a use line, as in `deploy SERVICE [VERSION]`, and names those that are missing.
func argumentsOf(use string) cobra.PositionalArgs {
	names := strings.Fields(use)[1:]
	return func(cmd *cobra.Command, args []string) error {
		for i, name := range names {
			if i >= len(args) && !strings.HasPrefix(name, "[") {
				return fmt.Errorf("%s is missing: write canaryd %s", strings.TrimSuffix(name, "..."), withParents(cmd, use))
			}
		}
		if many := len(names) > 0 && strings.HasSuffix(names[len(names)-1], "..."); len(args) > len(names) && !many {
			return fmt.Errorf("%q is too much: write canaryd %s", args[len(names)], withParents(cmd, use))
		}
		return nil
	}
}

// withParents is a use line behind the commands that it belongs to.
func withParents(cmd *cobra.Command, use string) string {
	if p := cmd.Parent(); p != nil && p.HasParent() {
		return p.Name() + " " + use
	}
	return use
}
