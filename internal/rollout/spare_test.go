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
	if !f.by(3) {
		return
	}
	for _, k := range f.held {
		if now := w.encode(k.State); string(now) != string(k.raw) {
			w.t.Fatalf("after %T a state that was lent and was\n%s\nis\n%s", e, k.raw, now)
		}
	}
	f.held = f.held[max(0, len(f.held)-8):]
}

func (f *frugal) lend(w *walk, s State) {
	f.held, f.lent = append(f.held, keptState{s, w.encode(s)}), true
}

// by is true one time in n, without a pattern.
func (f *frugal) by(n uint32) bool {
	f.turn = f.turn*1664525 + 1013904223
	return f.turn>>16%n == 0
}
