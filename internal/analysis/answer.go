package analysis

// Answer is how many requests of one class one endpoint answered with one code.
type Answer struct {
	Class    string `json:"class,omitempty"`    // empty: the source does not tell classes
	Code     string `json:"code,omitempty"`     // HTTP status, or "grpc-14"; empty: the source does not tell
	Endpoint string `json:"endpoint,omitempty"` // empty: the source does not tell
	Counts
}

// Times are how long one endpoint's answers took. Invariant: UpTo rises strictly, and len(N) = len(UpTo)+1.
type Times struct {
	Name string    `json:"name,omitempty"` // the endpoint; empty: the source does not tell
	UpTo []float64 `json:"up_to"`          // seconds, inclusive
	N    []float64 `json:"n"`              // answers between the bound before and this one; the last: beyond all bounds
}
