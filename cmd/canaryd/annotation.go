package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/canaryd/canaryd/internal/web"
)

// annotate shows the outcome of a release that did not become stable on the page of a job of GitHub Actions, with its cause. env is
// the job's environment.
func annotate(w io.Writer, env func(string) string, service string, v web.Version, code int) {
	if env("GITHUB_ACTIONS") != "true" || code == exitOK {
		return
	}
	level := "error"
	if code == exitUndecided || code == exitSuperseded {
		level = "warning"
	}
	in := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	title := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	fmt.Fprintf(w, "::%s title=%s::%s\n", level, title.Replace(fmt.Sprintf("%s %s %s", service, v.Version, v.Phase)), in.Replace(why(v)))
}
