package main

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/canaryd/canaryd/internal/web"
)

// completeWithin is how long a shell waits for names. A daemon that is slow, or away, has none: completion says nothing.
const completeWithin = 500 * time.Millisecond

// completes gives a command the completion of what its use line names: services, versions and nodes.
func (c *client) completes(cmd *cobra.Command) {
	names := strings.Fields(cmd.Use)[1:]
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(names) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		var found []string
		switch strings.Trim(names[len(args)], "[]") {
		case "SERVICE":
			found = c.serviceNames(ctx, begun)
		case "VERSION":
			found = c.versionNames(ctx, args[0], cmd.Name())
		case "NODE":
			found = c.nodeNames(ctx)
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// serviceNames are those that begin like a word: of ten thousand, the daemon sends the first page of these.
func (c *client) serviceNames(ctx context.Context, begun string) (names []string) {
	begun = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(begun)
	var page web.Services
	if c.call(ctx, http.MethodGet, "/api/v1/services?limit=500&match="+url.QueryEscape(begun+"*"), nil, &page) != nil {
		return nil
	}
	for _, s := range page.Services {
		names = append(names, s.Service)
	}
	return names
}

// versionNames are those of a service that a command could mean, and where they stand.
func (c *client) versionNames(ctx context.Context, service, verb string) (names []string) {
	s, err := c.service(ctx, service)
	if err != nil {
		return nil
	}
	for _, v := range s.Versions {
		if couldMean(verb, &s, v) {
			names = append(names, v.Version+"\t"+string(v.Phase)+" at "+percent(v.Weight))
		}
	}
	return names
}

func couldMean(verb string, s *web.Service, v web.Version) bool {
	switch verb {
	case "abort":
		return v.Phase.Live()
	case "pause", "resume":
		return v.Phase.Waiting()
	case "promote":
		return !s.IsStable(v)
	}
	return true
}

func (c *client) nodeNames(ctx context.Context) (names []string) {
	var page web.Nodes
	if c.call(ctx, http.MethodGet, "/api/v1/envoys", nil, &page) != nil {
		return nil
	}
	for _, n := range page.Nodes {
		names = append(names, n.Node+"\t"+n.Cluster)
	}
	return names
}
