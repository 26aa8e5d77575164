package xds

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Envoy before 1.39 loses load reports: an attempt that ends in an interval in which none began is never
// reported. Where connections are refused none of them is, however long one waits. A runtime flag mends
// 1.36; 1.37 and 1.38 nothing mends.
const (
	oldestMinor = 36 // of 1.x: that canaryd supports, and that the flag mends
	wholeMinor  = 39 // the first to report everything
)

// Lossy is a connected Envoy whose load reports lack attempts.
type Lossy struct {
	Node, Build string
	Mendable    bool // by its bootstrap
}

// Warning says what to do about it.
func (l Lossy) Warning() string {
	cure := "upgrade it to 1.39"
	if l.Mendable {
		cure = "give it the runtime flag that `canaryd bootstrap --envoy-version 1.36` prints, upgrade it to 1.39"
	}
	return fmt.Sprintf("Envoy %s (%s) loses load reports, so failures may stay unseen: %s, or use source prometheus", l.Node, l.Build, cure)
}

// lossy reports whether a node's load reports lack attempts; its bootstrap may say that they do not.
func (n Node) lossy() bool {
	return n.Version != [2]uint32{} && older(n.Version, wholeMinor) && !(mendable(n.Version) && n.Mended)
}

// addLossy books a connected node.
func (s *Status) addLossy(n Node) {
	if n.lossy() {
		s.Lossy = append(s.Lossy, Lossy{n.ID, n.Build, mendable(n.Version)})
	}
}

func (l Lossy) compare(o Lossy) int {
	return cmp.Or(cmp.Compare(l.Node, o.Node), cmp.Compare(l.Build, o.Build))
}

func older(v [2]uint32, minor uint32) bool { return v[0] < 1 || v[0] == 1 && v[1] < minor }

func mendable(v [2]uint32) bool { return v == [2]uint32{1, oldestMinor} }

// envoyVersion reads what `bootstrap --envoy-version` says; nothing is the newest.
func envoyVersion(text string) (v [2]uint32, err error) {
	if text == "" {
		return [2]uint32{1, wholeMinor}, nil
	}
	parts := strings.Split(strings.TrimPrefix(text, "v"), ".")
	if len(parts) < 2 || len(parts) > 3 {
		return v, fmt.Errorf("--envoy-version %q: write it like 1.36 or 1.36.4", text)
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 32)
		if err != nil {
			return v, fmt.Errorf("--envoy-version %q: write it like 1.36 or 1.36.4", text)
		}
		if i < len(v) {
			v[i] = uint32(n)
		}
	}
	if older(v, oldestMinor) {
		return v, fmt.Errorf("--envoy-version %s: canaryd needs Envoy 1.%d or newer", text, oldestMinor)
	}
	return v, nil
}
