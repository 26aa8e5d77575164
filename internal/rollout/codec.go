package rollout

import (
	"encoding/json"
	"fmt"
)

// The formats of the states that this build writes. A state that names none is of format 1, from before there were formats.
const (
	stateFormat = 2 // in one part
	partsFormat = 3 // what is decided of it; its evidence is the other part
)

// EncodeState writes a state in one part.
func EncodeState(s State) ([]byte, error) { return encode(stateFormat, s) }

func encode(format int, s State) ([]byte, error) {
	raw, err := json.Marshal(struct {
		Format int `json:"format"`
		State
	}{format, s.bound()})
	if err != nil {
		return nil, fmt.Errorf("the state of %s cannot be encoded: %w", s.Policy.Service, err)
	}
	return raw, nil
}

// DecodeState reads a state in one part, of this format or an older one. What it returns without an error is
// safe to step. Evidence that cannot be read is left out, and lost says which: that costs sensitivity,
// never validity.
func DecodeState(raw []byte) (s State, lost []string, err error) {
	return decode(raw, stateFormat, func(*storedState) []string { return nil })
}

// decode reads a state of a format up to one, to which a function adds what is stored elsewhere.
func decode(raw []byte, most int, join func(*storedState) (lost []string)) (s State, lost []string, err error) {
	var d storedState
	if err := json.Unmarshal(raw, &d); err != nil || d.Format > most || d.Format < 0 {
		return State{}, nil, unreadable(raw, most, err)
	}
	lost = join(&d)
	s, more := d.salvage()
	lost = append(lost, more...)
	s.says = says(&s.Policy)
	if d.Format < 2 {
		s.lineFromFormat1() // before it is asked for its table
	}
	if d.Serving != nil {
		s.Serving = *d.Serving
	} else {
		s.Serving = d.flags.serving(&s)
	}
	if d.Format < 2 {
		s.fromFormat1()
	}
	if err := s.sound(); err != nil {
		return State{}, nil, fmt.Errorf("the state of %s contradicts itself: %w: restore the storage from before, or delete the service and announce it anew", d.Policy.Service, err)
	}
	return s, lost, nil
}

// unreadable says why a state cannot be read, which may be of a format that nobody knows.
func unreadable(raw []byte, most int, why error) error {
	var head struct {
		Format int `json:"format"`
		Policy struct {
			Service string `json:"service"`
		} `json:"policy"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return fmt.Errorf("this is not a state that canaryd wrote: %w", err)
	}
	if head.Format > most || head.Format < 0 {
		return fmt.Errorf("the state of %s has format %d, this canaryd reads formats up to %d: run the newer canaryd that wrote it, or restore the storage from before", head.Policy.Service, head.Format, most)
	}
	return fmt.Errorf("the state of %s cannot be read: %w", head.Policy.Service, why)
}

// eventFormat is the format of the events that this build writes.
const eventFormat = 1

type storedEvent struct {
	Format int             `json:"format"`
	Type   string          `json:"type"`
	Event  json.RawMessage `json:"event"`
}

// EncodeEvent writes an event with its type.
func EncodeEvent(e Event) ([]byte, error) {
	raw, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("the event %s cannot be encoded: %w", e.name(), err)
	}
	return json.Marshal(storedEvent{eventFormat, e.name(), raw})
}

// DecodeEvent reads an event. What it returns without an error is safe to step with.
func DecodeEvent(raw []byte) (Event, error) {
	var d storedEvent
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, fmt.Errorf("this is not an event that canaryd wrote: %w", err)
	}
	if d.Format != eventFormat {
		return nil, fmt.Errorf("the event %s has format %d, this canaryd reads format %d: read it with the canaryd that wrote it", d.Type, d.Format, eventFormat)
	}
	decode, known := eventDecoders()[d.Type]
	if !known {
		return nil, fmt.Errorf("there is no event %q", d.Type)
	}
	e, err := decode(d.Event)
	if err == nil {
		err = SoundEvent(e)
	}
	if err != nil {
		return nil, fmt.Errorf("the event %s cannot be read: %w", d.Type, err)
	}
	return e, nil
}

func eventDecoders() map[string]func(json.RawMessage) (Event, error) {
	return map[string]func(json.RawMessage) (Event, error){
		"announced": decodeAs[Announced], "commanded": decodeAs[Commanded], "observed": decodeAs[Observed], "applied": decodeAs[Applied],
		"rejected": decodeAs[Rejected], "launched": decodeAs[Launched], "left": decodeAs[Left], "probed": decodeAs[Probed],
		"policy_changed": decodeAs[PolicyChanged], "orphaned": decodeAs[Orphaned], "recalled": decodeAs[Recalled], "sampled": decodeAs[Sampled], "removing": decodeAs[Removing], "forgotten": decodeAs[Forgotten], "tick": decodeAs[Tick],
	}
}

func decodeAs[E Event](raw json.RawMessage) (Event, error) {
	var e E
	err := json.Unmarshal(raw, &e)
	return e, err
}
