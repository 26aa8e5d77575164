// Package journal is what the state machine of a service was told while a release was under way, as it is written and read:
// the events, with the state before the first of them. It is cut into chunks, each of which can be taken again alone. Beside
// the events stands what they led to, at longer intervals, for plots. It is pure.
package journal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/canaryd/canaryd/internal/rollout"
)

// Why says why a chunk begins.
type Why string

// The reasons.
const (
	Began     Why = "began"     // a release
	Continued Why = "continued" // the chunk before it was long: its last state is the first of this one
	Resumed   Why = "resumed"   // canaryd was started
	Gap       Why = "gap"       // what came before it found no room while nothing could be stored
	Withdrawn Why = "withdrawn" // what was decided before, and not stored, is withdrawn
	ClockSet  Why = "clock_set"
)

// Header is how a chunk begins.
type Header struct {
	Service  string    `json:"service"`
	At       time.Time `json:"at"`
	Why      Why       `json:"why"`
	Lost     time.Time `json:"lost,omitzero"`      // what happened from then on to At is in no chunk
	Redacted bool      `json:"redacted,omitempty"` // policies in it have no secrets, but something else in their place
	Machine  string    `json:"machine"`            // another one may compute other last digits
}

// Formats of parts and of packed chunks. A new one gets a new number; those that were ever written are read. In the first
// one cells have no answers, times and requests that began; else they are equal.
const (
	partFormat   = 2
	packedFormat = 128 + partFormat

	firstPart   = 1
	firstPacked = 128 + firstPart

	unpackedMost = 64 << 20
	crcLength    = 4
)

// What stands beside the events. The numbers are stored: none is used for something else, ever.
const (
	aHeader  = 1
	aPoint   = 2
	aRecord  = 3
	aPaces   = 4 // of the point before it
	aClasses = 5 // and these
)

// Part is what is written of a chunk at once. It may be encoded elsewhere than where it was made.
type Part struct {
	Begin  uint64 // names the chunk, in the order of time
	Number uint32 // from 0
	Last   bool   // the chunk is complete
	At     time.Time
	Size   int // about how many bytes it takes

	header  *Header // of part 0
	state   rollout.State
	points  []byte
	records []rollout.Record
	events  []piece
	raw     []byte // what Encode made of it; nil: not known here
}

// Encoded keeps what Encode made of the part, for when it is asked again.
func (p *Part) Encoded(raw []byte) { p.raw = raw }

// piece are encoded events, or one that is to be encoded.
type piece struct {
	raw   []byte
	event rollout.Event
	delta []byte // the moment of event
}

// Packed reports whether a part stands for a whole chunk.
func Packed(part []byte) bool {
	return len(part) > 0 && part[0] >= firstPacked && part[0] <= packedFormat
}

// Lose says that what was written before the chunk is lost. Copies of the part are left as they are.
func (p *Part) Lose(since time.Time) {
	if p.header != nil {
		h := *p.header
		h.lose(since)
		p.header, p.raw = &h, nil
	}
}

// Since is from when on something is missing where the part is let go.
func (p *Part) Since() time.Time { return p.header.since(p.At) }

func (h *Header) since(at time.Time) time.Time {
	if h != nil && !h.Lost.IsZero() {
		return h.Lost
	}
	return at
}

func (h *Header) lose(since time.Time) {
	if h != nil && (h.Why != Gap || h.Lost.IsZero() || since.Before(h.Lost)) {
		h.Why, h.Lost = Gap, since
	}
}

// Encode writes a part.
func (p *Part) Encode() ([]byte, error) {
	if p.raw != nil {
		return p.raw, nil
	}
	var beside, events out
	if p.header != nil {
		if err := errors.Join(beside.json(aHeader, p.header), events.state(p.state)); err != nil {
			return nil, err
		}
	}
	beside.buf = append(beside.buf, p.points...)
	for _, r := range p.records {
		if err := beside.json(aRecord, r); err != nil {
			r.Verdict = nil // its numbers are none
			if err = beside.json(aRecord, r); err != nil {
				return nil, err
			}
		}
	}
	for _, x := range p.events {
		events.buf = append(events.buf, x.raw...)
		if x.event == nil {
			continue
		}
		raw, err := rollout.EncodeEvent(x.event)
		if err != nil {
			return nil, err
		}
		events.buf = append(append(events.buf, anOther), x.delta...)
		events.bytes(raw)
	}
	b := binary.AppendUvarint([]byte{partFormat}, uint64(p.Number))
	return seal(append(append(binary.AppendUvarint(b, uint64(len(beside.buf))), beside.buf...), events.buf...)), nil
}

func (o *out) bytes(b []byte) {
	o.uint(uint64(len(b)))
	o.buf = append(o.buf, b...)
}

func (o *out) json(kind byte, v any) error {
	raw, err := json.Marshal(v)
	if err == nil {
		o.kind(kind)
		o.bytes(raw)
	}
	return err
}

func (o *out) state(s rollout.State) error {
	raw, err := rollout.EncodeState(s)
	if err == nil {
		o.kind(aState)
		o.bytes(raw)
	}
	return err
}

func seal(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func unseal(b []byte) ([]byte, error) {
	if len(b) < 1+crcLength {
		return nil, errCut
	}
	body := b[:len(b)-crcLength]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(b[len(body):]) {
		return nil, errors.New("its checksum is another one: the disk has changed it")
	}
	return body, nil
}

// halves are what stands beside the events, and the events, of a chunk. packed: both compressed.
func halves(parts [][]byte) (beside, events []byte, packed bool, err error) {
	for n, raw := range parts {
		b, err := unseal(raw)
		if err != nil {
			return beside, events, false, err
		}
		i := in{buf: b}
		switch k := i.kind(); {
		case Packed(b) && len(parts) == 1:
			beside = i.bytes(i.length())
			return beside, i.buf, true, i.err
		case k < firstPart || k > partFormat:
			return beside, events, false, fmt.Errorf("it has format %d: a newer canaryd wrote it", k)
		case i.uint() != uint64(n):
			return beside, events, false, errors.New("a part of it is missing")
		}
		of := i.bytes(i.length())
		if i.err != nil {
			return beside, events, false, i.err
		}
		beside, events = append(beside, of...), append(events, i.buf...)
	}
	return beside, events, false, nil
}

// Pack makes one of all the parts of a chunk, compressed.
func Pack(parts [][]byte) ([]byte, error) {
	beside, events, packed, err := halves(parts)
	if err != nil || packed {
		return nil, fmt.Errorf("the parts of a chunk cannot be packed: %w", errors.Join(err, errIf(packed, "they are packed")))
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	small := z.EncodeAll(beside, nil)
	b := append(binary.AppendUvarint([]byte{packedFormat}, uint64(len(small))), small...)
	return seal(z.EncodeAll(events, b)), nil
}

func errIf(bad bool, what string) error {
	if bad {
		return errors.New(what)
	}
	return nil
}

// Chunk is one that was read.
type Chunk struct {
	Header
	Points  []Point
	Records []json.RawMessage // what was decided, as it stands in the history
	State   rollout.State     // before the first event
	Events  []rollout.Event

	stored []byte // State as it is stored
}

// Reader reads chunks.
type Reader struct{ z *zstd.Decoder }

// NewReader makes one.
func NewReader() (*Reader, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(unpackedMost))
	return &Reader{z}, err
}

// Beside reads what stands beside the events. With an error it returns what it could read.
func (r *Reader) Beside(parts [][]byte) (Chunk, error) {
	var c Chunk
	beside, _, packed, broken := halves(parts)
	if packed {
		var err error
		if beside, err = r.z.DecodeAll(beside, nil); err != nil {
			return c, err
		}
	}
	return c, errors.Join(c.readBeside(beside), broken)
}

// Read reads all of a chunk. With an error it returns what it could read.
func (r *Reader) Read(parts [][]byte) (Chunk, error) {
	var c Chunk
	beside, events, packed, broken := halves(parts)
	if packed {
		var err, err2 error
		beside, err = r.z.DecodeAll(beside, nil)
		events, err2 = r.z.DecodeAll(events, nil)
		if err = errors.Join(err, err2); err != nil {
			return c, err
		}
	}
	return c, errors.Join(c.readBeside(beside), c.readEvents(events), broken)
}

func (c *Chunk) readBeside(b []byte) error {
	i := in{buf: b}
	for i.more() {
		switch k := i.kind(); k {
		case aHeader:
			if err := json.Unmarshal(i.bytes(i.length()), &c.Header); err != nil {
				return err
			}
		case aPoint:
			if p := i.point(); i.err == nil {
				c.Points = append(c.Points, p)
			}
		case aPaces:
			i.paces(c.Points)
		case aClasses:
			i.classes(c.Points)
		case aRecord:
			if raw := i.bytes(i.length()); i.err == nil {
				c.Records = append(c.Records, raw)
			}
		default:
			return fmt.Errorf("there is nothing of kind %d in a journal: a newer canaryd wrote it", k)
		}
	}
	if c.Service == "" && i.err == nil {
		return errors.New("its beginning is missing")
	}
	return i.err
}

func (c *Chunk) readEvents(b []byte) (err error) {
	i := eventsIn{in: in{buf: b}}
	if i.kind() != aState {
		return errors.New("the state that it begins with is missing")
	}
	c.stored = i.bytes(i.length())
	if i.err != nil {
		return i.err
	}
	if c.State, _, err = rollout.DecodeState(c.stored); err != nil {
		return err
	}
	for i.more() {
		e, err := i.event()
		if err != nil {
			return err
		}
		c.Events = append(c.Events, e)
	}
	return i.err
}

func machine() string { return runtime.GOARCH + " " + runtime.Version() }
