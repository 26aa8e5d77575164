package store

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

func open(t *testing.T) *Bolt {
	t.Helper()
	b, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func (b *Bolt) mustSave(t *testing.T, ws ...Write) {
	t.Helper()
	if _, err := b.Save(ws); err != nil {
		t.Fatal(err)
	}
}

// stored is what is there of a service's journal, as "begin: parts".
func stored(t *testing.T, b *Bolt, service string) (all []string) {
	t.Helper()
	for after := uint64(0); ; {
		c, found, err := b.Chunk(service, after, false)
		if err != nil {
			t.Fatal(err)
		}
		if !found {
			return all
		}
		var data []string
		for _, p := range c.Parts {
			data = append(data, fmt.Sprintf("%d=%s", p.Number, p.Data))
		}
		all, after = append(all, fmt.Sprint(c.Begin, data)), c.Begin
	}
}

// joined stands in for what compresses.
func joined(parts [][]byte) ([]byte, error) { return bytes.Join(parts, []byte("+")), nil }

func (b *Bolt) tidyAll(t *testing.T, now time.Time, l Limits) {
	t.Helper()
	for range 1000 {
		more, err := b.Tidy(now, l)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return
		}
	}
	t.Fatal("there is always more to be done")
}

func part(begin uint64, number uint32, last bool, data string) Part {
	return Part{Begin: begin, Number: number, Last: last, Data: []byte(data)}
}

func TestChunksArePackedAndFound(t *testing.T) {
	b := open(t)
	all := Limits{Retention: time.Hour, MaxBytes: 1 << 30, Pack: joined}
	b.tidyAll(t, time.Unix(1, 0), all) // of nothing
	b.mustSave(t, Write{Service: "shop", Parts: []Part{part(10, 0, false, "a")}}, Write{Service: "shop2", Parts: []Part{part(11, 0, true, "x")}})
	b.mustSave(t, Write{Service: "shop", Parts: []Part{part(10, 0, false, "a"), part(10, 1, true, "b"), part(20, 0, false, "c")}}) // again, as after a failure
	want := []string{"10 [0=a 1=b]", "20 [0=c]"}
	if got := stored(t, b, "shop"); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	b.tidyAll(t, time.Unix(1, 0), all)
	want = []string{"10 [0=a+b]", "20 [0=c]"}
	if got := stored(t, b, "shop"); !slices.Equal(got, want) {
		t.Errorf("packed: %q", got)
	}
	if got := stored(t, b, "shop2"); !slices.Equal(got, []string{"11 [0=x]"}) {
		t.Errorf("another service: %q", got)
	}
	for after, want := range map[uint64]uint64{5: 10, 10: 10, 15: 10, 20: 20, 25: 20} {
		if c, found, err := b.Chunk("shop", after, true); err != nil || !found || c.Begin != want {
			t.Errorf("around %d: %d %v %v", after, c.Begin, found, err)
		}
	}
	for _, nobody := range []string{"sho", "shop1", "zzz", "a"} {
		if c, found, err := b.Chunk(nobody, 15, true); err != nil || found {
			t.Errorf("%s has %v (%v)", nobody, c, err)
		}
	}
	size, err := b.size(journal)
	if err != nil || size != int64(len("a+b")+len("c")+len("x")) {
		t.Errorf("%d bytes, %v", size, err)
	}
}

func (b *Bolt) size(what bucket) (n int64, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error { n, _ = sized(tx, what); return nil })
	return n, err
}

func TestWhatIsOldOrTooMuchGoes(t *testing.T) {
	b := open(t)
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 300 {
		at := begin.Add(time.Duration(i) * time.Minute)
		record := fmt.Appendf(nil, `{"at":%q,"n":"%d"}`, at.Format(time.RFC3339), i)
		b.mustSave(t, Write{Service: fmt.Sprint("shop", i%2), Records: [][]byte{record}, Parts: []Part{part(uint64(at.UnixNano()), 0, true, "0123456789")}})
	}
	// As a database from before the limits.
	if err := b.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(history)).SetSequence(0) }); err != nil {
		t.Fatal(err)
	}
	now := begin.Add(300 * time.Minute)
	l := Limits{Retention: 100 * time.Minute, MaxBytes: 1 << 30, Pack: joined}
	b.tidyAll(t, now, l)
	h0, err := b.History("shop0", 1000)
	if err != nil || len(h0) != 50 || !bytes.Contains(h0[0], []byte(`"200"`)) {
		t.Errorf("%d records are left, from %s on (%v)", len(h0), h0[0], err)
	}
	if got := len(stored(t, b, "shop0")) + len(stored(t, b, "shop1")); got != 100 {
		t.Errorf("%d chunks are left", got)
	}
	es, err := b.Events(0, 1000)
	if err != nil || len(es) != 100 || es[0].Cursor != 201 {
		t.Errorf("%d events are left, from %d on (%v)", len(es), es[0].Cursor, err)
	}
	kept, _ := b.size(history)
	l.MaxBytes = kept + 95 // of 1000 bytes of journal
	b.tidyAll(t, now, l)
	if got := len(stored(t, b, "shop0")) + len(stored(t, b, "shop1")); got != 9 {
		t.Errorf("%d chunks are left", got)
	}
	l.MaxBytes = kept / 2
	b.tidyAll(t, now, l)
	h1, err := b.History("shop1", 1000)
	if got, _ := b.size(history); err != nil || got > kept/2 || len(h1) != 25 || !bytes.Contains(h1[24], []byte(`"299"`)) {
		t.Errorf("%d bytes of history are left, %d records of one service (%v)", got, len(h1), err)
	}
	if last, err := b.Last(); err != nil || last != 300 {
		t.Errorf("the newest event is %d (%v)", last, err)
	}
	if idle, err := b.tidied(now, l); err != nil || !idle {
		t.Errorf("there is always more to be done (%v)", err)
	}
}

// The oldest chunk may be one that still grows: what comes of it then goes as well, and is not kept forever.
func TestAChunkThatGoesWhileItGrowsLeavesNothing(t *testing.T) {
	b := open(t)
	l := Limits{Retention: time.Hour, MaxBytes: 10, Pack: joined}
	b.mustSave(t, Write{Service: "shop", Records: [][]byte{[]byte("{}")}, Parts: []Part{part(10, 0, false, "0123456789")}})
	b.tidyAll(t, time.Unix(1, 0), l)
	b.mustSave(t, Write{Service: "shop", Parts: []Part{part(10, 1, false, "0123456789"), part(10, 2, true, "0123456789")}})
	b.tidyAll(t, time.Unix(2, 0), l)
	if left := stored(t, b, "shop"); len(left) > 0 {
		t.Errorf("%q is left, and nothing will ever let it go", left)
	}
	if size, err := b.size(journal); err != nil || size != 0 {
		t.Errorf("%d bytes, %v", size, err)
	}
}

// Records from before there were events are trimmed as others are: else the newest of all would have to go for them.
func TestRecordsWithoutEventsGoFirst(t *testing.T) {
	b := open(t)
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	record := func(i int) []byte {
		return fmt.Appendf(nil, `{"at":%q,"n":"%d"}`, begin.Add(time.Duration(i)*time.Minute).Format(time.RFC3339), i)
	}
	for i := range 250 {
		b.mustSave(t, Write{Service: fmt.Sprint("shop", i%2), Records: [][]byte{record(i)}})
	}
	if err := b.db.Update(func(tx *bbolt.Tx) error {
		if err := tx.DeleteBucket([]byte(events)); err != nil {
			return err
		}
		return tx.Bucket([]byte(history)).SetSequence(0)
	}); err != nil {
		t.Fatal(err)
	}
	for i := 250; i < 300; i++ {
		b.mustSave(t, Write{Service: fmt.Sprint("shop", i%2), Records: [][]byte{record(i)}})
	}
	kept := func() (n int) {
		for _, service := range []string{"shop0", "shop1"} {
			h, err := b.History(service, 1000)
			if err != nil || len(h) > 0 && !bytes.Contains(h[len(h)-1], []byte(`"29`)) {
				t.Errorf("%s: %q (%v)", service, h, err)
			}
			n += len(h)
		}
		return n
	}
	now := begin.Add(300 * time.Minute)
	b.tidyAll(t, now, Limits{Retention: 100 * time.Minute, MaxBytes: 1 << 30, Pack: joined})
	if n := kept(); n != 100 {
		t.Errorf("%d records are left, not 100", n)
	}
	size, _ := b.size(history)
	b.tidyAll(t, now, Limits{Retention: 1000 * time.Minute, MaxBytes: size / 2, Pack: joined})
	if n := kept(); n < 48 || n > 50 { // the oldest with an event takes those before it along
		t.Errorf("%d records are left, not 50", n)
	}
}
