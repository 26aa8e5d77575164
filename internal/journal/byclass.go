package journal

import (
	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// Class is how one class of requests stands.
type Class struct {
	rollout.Exercise         // since the version's first weight
	Evidence         float64 // of the class alone
}

func classesOf(v *rollout.Version) []Class {
	all := make([]Class, len(v.Classes))
	for i, k := range v.Classes {
		all[i].Exercise = k
		if j := v.Judge; j != nil && j.Classes != nil && i < len(j.Classes.Each) {
			all[i].Evidence = j.Classes.Each[i].Capital.E
		}
	}
	return all
}

// classes writes those of a point's versions.
func (o *out) classes(versions []Stand) {
	ofVersions(o, aClasses, versions, func(s *Stand) []Class { return s.Classes }, func(c Class) {
		o.text(c.Name)
		o.counts(c.Canary)
		o.counts(c.Stable)
		o.single(c.Evidence)
	})
}

// classes reads them into the last of some points.
func (i *in) classes(points []Point) {
	intoVersions(i, points, func() Class {
		c := Class{rollout.Exercise{Name: i.text(), Canary: i.counts(), Stable: i.counts()}, i.single()}
		if c.Canary.Sound() != nil || c.Stable.Sound() != nil {
			i.fail()
		}
		return c
	}, func(s *Stand, all []Class) { s.Classes = all })
}

// ClassBucket is what of an interval was answered of one class.
type ClassBucket struct {
	Class    string          `json:"class"`
	Requests float64         `json:"requests"`
	Errors   float64         `json:"errors"`
	Stable   analysis.Counts `json:"stable"`
	Evidence float64         `json:"evidence"` // of the class alone, at the end of the interval
}

// byClass adds to a bucket what was answered between two points.
func (b *Bucket) byClass(was, is Stand) {
	same := was.Version == is.Version && was.Attempt == is.Attempt
	for i, c := range is.Classes {
		k := b.class(c.Name)
		if k.Evidence = c.Evidence; !same {
			continue
		}
		var before rollout.Exercise // its classes are fixed once
		if i < len(was.Classes) && was.Classes[i].Name == c.Name {
			before = was.Classes[i].Exercise
		}
		own, stable := more(before.Canary, c.Canary), more(before.Stable, c.Stable)
		k.Requests, k.Errors, k.Stable = k.Requests+own.Requests, k.Errors+own.Errors, k.Stable.Add(stable)
	}
}

func (b *Bucket) class(name string) *ClassBucket {
	return entry(&b.Classes, func(c *ClassBucket) bool { return c.Class == name }, ClassBucket{Class: name})
}
