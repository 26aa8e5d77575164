// canaryd gives a new release a little traffic, watches its error rate against the trusted one, and
// gives it all, or nothing.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/prometheus/common/version"
	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // an image FROM scratch has no certificates of the system's
)

// The exit codes; CI relies on them.
const (
	exitOK         = 0
	exitError      = 1
	exitUsage      = 2
	exitFindings   = 3
	exitRolledBack = 10
	exitUndecided  = 11
	exitAborted    = 12
	exitSuperseded = 13
)

// exit carries a code; an empty message was already told.
type exit struct {
	code    int
	message string
}

func (e *exit) Error() string { return e.message }

// usage is the error of a flag that cannot be what it is.
func usage(format string, args ...any) error {
	return &exit{exitUsage, "canaryd: " + fmt.Sprintf(format, args...)}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// execute is the whole program: arguments in, exit code out.
func execute(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	started := false
	root := newRoot()
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := misnamed(root, args); err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	var e *exit
	if errors.As(err, &e) {
		if e.message != "" {
			fmt.Fprintln(stderr, e.message)
		}
		return e.code
	}
	fmt.Fprintln(stderr, "canaryd:", err)
	if !started {
		fmt.Fprintf(stderr, "Try: %s --help\n", cmd.CommandPath())
		return exitUsage
	}
	return exitError
}

// misnamed says that there is no such command below another one: cobra would print help there, and call that a success.
func misnamed(root *cobra.Command, args []string) error {
	root.InitDefaultCompletionCmd(args...)
	c, rest, err := root.Find(args)
	if err != nil || c.Runnable() || !c.HasParent() || len(rest) == 0 || strings.HasPrefix(rest[0], "-") {
		return nil
	}
	var names []string
	for _, sub := range c.Commands() {
		names = append(names, sub.Name())
	}
	return usage("unknown command %q for %q: write one of %s", rest[0], c.CommandPath(), strings.Join(names, ", "))
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use: "canaryd", Short: "Canary traffic control over Envoy, without Kubernetes",
		Long: `Canary traffic control over Envoy, without Kubernetes.

canaryd gives a new release a little traffic, compares its error rate with that of the stable one, gives it more while it stays clean, and
rolls it back when it is known to be worse.

Environment: CANARYD_URL, where the daemon is (default http://127.0.0.1:8080); CANARYD_TOKEN, user:password or a bearer token.`,
		Example: `  canaryd check canaryd.yml policies/ && canaryd serve --config.file=canaryd.yml
  canaryd deploy shop v2 --endpoint 10.0.0.21:8080 --wait
  canaryd status -w
  canaryd abort shop v2      # at 3 a.m.`,
		Version: cmp.Or(version.Version, "unknown"), SilenceUsage: true, SilenceErrors: true,
	}
	root.SetVersionTemplate(version.Print("canaryd") + "\n")
	root.AddGroup(&cobra.Group{ID: "daemon", Title: "The daemon:"}, &cobra.Group{ID: "release", Title: "Releases:"},
		&cobra.Group{ID: "policy", Title: "Policies:"}, &cobra.Group{ID: "envoy", Title: "Envoy:"})
	for group, cmds := range map[string][]*cobra.Command{
		"daemon":  {serveCommand(), healthcheckCommand(), tokenCommand(), demoCommand()},
		"release": append([]*cobra.Command{statusCommand(), envoysCommand(), deployCommand(), waitCommand(), historyCommand(), explainCommand(), removeCommand()}, personCommands()...),
		"policy":  {checkCommand(), testCommand(), classesCommand(), simulateCommand(), replayCommand(), schemaCommand()},
		"envoy":   {bootstrapCommand(), xdsCommand()},
	} {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	root.AddCommand(versionCommand())
	dress(root)
	root.SetUsageTemplate(usageTemplate(root))
	return root
}
