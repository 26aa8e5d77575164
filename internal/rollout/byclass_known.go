package rollout

import (
	"cmp"
	"slices"
)

// KnownClass is what is known of one class of a release.
type KnownClass struct {
	Exercise
	Evidence float64  // against it, of this class alone; 0: it is not judged any more
	CutAt    float64  // evidence with which this class is enough for a rollback
	Due      bool     // it has to be seen before a promotion
	Lacks    float64  // successful answers that are still wanted for that
	Seconds  *float64 // until they are expected; nil: not known, or none are wanted
}

// KnownClasses are those that a release is judged by, or was, the worst first: by the evidence, or, where it has ended, by what
// failed beyond stable's rate. None: all requests are judged together, or it has taken over.
func (s *State) KnownClasses(version string) []KnownClass {
	v := s.Version(version)
	if v == nil || !v.byClass() && !v.is(cut) {
		return nil
	}
	judged := v.byClass()
	all := make([]KnownClass, len(v.Classes))
	for i := range v.Classes {
		k := &all[i]
		k.Exercise = v.Classes[i]
		if !judged {
			continue
		}
		k.Evidence, k.CutAt = v.Judge.ClassEvidence(&v.Config, i)
		k.Due = v.Config.Exercise > 0 && s.due(v, k.Name)
		k.Lacks, k.Seconds = s.lacks(v, &k.Exercise)
	}
	beyond := func(k *KnownClass) float64 { return k.Canary.Errors - k.Canary.Requests*k.Stable.Rate() }
	slices.SortStableFunc(all, func(a, b KnownClass) int {
		return cmp.Or(cmp.Compare(b.Evidence, a.Evidence), cmp.Compare(beyond(&b), beyond(&a)))
	})
	return all
}
