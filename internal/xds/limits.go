package xds

import (
	"strings"
	"time"
)

// Limits bound what a peer, a stream and a report may cost. Known types only are served: that has no number.
type Limits struct {
	StreamsPerPeer     int           // of one IP address at a time; those of loopback are not counted
	FirstMessage       time.Duration // a stream has to say who it is within that
	NamesPerType       int           // that one stream may ask for
	NamesPerPeer       int           // that all streams of one IP address ask for; those of loopback are not counted, nor what follows
	BytesPerPeer       int           // of messages that are on their way, of one IP address
	BytesPerSecond     int           // that are read of one IP address; a message counts as 1 KiB at least
	RequestBytes       int           // of one message
	RefusalBytes       int           // kept of what an Envoy says when it refuses something
	ReportsPerSecond   int           // of one node
	EndpointsPerReport int           // of a report that names more only the sums are read
	MetricsPerReport   int           // classes and statuses of endpoints, and how long answers took; of a report with more none is read
	ConnectionAge      time.Duration // then an Envoy is asked to connect again, and shows its certificate; 10 % earlier or later
}

// DefaultLimits are far above what an Envoy does.
func DefaultLimits() Limits {
	return Limits{
		StreamsPerPeer:     2000, // a thousand Envoys behind one address
		FirstMessage:       5 * time.Second,
		NamesPerType:       100_000,
		NamesPerPeer:       1_000_000,
		BytesPerPeer:       64 << 20,
		BytesPerSecond:     4 << 20,
		RequestBytes:       16 << 20, // of an Envoy that comes back with 100 000 resources
		RefusalBytes:       1 << 10,
		ReportsPerSecond:   20, // they are asked for once in 100 ms at most
		EndpointsPerReport: 10_000,
		MetricsPerReport:   100_000, // twenty classes, four statuses and a thousand durations of a hundred endpoints
		ConnectionAge:      time.Hour,
	}
}

// nameBytes is more than any name has that canaryd gives, and what is read of what a node says of itself.
const nameBytes = 512

// bounded cuts a text that an Envoy wrote, which need not be UTF-8.
func bounded(text string, most int) string {
	const ellipsis = "…"
	if len(text) > most {
		return strings.ToValidUTF8(text[:max(0, most-len(ellipsis))], "?") + ellipsis
	}
	return strings.ToValidUTF8(text, "?")
}
