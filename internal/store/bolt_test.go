package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStateAndHistoryAreOneTransaction(t *testing.T) {
	dir := t.TempDir()
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		w := Write{Service: "shop", State: []byte(fmt.Sprint("state ", i)), PolicyHash: "h1", PolicyText: "service: shop", Records: [][]byte{[]byte(fmt.Sprint("a", i)), []byte(fmt.Sprint("b", i))}}
		if _, err := b.Save([]Write{w, {Service: "pay", State: []byte("p")}}); err != nil {
			t.Fatal(err)
		}
	}
	// One bad write takes the whole transaction with it.
	if _, err := b.Save([]Write{{Service: "shop", State: []byte("lost"), Records: [][]byte{[]byte("lost")}}, {Service: "", State: []byte("x")}}); err == nil {
		t.Error("an empty service name was stored")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	states, err := b.States()
	if err != nil || string(states["shop"].Decided) != "state 29" || string(states["pay"].Decided) != "p" {
		t.Errorf("%s %v", states, err)
	}
	h, err := b.History("shop", 3)
	if err != nil || len(h) != 3 || string(h[0]) != "b28" || string(h[2]) != "b29" {
		t.Errorf("%s %v", h, err)
	}
	if h, err := b.History("nobody", 3); err != nil || len(h) != 0 {
		t.Errorf("%s %v", h, err)
	}
	if p, err := b.Policy("h1"); err != nil || p != "service: shop" {
		t.Errorf("%q %v", p, err)
	}
	if _, err := b.Save([]Write{{Service: "shop", Delete: true}}); err != nil {
		t.Fatal(err)
	}
	if states, _ = b.States(); len(states) != 1 {
		t.Errorf("%s", states)
	}
	if h, _ := b.History("shop", 100); len(h) != 60 {
		t.Errorf("the history of a removed service has %d records, want 60", len(h))
	}
}

// Evidence is stored beside the state, with it or alone, and goes with it.
func TestEvidenceIsBesideTheState(t *testing.T) {
	b, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, c := range []struct {
		w    Write
		want string
	}{
		{Write{State: []byte("s1")}, "{s1 }"},
		{Write{Evidence: []byte("e1")}, "{s1 e1}"},
		{Write{State: []byte("s2"), Evidence: []byte("e2")}, "{s2 e2}"},
		{Write{Records: [][]byte{[]byte("r")}}, "{s2 e2}"},
		{Write{Delete: true}, "{ }"},
		{Write{State: []byte("s3")}, "{s3 }"},
	} {
		c.w.Service = "shop"
		if _, err := b.Save([]Write{c.w}); err != nil {
			t.Fatal(err)
		}
		states, err := b.States()
		if got := fmt.Sprintf("%s", states["shop"]); err != nil || got != c.want {
			t.Errorf("after %+v: %s (%v), want %s", c.w, got, err, c.want)
		}
	}
}

// The key is made at the first start and is the same after it was stored, with whatever is stored first.
func TestTheKeyStaysTheSameOnceSomethingIsStored(t *testing.T) {
	dir := t.TempDir()
	start := func(store bool) string {
		b, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if store {
			for range 2 {
				if _, err := b.Save([]Write{{Service: "shop", State: []byte("s")}}); err != nil {
					t.Fatal(err)
				}
			}
		} else if _, err := b.Save([]Write{{State: []byte("a write that fails")}}); err == nil {
			t.Fatal("an empty service name was stored")
		}
		return string(b.Key())
	}
	unstored, stored := start(false), start(true)
	if len(stored) != keyLength || stored == unstored {
		t.Errorf("keys of %d and %d bytes, equal: %v", len(unstored), len(stored), stored == unstored)
	}
	if again := start(false); again != stored || start(true) != stored {
		t.Error("it is another one after a restart")
	}
}

func TestASecondProcessIsTold(t *testing.T) {
	dir := t.TempDir()
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "another canaryd has it open") {
		t.Errorf("%v", err)
	}
}

func TestMarksAndTheNewestEvent(t *testing.T) {
	dir := t.TempDir()
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := b.Last(); n != 0 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	if _, err := b.Save([]Write{{Service: "shop", State: []byte("s"), Records: [][]byte{[]byte("1"), []byte("2")}}}); err != nil {
		t.Fatal(err)
	}
	for _, to := range []map[string]uint64{{"x": 1, "y": 2}, {"x": 2}} {
		if err := b.Mark(to); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if n, err := b.Last(); n != 2 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	if m, err := b.Marks(); err != nil || len(m) != 1 || m["x"] != 2 {
		t.Errorf("%v %v", m, err)
	}
}

// A copy of a database has its name, after a restart, too; another one has another.
func TestACopyOfADatabaseHasItsName(t *testing.T) {
	name := func(dir string) string {
		db, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Save([]Write{{Service: "shop", State: []byte("x")}}); err != nil {
			t.Fatal(err)
		}
		return db.ID()
	}
	dir, other, third := t.TempDir(), t.TempDir(), t.TempDir()
	first := name(dir)
	raw, err := os.ReadFile(filepath.Join(dir, "canaryd.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "canaryd.db"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if len(first) != 16 || name(dir) != first || name(other) != first || name(third) == first {
		t.Errorf("%s, then %s; the copy %s, another %s", first, name(dir), name(other), name(third))
	}
}
