package paths

// Where a proposal comes from.
const (
	FromNothing   = ""           // nothing is known yet
	FromAccessLog = "access_log" // records of Envoys, or a file
	FromLabel     = "label"      // of the counters in Prometheus
)

// Proposal is a table of classes for a service.
type Proposal struct {
	Service  string     `json:"service,omitempty"`
	From     string     `json:"from"`
	Label    string     `json:"label,omitempty"` // with FromLabel: that names the class; the classes are its values
	Requests float64    `json:"requests"`        // that were looked at
	Classes  []Proposed `json:"classes"`
	Note     string     `json:"note,omitempty"` // what to do where there is nothing, or what to know
}

// FromRequests is the proposal of requests that were seen.
func FromRequests(t *Tally, grpc bool) Proposal {
	p := Proposal{From: FromAccessLog, Requests: t.All(), Classes: Propose(t, grpc)}
	if len(p.Classes) == 0 {
		p.From, p.Classes = FromNothing, []Proposed{}
	}
	return p
}
