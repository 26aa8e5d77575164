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

// classes writes those of a point's versions, in an entry of its own: a journal of services that have none is as it was.
func (o *out) classes(versions []Stand) {
	n := 0
	for i := range versions {
		if len(versions[i].Classes) > 0 {
			n++
		}
	}
	if n == 0 {
		return
	}
	o.kind(aClasses)
	o.uint(uint64(n))
	for i := range versions {
		if len(versions[i].Classes) == 0 {
			continue
		}
		o.text(versions[i].Version)
		list(o, versions[i].Classes, func(c Class) {
			o.text(c.Name)
			o.counts(c.Canary)
			o.counts(c.Stable)
			o.single(c.Evidence)
		})
	}
}

// classes reads them into the last of some points.
func (i *in) classes(points []Point) {
	var into []Stand
	if n := len(points); n > 0 {
		into = points[n-1].Versions
	}
	for range i.length() {
		version := i.text()
		var all []Class
		for range i.length() {
			c := Class{rollout.Exercise{Name: i.text(), Canary: i.counts(), Stable: i.counts()}, i.single()}
			if c.Canary.Sound() != nil || c.Stable.Sound() != nil {
				i.fail()
			}
			if i.err != nil {
				return
			}
			all = append(all, c)
		}
		for k := range into {
			if into[k].Version == version {
				into[k].Classes = all
			}
		}
	}
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
	for i := range b.Classes {
		if b.Classes[i].Class == name {
			return &b.Classes[i]
		}
	}
	b.Classes = append(b.Classes, ClassBucket{Class: name})
	return &b.Classes[len(b.Classes)-1]
}
