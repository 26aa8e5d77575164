package rollout

import (
	"hash/maphash"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// digester sums up values and all that they reach, also what is never stored. Encoding them takes several times as long, and the
// fuzzer asks all the time whether what others hold is as it was.
type digester struct {
	seed maphash.Seed
	sum  uint64
}

// digest is another number when anything of a state has changed, but for a list without entries.
func (w *walk) digest(s *State) uint64 {
	d := digester{seed: w.seed}
	d.value(reflect.ValueOf(s).Elem())
	return d.sum
}

func (d *digester) number(n uint64) {
	d.sum = (d.sum ^ n) * 0x9e3779b97f4a7c15
	d.sum ^= d.sum >> 29
}

func (d *digester) value(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		d.truth(v.Bool())
	case reflect.String:
		d.number(maphash.String(d.seed, v.String()))
	case reflect.Float64:
		d.number(math.Float64bits(v.Float()))
	case reflect.Struct:
		d.fields(v)
	case reflect.Slice, reflect.Array:
		d.number(uint64(v.Len()))
		for i := range v.Len() {
			d.value(v.Index(i))
		}
	case reflect.Pointer:
		if d.truth(!v.IsNil()); !v.IsNil() {
			d.value(v.Elem())
		}
	case reflect.Map:
		d.pairs(v)
	default:
		d.whole(v)
	}
}

func (d *digester) whole(v reflect.Value) {
	if v.CanUint() {
		d.number(v.Uint())
	} else {
		d.number(uint64(v.Int()))
	}
}

func (d *digester) truth(b bool) {
	if b {
		d.number(1)
	} else {
		d.number(2)
	}
}

// fields: of a moment the time zone, which many share, is left out.
func (d *digester) fields(v reflect.Value) {
	n := v.NumField()
	if v.Type() == reflect.TypeFor[time.Time]() {
		n--
	}
	for i := range n {
		d.value(v.Field(i))
	}
}

// pairs: their order is no one's.
func (d *digester) pairs(v reflect.Value) {
	all := uint64(v.Len())
	for it := v.MapRange(); it.Next(); {
		pair := digester{seed: d.seed}
		pair.value(it.Key())
		pair.value(it.Value())
		all += pair.sum
	}
	d.number(all)
}

// Whatever of a state changes, however deep, its digest does; and a copy has the same.
func TestADigestTellsEveryChange(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	b := make([]byte, 300)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	w := newWalk(t, b)
	w.run()
	s := w.s.clone()
	was, n := w.digest(&w.s), 0
	if w.digest(&s) != was {
		t.Error("a copy has another digest")
	}
	changed(reflect.ValueOf(&s).Elem(), func(what string) {
		if n++; w.digest(&s) == was {
			t.Errorf("%s is another one, and the digest is the same", what)
		}
	})
	if w.digest(&s) != was || n < 1000 {
		t.Errorf("%d changes, and the digest is as it was after them: %v", n, w.digest(&s) == was)
	}
}

// changed changes each value that another one reaches, and back.
func changed(v reflect.Value, look func(what string)) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type() != reflect.TypeFor[time.Time]() && v.Type().Field(i).IsExported() {
				changed(v.Field(i), look)
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			changed(v.Index(i), look)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			changed(v.Elem(), look)
		}
	}
	if was := reflect.ValueOf(v.Interface()); another(v) {
		look(v.Type().String())
		v.Set(was)
	}
}

// another gives a value another one, if it is of a kind that has no parts.
func another(v reflect.Value) bool {
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = x.Add(1)
	case *bool:
		*x = !*x
	default:
		switch {
		case v.Kind() == reflect.String:
			v.SetString(v.String() + "x")
		case v.CanFloat():
			v.SetFloat(v.Float() + 0.5)
		case v.CanInt():
			v.SetInt(v.Int() + 1)
		case v.CanUint():
			v.SetUint(v.Uint() + 1)
		default:
			return false
		}
	}
	return true
}
