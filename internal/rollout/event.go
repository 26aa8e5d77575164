package rollout

import (
	"fmt"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/policy"
)

// Event is something that happened; its moment comes with it.
type Event interface {
	when() time.Time
	name() string
}

// Announced says that a version exists. Secret is random: the values of the session cookies are made
// of it, so that nobody can choose a version by guessing.
type Announced struct {
	At        time.Time `json:"at"`
	Version   string    `json:"version"`
	Endpoints []string  `json:"endpoints,omitempty"`
	Again     bool      `json:"again,omitempty"`   // a new attempt of a version that was cut, too
	Once      bool      `json:"once,omitempty"`    // a new attempt of a version that is known only where Digest is another one: said by a registry, which repeats itself
	Digest    string    `json:"digest,omitempty"`  // of the image's manifest, where it is said
	Content   string    `json:"content,omitempty"` // the image's id in containers that others started, where they were found
	Image     string    `json:"image,omitempty"`   // to be started as a container; Endpoints come when it runs
	Paused    bool      `json:"paused,omitempty"`  // stays at weight 0 until `resume`: for a look by testers
	Tested    bool      `json:"tested,omitempty"`  // may not move a version that serves: who said it may touch versions under test only
	Secret    string    `json:"secret,omitempty"`
	Origin    string    `json:"origin,omitempty"` // what found it; empty: somebody announced it, and may always announce other endpoints
	By        string    `json:"by,omitempty"`
}

// Commanded is a person's word. Verb is promote, abort, pause or resume.
type Commanded struct {
	At        time.Time `json:"at"`
	Verb      string    `json:"verb,omitempty"`
	Version   string    `json:"version"`
	Reachable bool      `json:"reachable,omitempty"` // for promote: an endpoint answered just now
	Knowing   bool      `json:"knowing,omitempty"`   // for promote: of a version that has failed or was aborted, too
	Tested    bool      `json:"tested,omitempty"`    // only of a version under test: who said it may touch no other
	By        string    `json:"by,omitempty"`
}

// Observed carries the evidence of one tick, or why there is none.
type Observed struct {
	At      time.Time     `json:"at"`
	Cells   []Cell        `json:"cells,omitempty"`
	Batch   time.Duration `json:"batch,omitempty"` // how long a batch is
	Missing *Missing      `json:"missing,omitempty"`
	Stuck   bool          `json:"stuck,omitempty"` // nothing is being stored: a promotion would end the judgement, and reach no Envoy
	Lent    bool          `json:"lent,omitempty"`  // counted while other weights were in force than this state's: who got how much says nothing
}

// Cell is what one proxy counted over one interval, for all versions.
type Cell struct {
	Slice     string                       `json:"slice,omitempty"` // the proxy
	Proxy     Proxy                        `json:"proxy,omitempty"` // how it counts
	From      time.Time                    `json:"from,omitzero"`
	To        time.Time                    `json:"to,omitzero"`
	Counts    map[string]analysis.Counts   `json:"counts,omitempty"`
	Endpoints map[string][]analysis.Slice  `json:"endpoints,omitempty"` // a version's counts by endpoint, where known
	Answers   map[string][]analysis.Answer `json:"answers,omitempty"`   // a version's answers by class and code, where known: parts of Counts, which has those without an answer as well
	Times     map[string][]analysis.Times  `json:"times,omitempty"`     // how long a version's answers took, where known
	Issued    map[string]float64           `json:"issued,omitempty"`    // requests of a version that began, where known
	Has       []Run                        `json:"has,omitempty"`       // what the proxy served at the end; none: not known
	HasSince  time.Time                    `json:"has_since,omitzero"`  // and since when
	Unknown   bool                         `json:"unknown,omitempty"`   // what it served is not known, though the source knows it of others: it may be anything
}

// Proxy is a kind of proxy. Kinds count differently: their counts are never put into one ratio.
type Proxy int

// The kinds of proxies.
const (
	Envoy  Proxy = iota
	Client       // a gRPC client without a proxy: every status but OK is an error to it
	proxies
)

// Join adds a later cell of the same proxy.
func (c *Cell) Join(later Cell) {
	if c.Counts == nil {
		c.Counts, c.From = map[string]analysis.Counts{}, later.From
	}
	c.Slice, c.Proxy, c.To, c.Has, c.HasSince, c.Unknown = later.Slice, later.Proxy, later.To, later.Has, later.HasSince, later.Unknown
	for version, n := range later.Counts {
		c.Counts[version] = c.Counts[version].Add(n)
	}
	for version, es := range later.Endpoints {
		if c.Endpoints == nil {
			c.Endpoints = map[string][]analysis.Slice{}
		}
		c.Endpoints[version] = analysis.Join(c.Endpoints[version], es)
	}
	c.joinAnswers(later)
}

// Applied says how far the table is in force.
type Applied struct {
	At          time.Time `json:"at"`
	Generation  uint64    `json:"generation"`
	InForce     bool      `json:"in_force,omitempty"`
	Subscribers int       `json:"subscribers,omitempty"`
	Lagging     []string  `json:"lagging,omitempty"`
	Otherwise   bool      `json:"otherwise,omitempty"` // it is in force but for those in Refusing
	Refusing    []string  `json:"refusing,omitempty"`  // nodes that refuse something present
	Accepted    []string  `json:"accepted,omitempty"`  // nodes that have it, where known
	Gone        int       `json:"gone,omitempty"`      // nodes that had a table and are not connected
	Away        []string  `json:"away,omitempty"`      // who these are, where known
	Restarted   []string  `json:"restarted,omitempty"` // nodes that are new processes since the last one
	Crowds      []Crowd   `json:"crowds,omitempty"`    // who serves what, Envoys that are away included
}

// Crowd are Envoys that serve the same table.
type Crowd struct {
	Version string   `json:"version"`           // of the route
	Has     []Run    `json:"has"`               // null: not known
	Present bool     `json:"present,omitempty"` // it is the table of this generation
	Nodes   []string `json:"nodes"`
}

// Rejected says that an Envoy refused the table.
type Rejected struct {
	At         time.Time `json:"at"`
	Generation uint64    `json:"generation"`
	Node       string    `json:"node,omitempty"`
	Type       string    `json:"type,omitempty"`     // of the resource that is refused, where known
	Resource   string    `json:"resource,omitempty"` // its name, where known
	Message    string    `json:"message,omitempty"`
}

// Launched says what becomes of a version's containers.
type Launched struct {
	At         time.Time `json:"at"`
	Version    string    `json:"version"`
	Attempt    int       `json:"attempt,omitempty"`
	Image      bool      `json:"image,omitempty"`      // is there
	Pulled     bool      `json:"pulled,omitempty"`     // by canaryd
	Digests    []string  `json:"digests,omitempty"`    // of the image's manifest, as registries know it
	Endpoints  []string  `json:"endpoints,omitempty"`  // where they answer, once all of them run
	Note       string    `json:"note,omitempty"`       // what is being done, or why it failed
	Failed     bool      `json:"failed,omitempty"`     // they will never run
	Done       Goal      `json:"done,omitempty"`       // Stop, Remove or Prune, when that is done
	Containers int       `json:"containers,omitempty"` // of how many
	Logs       string    `json:"logs,omitempty"`       // their last lines
}

// Left says that a version's endpoints are gone for good, says who found it.
type Left struct {
	At      time.Time `json:"at"`
	Version string    `json:"version"`
	Origin  string    `json:"origin,omitempty"`
}

// Probed says that a version's endpoints answer, or that none does.
type Probed struct {
	At      time.Time `json:"at"`
	Version string    `json:"version"`
	Up      bool      `json:"up,omitempty"`
}

// PolicyChanged brings the service's policy; the first one creates the service.
type PolicyChanged struct {
	At     time.Time     `json:"at"`
	Policy policy.Policy `json:"policy"`
	Hash   string        `json:"hash,omitempty"`
	Secret string        `json:"secret,omitempty"`
	By     string        `json:"by,omitempty"`
}

// Orphaned says that the policy has vanished.
type Orphaned struct {
	At time.Time `json:"at"`
}

// Recalled says that an Envoy remembers that an attempt of a version was cut.
type Recalled struct {
	At      time.Time `json:"at"`
	Version string    `json:"version"`
	Attempt int       `json:"attempt"`
	ID      string    `json:"id,omitempty"` // of that attempt; none: whichever has the number
}

// Removing says that a person has the service removed. Until that is stored its versions are judged and cut, and
// nothing is raised.
type Removing struct {
	At time.Time `json:"at"`
	By string    `json:"by,omitempty"`
}

// Tick lets time pass.
type Tick struct {
	At time.Time `json:"at"`
}

func (e Announced) when() time.Time     { return e.At }
func (e Commanded) when() time.Time     { return e.At }
func (e Observed) when() time.Time      { return e.At }
func (e Applied) when() time.Time       { return e.At }
func (e Rejected) when() time.Time      { return e.At }
func (e Launched) when() time.Time      { return e.At }
func (e Left) when() time.Time          { return e.At }
func (e Probed) when() time.Time        { return e.At }
func (e PolicyChanged) when() time.Time { return e.At }
func (e Orphaned) when() time.Time      { return e.At }
func (e Recalled) when() time.Time      { return e.At }
func (e Removing) when() time.Time      { return e.At }
func (e Tick) when() time.Time          { return e.At }

func (e Announced) name() string     { return "announced" }
func (e Commanded) name() string     { return "commanded" }
func (e Observed) name() string      { return "observed" }
func (e Applied) name() string       { return "applied" }
func (e Rejected) name() string      { return "rejected" }
func (e Launched) name() string      { return "launched" }
func (e Left) name() string          { return "left" }
func (e Probed) name() string        { return "probed" }
func (e PolicyChanged) name() string { return "policy_changed" }
func (e Orphaned) name() string      { return "orphaned" }
func (e Recalled) name() string      { return "recalled" }
func (e Removing) name() string      { return "removing" }
func (e Tick) name() string          { return "tick" }

// Record is one line of the history.
type Record struct {
	At      time.Time         `json:"at"`
	Service string            `json:"service"`
	Version string            `json:"version,omitempty"`
	Attempt Attempt           `json:"-"` // of the version
	Kind    Kind              `json:"event"`
	Reason  string            `json:"reason"`
	By      string            `json:"by"`
	Before  map[string]int    `json:"weights_before"` // parts of 10 000
	After   map[string]int    `json:"weights_after"`
	Verdict *analysis.Verdict `json:"verdict,omitempty"`
	Receipt *Receipt          `json:"receipt,omitempty"` // where a test ended
}

// Receipt is what the test of a release cost.
type Receipt struct {
	Since    time.Time       `json:"since"` // its first weight
	Requests float64         `json:"requests"`
	Errors   float64         `json:"errors"`
	Beside   analysis.Counts `json:"stable"` // in the same intervals, of the same proxies
	Beyond   float64         `json:"beyond"` // errors more than at stable's rate, 0 at least
}

// Receipt is what the test of the version has cost so far; nil: it never had a weight, or the test is long over.
func (v *Version) Receipt() *Receipt {
	if v.FirstWeight.IsZero() || !v.TookOver.IsZero() {
		return nil
	}
	return &Receipt{v.FirstWeight, v.Counts.Requests, v.Counts.Errors, v.Beside, max(0, v.Counts.Errors-v.Counts.Requests*v.Beside.Rate())}
}

// Kind of a record.
type Kind string

// The kinds of records.
const (
	KindAnnounced   Kind = "announced"
	KindQueued      Kind = "queued"
	KindStarted     Kind = "started"
	KindAdvanced    Kind = "advanced"
	KindSteppedBack Kind = "stepped_back"
	KindPromoted    Kind = "promoted"
	KindRolledBack  Kind = "rolled_back"
	KindReturned    Kind = "returned"
	KindAborted     Kind = "aborted"
	KindPaused      Kind = "paused"
	KindResumed     Kind = "resumed"
	KindSuperseded  Kind = "superseded"
	KindUnreachable Kind = "unreachable"
	KindHeld        Kind = "held"
	KindAlarm       Kind = "alarm"
	KindDraining    Kind = "draining"
	KindRetired     Kind = "retired"
	KindNack        Kind = "nack"
	KindPolicy      Kind = "policy"
	KindEndpoints   Kind = "endpoints"
	KindOrphaned    Kind = "orphaned"
	KindLaunched    Kind = "launched"
	KindStopped     Kind = "stopped"
	KindIdle        Kind = "idle"
	KindPruned      Kind = "pruned"
	KindReviving    Kind = "reviving"
	KindRemoved     Kind = "removed" // the service, by a person
	KindDropped     Kind = "dropped" // records that found no room while nothing could be stored
)

// Kinds are all of them.
func Kinds() []Kind {
	return []Kind{KindAnnounced, KindQueued, KindStarted, KindAdvanced, KindSteppedBack, KindPromoted, KindRolledBack, KindReturned, KindAborted, KindPaused, KindResumed,
		KindSuperseded, KindUnreachable, KindHeld, KindAlarm, KindDraining, KindRetired, KindNack, KindPolicy, KindEndpoints, KindOrphaned, KindLaunched, KindStopped, KindIdle, KindPruned, KindReviving, KindRemoved, KindDropped}
}

// Cut reports whether the record takes traffic away from a failed version: it must reach Envoy
// even when it cannot be stored.
func (k Kind) Cut() bool {
	return k == KindRolledBack || k == KindReturned || k == KindAborted || k == KindUnreachable || k == KindSuperseded || k == KindQueued
}

// Final reports whether the record ends an attempt of a version by a cut: nothing but a person or a new attempt
// raises it again. One that is unreachable comes back by itself, and one that was superseded was not bad.
func (k Kind) Final() bool {
	return k == KindRolledBack || k == KindReturned || k == KindAborted
}

// Ends reports whether the record ends an attempt of a version, in whatever way.
func (k Kind) Ends() bool { return k.Final() || k == KindSuperseded || k == KindRetired }

// Refusal is an event that does not fit the state; nothing changed.
type Refusal struct {
	Unknown  bool // no such version
	Conflict bool // it is there already, and is another one
	Tested   bool // who said it may touch versions under test only, and this is none
	Message  string
}

func (r *Refusal) Error() string { return r.Message }

func refuse(format string, args ...any) error {
	return &Refusal{Message: fmt.Sprintf(format, args...)}
}

func unknown(s *State, version string) error {
	return &Refusal{Unknown: true, Message: fmt.Sprintf("service %s has no version %s: `canaryd status %s` lists them", s.Policy.Service, version, s.Policy.Service)}
}
