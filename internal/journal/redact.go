package journal

import (
	"encoding/binary"
	"encoding/json"
	"errors"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Redacted is a chunk without the secrets of policies: in their place stands what instead makes of them. What was different
// before has to be different afterwards, and what was equal has to be equal, in all chunks that are taken again together: then
// every decision comes out of it as it was, for none looks into a secret. A chunk without secrets stays as it is; another one says of
// itself that it is redacted. One that cannot be read on is an error.
func (r *Reader) Redacted(parts [][]byte, instead func(secret string) string) ([][]byte, error) {
	beside, events, packed, err := halves(parts)
	if packed && err == nil {
		var err2 error
		beside, err = r.z.DecodeAll(beside, nil)
		events, err2 = r.z.DecodeAll(events, nil)
		err = errors.Join(err, err2)
	}
	if err != nil {
		return nil, err
	}
	events, hid, err := redactedEvents(events, instead)
	if err != nil || !hid {
		return parts, err
	}
	if beside, err = redactedBeside(beside); err != nil {
		return nil, err
	}
	b := binary.AppendUvarint([]byte{partFormat}, 0)
	return [][]byte{seal(append(append(binary.AppendUvarint(b, uint64(len(beside))), beside...), events...))}, nil
}

// redactedEvents copies events but for those, and the state before them, that have a policy with secrets.
func redactedEvents(b []byte, instead func(string) string) (_ []byte, hid bool, err error) {
	i := eventsIn{in: in{buf: b}}
	if i.kind() != aState {
		return nil, false, errors.New("the state that it begins with is missing")
	}
	s, _, err := rollout.DecodeState(i.bytes(i.length()))
	if err := errors.Join(i.err, err); err != nil {
		return nil, false, err
	}
	var o out
	was := len(b) - len(i.buf)
	if s.Policy, hid, err = s.Policy.Without(instead); err == nil && hid {
		err = o.state(s)
	} else {
		o.buf = append(o.buf, b[:was]...)
	}
	for err == nil && i.more() {
		before := i.buf
		var e rollout.Event
		if e, err = i.event(); err != nil {
			break
		}
		raw := before[:len(before)-len(i.buf)]
		changed, ok := e.(rollout.PolicyChanged)
		if !ok {
			o.buf = append(o.buf, raw...)
			continue
		}
		var secrets bool
		if raw, secrets, err = redactedPolicy(raw, changed, instead); err == nil {
			o.buf, hid = append(o.buf, raw...), hid || secrets
		}
	}
	return o.buf, hid, errors.Join(i.err, err)
}

// redactedPolicy is the event with another policy. How long ago the one before it was stays as it is written.
func redactedPolicy(raw []byte, e rollout.PolicyChanged, instead func(string) string) ([]byte, bool, error) {
	without, hid, err := e.Policy.Without(instead)
	if err != nil || !hid {
		return raw, false, err
	}
	e.Policy = without
	other, err := rollout.EncodeEvent(e)
	if err != nil {
		return nil, false, err
	}
	i := eventsIn{in: in{buf: raw}}
	_ = i.kind()
	_ = i.moment()
	o := out{buf: append([]byte{}, raw[:len(raw)-len(i.buf)]...)}
	o.bytes(other)
	return o.buf, true, i.err
}

// redactedBeside has the header say so.
func redactedBeside(b []byte) ([]byte, error) {
	i := in{buf: b}
	var o out
	for i.more() {
		before := i.buf
		switch i.kind() {
		case aHeader:
			var h Header
			if err := json.Unmarshal(i.bytes(i.length()), &h); err != nil {
				return nil, err
			}
			h.Redacted = true
			if err := o.json(aHeader, h); err != nil {
				return nil, err
			}
			continue
		case aPoint:
			_ = i.point()
		case aPaces:
			i.paces(nil)
		case aClasses:
			i.classes(nil)
		default:
			_ = i.bytes(i.length())
		}
		o.buf = append(o.buf, before[:len(before)-len(i.buf)]...)
	}
	return o.buf, i.err
}
