package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/access"
)

func tokenCommand() *cobra.Command {
	c := &cobra.Command{Use: "token NAME", Short: "Make a bearer token for the API", Args: cobra.ExactArgs(1),
		Long: `Makes a token and prints it, once, with the line for the file that web.tokens_file of canaryd.yml names. The line has only the
token's hash. What the token may do is said in web.access, by its name.`,
		Example: "  canaryd token ci-shop\n\n  # canaryd.yml\n  web:\n    tokens_file: tokens.yml\n    access: [{token: ci-shop, role: deploy, services: [\"shop*\"]}]"}
	out := output(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(*out); err != nil {
			return err
		}
		token, line, err := access.NewToken(args[0])
		if err != nil {
			return usage("%v", err)
		}
		if *out == "json" {
			return printJSON(cmd.OutOrStdout(), map[string]string{"name": args[0], "token": token, "line": line})
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s\n", token, line)
		fmt.Fprintf(cmd.ErrOrStderr(), "The first line is the token: keep it, nobody can show it again. The second one belongs into web.tokens_file; then reload canaryd\n(SIGHUP, or POST /-/reload), and say in web.access what %s may do.\n", args[0])
		return nil
	}
	return c
}
