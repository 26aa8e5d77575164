package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/prometheus/common/model"
	yaml "go.yaml.in/yaml/v4"
)

// Share is a fraction of 1, written as a percentage ("5%").
type Share float64

// UnmarshalYAML reads "5%"; a bare number is refused because it could mean either 5 or 500 %.
func (s *Share) UnmarshalYAML(n *yaml.Node) error {
	text, ok := strings.CutSuffix(strings.TrimSpace(n.Value), "%")
	if n.Kind != yaml.ScalarNode || !ok {
		return fmt.Errorf("%q is not a percentage: write it with a percent sign, as in 5%%", n.Value)
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || math.IsNaN(v) || v < 0 || v > 100 {
		return fmt.Errorf("%q is not a percentage from 0%% to 100%%", n.Value)
	}
	*s = Share(v / 100)
	return nil
}

// MarshalYAML writes the share as it is read.
func (s Share) MarshalYAML() (any, error) { return s.String(), nil }

func (s Share) String() string {
	return strconv.FormatFloat(math.Round(float64(s)*1e8)/1e6, 'f', -1, 64) + "%"
}

// Bytes is a size in memory, written as 512MiB or 1g.
type Bytes int64

// UnmarshalYAML reads what `docker run --memory` reads.
func (b *Bytes) UnmarshalYAML(n *yaml.Node) error {
	v, err := units.RAMInBytes(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || v < 0 {
		return fmt.Errorf("%q is not a size: write a number and a unit, as in 512MiB", n.Value)
	}
	*b = Bytes(v)
	return nil
}

// MarshalYAML writes the size as it is read.
func (b Bytes) MarshalYAML() (any, error) { return units.BytesSize(float64(b)), nil }

// Duration is written as Prometheus writes it: 30s, 5m, 1h30m, 1d. Parts of a second may be written as 0.3s.
type Duration time.Duration

// UnmarshalYAML reads a Prometheus duration.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := model.ParseDuration(n.Value)
	if parts, bad := time.ParseDuration(n.Value); err != nil && bad == nil && parts >= 0 && parts%time.Millisecond == 0 {
		v, err = model.Duration(parts), nil
	}
	if n.Kind != yaml.ScalarNode || err != nil {
		return fmt.Errorf("%q is not a duration: write a number and a unit, as in 30s, 5m, 1h30m or 1d", n.Value)
	}
	*d = Duration(v)
	return nil
}

// MarshalYAML writes the duration as it is read.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }

func (d Duration) String() string { return model.Duration(d).String() }

// Std is the duration as the standard library has it.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// Steps are the rungs of the ramp; empty means `auto`.
type Steps []Share

// UnmarshalYAML reads `auto` or a list of percentages.
func (s *Steps) UnmarshalYAML(n *yaml.Node) (err error) {
	*s, err = autoOr[Share](n, "steps", "percentages, as in [1%, 10%, 50%, 100%]")
	return err
}

// MarshalYAML writes the steps as they are read.
func (s Steps) MarshalYAML() (any, error) { return orAuto(s), nil }

// autoOr reads `auto`, which is nil, or a list with something in it.
func autoOr[T any](n *yaml.Node, what, of string) (list []T, err error) {
	if n.Kind == yaml.ScalarNode && n.Value == "auto" {
		return nil, nil
	}
	if n.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("%s is either auto or a list of %s", what, of)
	}
	if err := n.Decode(&list); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("an empty list of %[1]s: leave %[1]s out, or write auto", what)
	}
	return list, nil
}

func orAuto[T any](list []T) any {
	if len(list) == 0 {
		return "auto"
	}
	return list
}

// Clump is how many errors one cause may produce together; 0 means `auto`.
type Clump float64

// UnmarshalYAML reads `auto` or a number from 1 to 200.
func (c *Clump) UnmarshalYAML(n *yaml.Node) error {
	if n.Value == "auto" {
		*c = 0
		return nil
	}
	v, err := strconv.ParseFloat(n.Value, 64)
	if n.Kind != yaml.ScalarNode || err != nil || !(v >= 1 && v <= 200) {
		return fmt.Errorf("%q is not a valid clump bound: write auto, or a number from 1 to 200", n.Value)
	}
	*c = Clump(v)
	return nil
}

// MarshalYAML writes the bound as it is read.
func (c Clump) MarshalYAML() (any, error) {
	if c == 0 {
		return "auto", nil
	}
	return float64(c), nil
}
