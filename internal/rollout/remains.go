package rollout

// Remains are what a service leaves behind that is removed: Envoys that may still send users to its containers.
type Remains struct {
	Attempts   int         `json:"attempts"` // their numbers go up to this one
	Crowds     []Crowd     `json:"crowds,omitempty"`
	Containers []Container `json:"containers,omitempty"`
}

// Remains are what the service leaves behind if it is removed now.
func (s State) Remains() Remains {
	s.outdate()
	r := Remains{Attempts: s.Earlier, Crowds: s.Crowds}
	for _, v := range s.Versions {
		r.Attempts = max(r.Attempts, v.Attempt)
		if v.Image != "" && v.Done < Remove {
			r.Containers = append(r.Containers, Container{Version: v.Name, Attempt: v.Attempt, Image: v.Image, Goal: Remove})
		}
	}
	return r
}

// Successor is the service when it begins anew: its Envoys have what they have, and no number of an attempt comes again.
func (r Remains) Successor() State {
	s := State{Earlier: r.Attempts}
	for _, c := range r.Crowds {
		s.Crowds, s.Subscribers = append(s.Crowds, c), s.Subscribers+len(c.Nodes)
	}
	return s
}
