package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/web"
)

func statusCommand() *cobra.Command {
	var watch bool
	c := &cobra.Command{Use: "status [SERVICE]", Short: "Show services, versions, weights and verdicts",
		Long: `Shows each service with its versions, the stable one first; ended ones that are older than it only where one SERVICE is named.

WEIGHT is the share of new traffic that is decided, SHARE what a version got of the requests of the last ten seconds. REQUESTS and
ERRORS (their rate) count since its first weight. FOR is how long its weight is in force, TO GO the time until it can be promoted if it is
as good as stable. On a terminal it fits 80 columns; elsewhere nothing is shortened. For scripts: -o json.`,
		Example: `  canaryd status -w
  canaryd status shop
  canaryd status shop -o json | jq -r .stable`}
	cl, out := remote(c), output(c)
	c.Flags().BoolVarP(&watch, "watch", "w", false, "refresh every second until Ctrl-C, over restarts of canaryd too")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkOutput(*out); err != nil {
			return err
		}
		l := look{client: cl, w: cmd.OutOrStdout(), talk: cmd.ErrOrStderr(), out: *out}
		if len(args) == 1 {
			l.service = args[0]
		}
		if watch {
			return l.again(cmd.Context())
		}
		return l.once(cmd.Context())
	}
	return c
}

// look is what `status` shows.
type look struct {
	*client
	w, talk io.Writer
	out     string
	service string // empty: all
	list    web.Services
}

func (l *look) once(ctx context.Context) error {
	if err := l.fetch(ctx); err != nil {
		return err
	}
	if len(l.list.Services) == 0 && l.out != "json" {
		fmt.Fprintln(l.talk, noServices)
		return nil
	}
	return l.show()
}

// again shows it every second. A canaryd that has answered once may be away for a while.
func (l *look) again(ctx context.Context) error {
	answered, since := false, time.Time{}
	for {
		err := l.fetch(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			answered, since = true, time.Time{}
			l.clear()
			err = l.show()
		case answered && !refused(err):
			if since.IsZero() {
				since = time.Now()
				fmt.Fprintf(l.talk, "since %s canaryd does not answer (the Envoys keep their weights): waiting for it\n", since.Format(time.TimeOnly))
			}
			err = nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func (l *look) clear() {
	if isTerminal(l.w) {
		fmt.Fprint(l.w, "\033[H\033[2J")
	}
}

func (l *look) fetch(ctx context.Context) (err error) {
	if l.service == "" {
		l.list, err = l.client.services(ctx)
		return err
	}
	s, err := l.client.service(ctx, l.service)
	if err == nil {
		l.list.Services = []web.Service{s}
	}
	return err
}

func (l *look) show() error {
	switch {
	case l.out == "json" && l.service != "":
		return printJSON(l.w, l.list.Services[0])
	case l.out == "json":
		return printJSON(l.w, l.list)
	}
	t := newTable(terminalWidth(l.w), time.Now())
	t.all = l.service != ""
	return t.write(l.w, l.list)
}
