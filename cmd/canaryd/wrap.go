package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// helpWidth is that of the narrowest terminal that somebody reads help on.
const helpWidth = 80

// usageTemplate is cobra's, with flags that fit.
func usageTemplate(c *cobra.Command) string {
	return strings.ReplaceAll(c.UsageTemplate(), ".FlagUsages ", ".FlagUsagesWrapped 80 ")
}

// wrapped breaks paragraphs into lines that fit. Lines that are indented stay as they are.
func wrapped(text string) string {
	var out []string
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		if strings.HasPrefix(paragraph, " ") || strings.Contains(paragraph, "\n ") {
			out = append(out, paragraph)
			continue
		}
		var b strings.Builder
		column := 0
		for _, word := range strings.Fields(paragraph) {
			n := len([]rune(word))
			switch {
			case column == 0:
			case column+1+n > helpWidth:
				b.WriteByte('\n')
				column = 0
			default:
				b.WriteByte(' ')
				column++
			}
			b.WriteString(word)
			column += n
		}
		out = append(out, b.String())
	}
	return strings.Join(out, "\n\n")
}
