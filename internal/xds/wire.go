package xds

import (
	"fmt"
	"iter"

	"google.golang.org/protobuf/encoding/protowire"
)

// field is one field of an encoded message.
type field struct {
	number protowire.Number
	bytes  []byte // of a message, a text, or packed numbers; nil: it is none of these
	whole  []byte // as it is encoded
}

// fields goes through an encoded message, as far as it can be read.
func fields(b []byte) iter.Seq[field] {
	return func(yield func(field) bool) {
		for len(b) > 0 {
			f, n := fieldAt(b)
			if n < 0 || !yield(f) {
				return
			}
			b = b[n:]
		}
	}
}

// fieldAt reads one field; the length is negative where there is none.
func fieldAt(b []byte) (f field, length int) {
	number, typ, tag := protowire.ConsumeTag(b)
	if tag < 0 {
		return f, tag
	}
	f.number = number
	value := 0
	if typ == protowire.BytesType {
		f.bytes, value = protowire.ConsumeBytes(b[tag:])
	} else {
		value = protowire.ConsumeFieldValue(number, typ, b[tag:])
	}
	if value < 0 {
		return f, value
	}
	f.whole = b[:tag+value]
	return f, tag + value
}

// count counts fields of an encoded message: those at the end of a path.
func count(b []byte, path ...protowire.Number) (n int) {
	for f := range fields(b) {
		switch {
		case f.number != path[0]:
		case len(path) == 1:
			n++
		default:
			n += count(f.bytes, path[1:]...)
		}
	}
	return n
}

// without copies an encoded message, less the fields at the end of a path.
func without(b []byte, path ...protowire.Number) (kept []byte, err error) {
	for len(b) > 0 {
		f, n := fieldAt(b)
		if n < 0 {
			return nil, fmt.Errorf("xds: a message that cannot be read: %w", protowire.ParseError(n))
		}
		switch {
		case f.number != path[0], len(path) > 1 && f.bytes == nil:
			kept = append(kept, f.whole...)
		case len(path) > 1:
			part, err := without(f.bytes, path[1:]...)
			if err != nil {
				return nil, err
			}
			kept = protowire.AppendBytes(protowire.AppendTag(kept, f.number, protowire.BytesType), part)
		}
		b = b[n:]
	}
	return kept, nil
}
