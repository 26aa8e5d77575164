package rollout

import "time"

// Forgotten says that a person has an Envoy forgotten that was waited for.
type Forgotten struct {
	At   time.Time `json:"at"`
	Node string    `json:"node"`
	By   string    `json:"by,omitempty"`
}

func (e Forgotten) when() time.Time { return e.At }
func (e Forgotten) name() string    { return "forgotten" }

// forgotten is for the history only: what is in force without that Envoy comes with the next Applied.
func (m *machine) forgotten(e Forgotten) {
	m.record(nil, KindForgotten, e.By, "Envoy %s is forgotten: nothing waits for it until it accepts a configuration", e.Node)
}
