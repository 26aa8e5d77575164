package metrics

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	yaml "go.yaml.in/yaml/v4"
)

// Match are label matchers that every query carries, so that canaryd sees one environment of a
// Prometheus that knows several: `metrics.prometheus.match` of canaryd.yml.
type Match []*labels.Matcher

// UnmarshalYAML reads matchers as PromQL writes them, cluster="prod",region=~"eu-.*", or a list of such.
func (m *Match) UnmarshalYAML(n *yaml.Node) error {
	list := []matchers{nil}
	var err error
	if n.Kind == yaml.SequenceNode {
		err = n.Decode(&list)
	} else {
		err = n.Decode(&list[0])
	}
	if err != nil {
		return err
	}
	*m = nil
	for _, l := range list {
		*m = append(*m, l...)
	}
	return nil
}

// matchers are those of one piece of text.
type matchers []*labels.Matcher

func (m *matchers) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return errors.New(`match is text such as 'cluster="prod"', or a list of such`)
	}
	list, err := parseMatchers(n.Value)
	*m = list
	return err
}

// asked are the labels that canaryd's own queries are about.
var asked = []string{labels.MetricName, clusterLabel, classLabel, versionLabel}

func parseMatchers(text string) ([]*labels.Matcher, error) {
	inner := strings.TrimSpace(text)
	if inner == "" {
		return nil, nil
	}
	if strings.HasPrefix(inner, "{") && strings.HasSuffix(inner, "}") {
		inner = inner[1 : len(inner)-1]
	}
	v, err := plainSelector("m{" + inner + "}")
	if err != nil {
		return nil, fmt.Errorf(`%q are not label matchers (%w): write label="value", as in cluster="prod",region=~"eu-.*"`, text, err)
	}
	list := slices.DeleteFunc(v.LabelMatchers, func(m *labels.Matcher) bool { return m.Name == labels.MetricName && m.Value == "m" })
	for _, m := range list {
		if slices.Contains(asked, m.Name) {
			return nil, fmt.Errorf("leave the label %s out of match: canaryd asks for the values it needs", m.Name)
		}
	}
	return list, nil
}

// plainSelector parses PromQL that is a selector and nothing else.
func plainSelector(text string) (*parser.VectorSelector, error) {
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if list, ok := errors.AsType[parser.ParseErrors](err); ok && len(list) > 0 {
		err = list[0].Err // without the position, which is that in our text
	}
	if err != nil {
		return nil, err
	}
	v, ok := expr.(*parser.VectorSelector)
	if !ok || v.OriginalOffset != 0 || v.OriginalOffsetExpr != nil || v.Timestamp != nil || v.StartOrEnd != 0 {
		return nil, errors.New("a selector is needed, without functions, ranges or offsets")
	}
	return v, nil
}
