package controller

import "time"

// durations are measured times that nobody has asked for yet, the newest thousand.
type durations struct{ list []time.Duration }

func (d *durations) add(t time.Duration) {
	if len(d.list) >= 1000 {
		d.list = d.list[1:]
	}
	d.list = append(d.list, t)
}

func (d *durations) take() []time.Duration {
	out := d.list
	d.list = nil
	return out
}
