package main

import (
	"fmt"
	"math"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
)

// slowLines say what is known of how long a version's answers take, and why it is not judged; none where the policy does not ask.
func slowLines(d *analysis.Verdict) (lines []string) {
	sum := 0.0
	for _, p := range d.Slow {
		sum += p.Evidence
		line := fmt.Sprintf("Longer than %s took lately: %s of its %.0f answers, %s of the %.0f of stable; evidence that it is slower: %.3g.",
			edge(p.Edge), part(p.Slow, p.Requests), p.Requests, part(p.StableSlow, p.StableRequests), p.StableRequests, p.Evidence)
		if p.Promotion > 0 {
			line += fmt.Sprintf(" Proof that it is no slower: %.3g; at %.0f that is enough.", p.Promotion, d.PromoteAt)
		}
		if p.Clump >= 1.5 {
			line += fmt.Sprintf(" One cause may make up to %.0f answers slow, so they count as less evidence.", math.Ceil(p.Clump))
		}
		lines = append(lines, line)
	}
	if n := len(d.Slow); n > 1 {
		lines = append(lines, fmt.Sprintf("All edges together: evidence of %.3g that its answers are slower; from 20 on it is held (judge.slow).", sum/float64(n)))
	} else if n == 1 {
		lines = append(lines, "From evidence of 20 that its answers are slower it is held (judge.slow).")
	}
	if d.Unpaced != "" {
		lines = append(lines, "How long its answers take is not judged: "+d.Unpaced+".")
	}
	return lines
}

func edge(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Microsecond).String()
}

func part(n, of float64) string {
	if of == 0 {
		return "none"
	}
	f := n / of
	return rate(&f)
}
