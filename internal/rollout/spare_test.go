package rollout

// frugal is a state that takes reports in in the memory of the states before it, but for those that somebody has, as the loop
// has it.
type frugal struct {
	State
	spare Spare
	lent  bool        // since the last report that decided nothing
	held  []keptState // lent, and what they were then
	turn  uint32
}

// take is a step. Now and then the state before it is lent, as to the journal, or the one after it, as to a reader: these stay as they are.
func (f *frugal) take(w *walk, e Event) {
	before := f.State
	records, err := f.State.Take(e, &f.spare)
	if f.by(8) {
		f.lend(w, before)
	}
	if _, all := e.(Observed); all && err == nil && len(records) == 0 && f.Generation == before.Generation {
		if !f.lent {
			f.spare.Return(&before, &f.State)
		}
		f.lent = false
	}
	if f.by(8) {
		f.lend(w, f.State)
	}
	if len(f.held) > 0 && f.by(4) {
		f.held[int(f.turn>>8)%len(f.held)].mustBe(w, e)
	}
	for len(f.held) > 8 {
		f.held[0].mustBe(w, e)
		f.held = f.held[1:]
	}
}

func (f *frugal) lend(w *walk, s State) {
	f.held, f.lent = append(f.held, keptState{s, w.digest(&s)}), true
}

// end is when who has states looks at them for the last time.
func (f *frugal) end(w *walk) {
	for i := range f.held {
		f.held[i].mustBe(w, nil)
	}
	f.held = nil
}

// mustBe looks at a state that was lent. What has once been written to it is seen later, too: nobody puts it back.
func (k *keptState) mustBe(w *walk, e Event) {
	if w.digest(&k.State) != k.sum {
		w.t.Fatalf("after %T, or some steps before it, a state that was lent became\n%s", e, w.encode(k.State))
	}
}

// by is true one time in n, without a pattern.
func (f *frugal) by(n uint32) bool {
	f.turn = f.turn*1664525 + 1013904223
	return f.turn>>16%n == 0
}
