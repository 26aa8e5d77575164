package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// helpWidth is that of the narrowest terminal that somebody reads help on.
const helpWidth = 80

// usageTemplate is cobra's, with flags that fit.
func usageTemplate(c *cobra.Command) string {
	return strings.ReplaceAll(c.UsageTemplate(), ".FlagUsages ", fmt.Sprintf(".FlagUsagesWrapped %d ", helpWidth))
}

// wrapped breaks paragraphs into lines that fit. Lines that are indented stay as they are.
func wrapped(text string) string {
	var out []string
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		if strings.HasPrefix(paragraph, " ") || strings.Contains(paragraph, "\n ") {
			out = append(out, paragraph)
			continue
		}
		t := table{width: helpWidth + 1}
		t.text("", paragraph)
		out = append(out, strings.TrimSuffix(t.buf.String(), "\n"))
	}
	return strings.Join(out, "\n\n")
}
