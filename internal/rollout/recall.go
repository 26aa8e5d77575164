package rollout

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"github.com/canaryd/canaryd/internal/analysis"
)

// Attempt is one attempt of a version. A number comes twice where an attempt is lost with a crash, and where a service
// begins anew; an ID does not.
type Attempt struct {
	Version string
	Number  int
	ID      string // IDLength hex digits, of a hash of what is random in every attempt
}

// IDLength is the length of an Attempt's ID.
const IDLength = 8

// Compare orders attempts.
func (a Attempt) Compare(b Attempt) int {
	return cmp.Or(cmp.Compare(a.Version, b.Version), cmp.Compare(a.Number, b.Number), cmp.Compare(a.ID, b.ID))
}

// Identity is the present attempt of a version.
func (v *Version) Identity() Attempt {
	sum := sha256.Sum256([]byte(v.Pin))
	return Attempt{v.Name, v.Attempt, hex.EncodeToString(sum[:IDLength/2])}
}

// recalled fails an attempt that was cut before, by a canaryd that ended before it could store that. Whatever has
// become of the version since counts for more: a newer attempt, and what a person promoted.
func (m *machine) recalled(e Recalled) {
	v := m.Version(e.Version)
	if v == nil || v.Attempt != e.Attempt || e.ID != "" && e.ID != v.Identity().ID || !v.onTrial() {
		return
	}
	m.fail(v, analysis.Recalled, "it had been rolled back, and canaryd ended before it could store that; an Envoy that reconnected still knew. The reason is in canaryd's log from before the restart")
}

// onTrial reports whether an attempt can still be failed by what Envoys remember: its fate is open, and no person
// wants it at 100 %.
func (v *Version) onTrial() bool { return v.Phase.Waiting() && v.Wanted == "" }

// standing says in words where a version stands that is not on trial.
func (v *Version) standing() string {
	if v.Wanted != "" {
		return "to get everything when it answers"
	}
	return string(v.Phase)
}

// Recall is the table without those of some attempts which it still has under test, for the time until a newer
// table says what has become of them. It reports whether there was one.
func (t Table) Recall(cuts []Attempt) (Table, bool) {
	var names []string
	var unstored []Attempt
	for _, c := range t.Clusters {
		if c.OnTrial && slices.Contains(cuts, c.Attempt) {
			names, unstored = append(names, c.Version), append(unstored, c.Attempt)
		}
	}
	if len(names) == 0 {
		return t, false
	}
	t = t.Without(names, "")
	t.Generation, t.Unstored = 0, slices.Concat(t.Unstored, unstored)
	return t, true
}

// remove has nothing raised from now on: a person takes the service away.
func (m *machine) remove(e Removing) {
	if !m.removing {
		m.removing = true
		m.record(nil, KindRemoved, e.By, "the service is removed")
	}
}
