package journal

import (
	"encoding/binary"
	"errors"
	"math"
	"time"
)

// errCut is what is wrong with a stream that says more than it holds.
var errCut = errors.New("it ends in the middle, or is no journal")

// out is a stream being written. A text stands in it once, and has a number afterwards; a moment is what has passed since
// the one before.
type out struct {
	buf   []byte
	texts map[string]uint64
	at    int64
}

func (o *out) uint(n uint64) { o.buf = binary.AppendUvarint(o.buf, n) }
func (o *out) int(n int64)   { o.buf = binary.AppendVarint(o.buf, n) }
func (o *out) kind(k byte)   { o.buf = append(o.buf, k) }
func (o *out) single(x float64) {
	o.buf = binary.LittleEndian.AppendUint32(o.buf, math.Float32bits(float32(min(x, math.MaxFloat32))))
}

func (o *out) text(s string) {
	if n, known := o.texts[s]; known {
		o.uint(n)
		return
	}
	if o.texts == nil {
		o.texts = map[string]uint64{}
	}
	o.texts[s] = uint64(len(o.texts) + 1)
	o.uint(0)
	o.uint(uint64(len(s)))
	o.buf = append(o.buf, s...)
}

// since writes a moment by what lies between it and another one; the zero moment is a 0 of its own.
func (o *out) since(t time.Time, base int64) {
	if t.IsZero() {
		o.uint(0)
		return
	}
	d := t.UnixNano() - base
	o.uint(1 + uint64(d<<1^d>>63))
}

// moment writes the moment of an event.
func (o *out) moment(t time.Time) {
	o.since(t, o.at)
	o.at = t.UnixNano()
}

const wholeMost = 1 << 52

// number writes a count: most are whole, and small.
func (o *out) number(x float64) {
	if x >= 0 && x < wholeMost && x == math.Trunc(x) && !math.Signbit(x) {
		o.uint(uint64(x) << 1)
		return
	}
	o.uint(1)
	o.buf = binary.LittleEndian.AppendUint64(o.buf, math.Float64bits(x))
}

// in is a stream being read. After an error everything is zero.
type in struct {
	buf   []byte
	texts []string
	at    int64
	err   error
}

func (i *in) fail() {
	if i.err == nil {
		i.err = errCut
	}
	i.buf = nil
}

func (i *in) more() bool { return len(i.buf) > 0 && i.err == nil }

func (i *in) uint() uint64 {
	n, width := binary.Uvarint(i.buf)
	if width <= 0 {
		i.fail()
		return 0
	}
	i.buf = i.buf[width:]
	return n
}

func (i *in) int() int64 {
	n, width := binary.Varint(i.buf)
	if width <= 0 {
		i.fail()
		return 0
	}
	i.buf = i.buf[width:]
	return n
}

// length is how many of something follow: each takes a byte at least.
func (i *in) length() int {
	n := i.uint()
	if n > uint64(len(i.buf)) {
		i.fail()
		return 0
	}
	return int(n)
}

func (i *in) bytes(n int) []byte {
	if n > len(i.buf) {
		i.fail()
		return nil
	}
	b := i.buf[:n]
	i.buf = i.buf[n:]
	return b
}

func (i *in) kind() byte {
	if b := i.bytes(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (i *in) single() float64 {
	b := i.bytes(4)
	if len(b) < 4 {
		return 0
	}
	x := float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	if math.IsNaN(x) || math.IsInf(x, 0) {
		i.fail()
		return 0
	}
	return x
}

func (i *in) text() string {
	n := i.uint()
	if n == 0 {
		s := string(i.bytes(i.length()))
		i.texts = append(i.texts, s)
		return s
	}
	if n > uint64(len(i.texts)) {
		i.fail()
		return ""
	}
	return i.texts[n-1]
}

func (i *in) since(base int64) time.Time {
	n := i.uint()
	if n == 0 {
		return time.Time{}
	}
	n--
	return time.Unix(0, base+(int64(n>>1)^-int64(n&1))).UTC()
}

func (i *in) moment() time.Time {
	t := i.since(i.at)
	i.at = t.UnixNano()
	return t
}

func (i *in) number() float64 {
	n := i.uint()
	if n&1 == 0 {
		return float64(n >> 1)
	}
	b := i.bytes(8)
	if n != 1 || len(b) < 8 {
		i.fail()
		return 0
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(b))
}
