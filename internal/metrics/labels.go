package metrics

import (
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/common/model"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// naming are parts of the names of labels that tell processes apart.
var naming = []string{"instance", "pod", "host", "node", "container", "alloc", "task"}

// named reports whether labels say which Envoy it is.
func named(labels model.LabelSet) bool {
	for name := range labels {
		if slices.ContainsFunc(naming, func(part string) bool { return strings.Contains(string(name), part) }) {
			return true
		}
	}
	return false
}

// unclear says which labels do not tell Envoys apart; nil if all do.
func (pr *progress) unclear(service string) *rollout.Missing {
	for _, in := range pr.all() {
		if !in.tangled() {
			continue
		}
		help := "two Envoys have the same `instance`: give their series a label that tells them apart, such as `pod`"
		if in.labels[model.InstanceLabel] == "" {
			help = "they have no label `instance`: keep it (look for a labeldrop or an aggregation), or add one that names the Envoy"
		}
		return &rollout.Missing{Code: analysis.QueryError, Reason: fmt.Sprintf(
			"the counters of %s with the labels %s jump up and down, as those of two Envoys in turn do (or of two Prometheus servers whose clocks differ), so nothing of them is counted; %s", service, in.labels, help)}
	}
	return nil
}

// remarks are what is wrong with the labels, though all is counted once.
func (pr *progress) remarks() []string {
	remarks := append(slices.Clone(pr.said), append(pr.sorted.remarks(), pr.timed.remarks()...)...)
	for _, in := range pr.all() {
		if !in.named && !in.tangled() {
			remarks = append(remarks, fmt.Sprintf("no label of %s says which Envoy it is: it is counted half a minute late, to see that it is one; keep the label `instance`", in.labels))
			break
		}
	}
	for _, in := range pr.all() {
		if in.last != nil && !in.tangled() && in.last.at.Sub(in.outdated) <= longestGap {
			return append(remarks, fmt.Sprintf("samples of %s are older than others with earlier timestamps: several Prometheus servers answer at this address and their clocks differ", in.name))
		}
	}
	return remarks
}
