package docker

import (
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/canaryd/canaryd/internal/rollout"
	"github.com/canaryd/canaryd/internal/store"
)

// stored is a database that is closed with the test.
func stored(t testing.TB) *store.Bolt {
	t.Helper()
	return storedIn(t, t.TempDir())
}

func storedIn(t testing.TB, dir string) *store.Bolt {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// owner is a fleet as far as it knows which containers are its own.
func owner(t *testing.T, s *store.Bolt) *Fleet {
	t.Helper()
	log, _ := logtest.NewNullLogger()
	o, err := newOwnership(log, s)
	if err != nil {
		t.Fatal(err)
	}
	return &Fleet{key: s.Key(), owned: o}
}

var second = Want{Service: "shop", Container: rollout.Container{Version: "v2", Attempt: 2, Sealed: true}}

// Where no id is recorded for a name, as after a crash between the making and the recording, the seal says whose a container is.
func TestWithoutARecordTheSealCounts(t *testing.T) {
	want := second
	s := stored(t)
	labels := owner(t, s).configOf(want, nil, want.name(0)).Labels
	older := want
	older.Attempt = 1
	olders := owner(t, s).configOf(older, nil, older.name(0)).Labels
	others := owner(t, stored(t)).configOf(want, nil, want.name(0)).Labels
	unsealed := map[string]string{LabelManaged: "true", LabelService: "shop", LabelVersion: "v2", LabelAttempt: "2"}
	for _, c := range []struct {
		why     string
		name    string
		labels  map[string]string
		attempt int
		sealed  bool
		owns    bool
	}{
		{"ours", want.name(0), labels, 2, true, true},
		{"the same labels under another name, as `docker commit` and `docker run` leave them", "/vigilant_bose", labels, 2, true, false},
		{"the same labels under the name of another replica", want.name(1), labels, 2, true, false},
		{"another canaryd's on the same daemon", want.name(0), others, 2, true, false},
		{"labels that somebody wrote", want.name(0), unsealed, 2, true, false},
		{"of a release that did not seal", want.name(0), unsealed, 2, false, true},
		{"of such a release, copied", "/vigilant_bose", unsealed, 2, false, false},
		{"an older attempt", older.name(0), olders, 1, true, true},
		{"an older attempt that was not sealed", older.name(0), unsealed, 1, true, true},
		{"a name that goes on", want.name(0) + "-copy", labels, 2, true, false},
	} {
		want.Sealed = c.sealed
		f := owner(t, stored(t))
		f.key = s.Key()
		if got := f.owns(t.Context(), want, container.Summary{ID: "1", Names: []string{c.name}, Labels: c.labels}, c.attempt); got != c.owns {
			t.Errorf("%s: %v", c.why, got)
		}
	}
}

// What canaryd made it knows by id. A copy of its name, its labels and its seal has another one.
func TestWhatIsOwnedIsKnownByID(t *testing.T) {
	name := second.name(0)
	dir := t.TempDir()
	s := storedIn(t, dir)
	f := owner(t, s)
	if _, err := s.Save([]store.Write{{Service: "shop", State: []byte("{}")}}); err != nil { // as the deploy was
		t.Fatal(err)
	}
	restart := func() {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = storedIn(t, dir)
		f = owner(t, s)
	}
	owns := func(id string) bool {
		return f.owns(t.Context(), second, container.Summary{ID: id, Names: []string{name}, Labels: map[string]string{LabelSeal: f.key.seal(name)}}, 2)
	}
	check := func(when string, ours, strangers string) {
		t.Helper()
		for range 2 {
			for _, id := range strings.Fields(ours) {
				if !owns(id) {
					t.Errorf("%s: %s is not canaryd's", when, id)
				}
			}
			for _, id := range strings.Fields(strangers) {
				if owns(id) {
					t.Errorf("%s: %s is canaryd's", when, id)
				}
			}
			restart()
		}
	}
	f.owned.making(t.Context(), name)
	restart()
	check("a crash before the id was recorded", "1", "") // found by its seal, and recorded
	check("after that", "1", "2")
	f.owned.made(t.Context(), name, "3") // somebody removed the first one, and canaryd made another
	check("another one was made", "3", "2")
	check("the daemon was restored from a backup, with the one that was there before", "1", "2")
	f.owned.making(t.Context(), name)
	restart()
	check("a crash while another one was made", "4 1 3", "2")
	f.owned.gone(t.Context(), nil, second.stem())
	check("all were removed: a copy of what was is nobody's", "", "2")
	f.owned.making(t.Context(), name)
	f.owned.made(t.Context(), name, "5")
	check("and made again", "5", "2")
	for n := range 20 {
		f.owned.made(t.Context(), name, strings.Repeat("x", n+1))
	}
	check("many were made", strings.Repeat("x", 20), "2 5")
	if stored, err := s.Containers(); err != nil || len(stored) != 1 || strings.Count(string(stored[name]), "x\"") != idsPerName {
		t.Errorf("%v %s", err, stored)
	}
}

// What is gone of an attempt is asked of its own records only, each sweep by each worker; and it is the containers that are named
// and all of the attempt, not those of an attempt whose number begins alike, nor what is known as gone.
func TestWhatIsGoneIsLookedForAmongItsOwn(t *testing.T) {
	f := owner(t, stored(t))
	o := f.owned
	want := second
	for want.Attempt = 1; want.Attempt < 30; want.Attempt++ {
		for i := range 3 {
			o.made(t.Context(), want.name(i), "1")
		}
	}
	at := func(attempt int) Want { w := second; w.Attempt = attempt; return w }
	first := []container.Summary{{Names: []string{"/" + at(1).name(1)}}, {Names: []string{"/" + at(2).name(2)}}, {Names: []string{"/vigilant_bose"}}}
	check := func(when string, cs []container.Summary, stem string, want ...string) {
		t.Helper()
		if got := o.left(cs, stem); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	check("nothing was removed", nil, "")
	check("an attempt, and of another one a container", first, at(2).stem(), at(1).name(1), at(2).name(0), at(2).name(1), at(2).name(2))
	o.gone(t.Context(), first, at(2).stem())
	check("once more", first, at(2).stem())
	check("the other one", nil, at(1).stem(), at(1).name(0), at(1).name(2))
	if n := len(o.stems[at(20).stem()]); n != 3 || len(o.stems) != 29 {
		t.Errorf("an attempt of three containers has %d records to look at, of %d attempts", n, len(o.stems))
	}
	o.made(t.Context(), at(2).name(1), "2")
	check("made again", nil, at(2).stem(), at(2).name(1))
}

// A disk that takes nothing keeps no container from being made, and its id is written when the disk takes it.
func TestIDsAreStoredWhenTheDiskTakesThem(t *testing.T) {
	dir := t.TempDir()
	s := storedIn(t, dir)
	f := owner(t, s)
	log, hook := logtest.NewNullLogger()
	f.owned.log = log
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	name := second.name(0)
	f.owned.made(t.Context(), name, "1")
	f.owned.made(t.Context(), second.name(1), "2")
	if n := len(hook.AllEntries()); n != 1 {
		t.Errorf("%d lines in the log", n)
	}
	own := container.Summary{ID: "1", Names: []string{name}}
	if !f.owns(t.Context(), second, own, 2) {
		t.Error("what was made is not canaryd's while the disk takes nothing")
	}
	f.owned.store = storedIn(t, dir)
	f.owned.retry()
	f.owned.writing.Lock() // retry has it until all is written
	defer f.owned.writing.Unlock()
	if stored, err := f.owned.store.Containers(); err != nil || len(stored) != 2 {
		t.Errorf("%v %s", err, stored)
	}
}
