package main

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/web"
)

// personCommands are what a person may say to a running rollout.
func personCommands() []*cobra.Command {
	var out []*cobra.Command
	for verb, short := range map[string]string{
		"promote": "Make a version stable now, without evidence: the way back at 3 a.m.",
		"abort":   "Cut a canary to zero, or send everything back from the stable version",
		"pause":   "Freeze a canary's weight; it is still cut when it is worse",
		"resume":  "Let a paused canary go on",
	} {
		c := &cobra.Command{Use: verb + " SERVICE [VERSION]", Short: short, Args: cobra.RangeArgs(1, 2)}
		cl, o := remote(c), output(c)
		evenFailed := false
		if verb == "promote" {
			c.Flags().BoolVar(&evenFailed, "even-failed", false, "also a version that has failed or was aborted")
		}
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(*o); err != nil {
				return err
			}
			path := servicePath(args[0], verb)
			if len(args) == 2 {
				path = servicePath(args[0], "versions", args[1], verb)
			}
			if evenFailed {
				path += "?even_failed=true"
			}
			var v web.Version
			if err := cl.call(cmd.Context(), http.MethodPost, path, nil, &v); err != nil {
				return err
			}
			if v.Stored != nil && !*v.Stored {
				fmt.Fprintln(cmd.ErrOrStderr(), "carried out, but not stored yet: if canaryd is restarted before the disk answers, say it again")
			}
			return showVersion(cmd.OutOrStdout(), *o, args[0], v)
		}
		out = append(out, c)
	}
	return out
}
