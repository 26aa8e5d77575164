package main

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

func removeCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "remove SERVICE", Short: "Take a service away from the Envoys, once its policy is gone",
		Long: `Takes a service away: its route, listener and clusters leave the Envoys, its containers and its state are removed; its history stays.
A service that still has a policy is refused: remove the policy first. Asks for the service's name, unless --yes is given.`,
		Example: `  canaryd remove shop`}
	cl := remote(c)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := cl.service(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		talk := cmd.ErrOrStderr()
		if !yes {
			serves := "serves nothing"
			if s.Stable != nil {
				serves = fmt.Sprintf("serves %s to %s, %.0f requests/s", *s.Stable, envoysOf(s.Envoys), s.Rate)
			}
			fmt.Fprintf(talk, "%s %s. Without it its users get errors.\nType the name of the service to remove it: ", s.Service, serves)
			typed, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n') // the end of the input is a no
			if strings.TrimSpace(typed) != s.Service {
				return fmt.Errorf("%s was not removed: type its name, or give --yes", s.Service)
			}
		}
		if err := cl.call(cmd.Context(), http.MethodDelete, servicePath(args[0]), nil, nil); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is removed\n", args[0])
		return nil
	}
	return c
}
