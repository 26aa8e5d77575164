package xds

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// The Envoys remember cuts for canaryd. A route that cuts what nothing stored says to be cut names it in its version,
// which an Envoy presents when it comes back: `<hash>!v2.1,v3.1!<IDs><MAC>` for the first attempts of v2 and v3. So a
// canaryd that died before it could store a cut is told by who carries it out. The IDs tell attempts apart that have
// the same number.
//
// Inside canaryd a version is the hash alone: only the hash decides what is unchanged. What follows it is written
// when a route is encoded (seal), and read when an Envoy presents it (open).

// Key is what the MACs in versions are made with. Without a key nothing is named and nothing is believed.
type Key []byte

const (
	hashLength = 16      // hex digits of a version
	macLength  = 16      // bytes
	maxNamed   = 4 << 10 // bytes that name attempts; names have up to 128
	maxForeign = 64      // bytes of a version that canaryd did not make
)

// seal is the version of a route as the Envoys get it. Where it would be too long, the attempts that were cut first
// are named: what is stored is older than all of them.
func (k Key) seal(service, hash string, cuts []rollout.Attempt) string {
	var named []string
	ids, length := "", 0
	for _, a := range cuts {
		name := a.Version + "." + strconv.Itoa(a.Number)
		if length += len(name) + 1 + len(a.ID); length > maxNamed {
			break
		}
		named, ids = append(named, name), ids+a.ID
	}
	if len(k) == 0 || len(named) == 0 {
		return hash
	}
	text := hash + "!" + strings.Join(named, ",") + "!" + ids
	return text + k.mac(service, text)
}

// mac ties a text to a service. A service has no slash in its name.
func (k Key) mac(service, text string) string {
	h := hmac.New(sha256.New, k)
	h.Write([]byte("recall/" + service + "/" + text)) // never fails
	return hex.EncodeToString(h.Sum(nil)[:macLength])
}

// open reads a version that somebody presents as that of a service's route: the hash, and what it names. Without a
// valid MAC it names nothing. What canaryd did not make is bounded, because it is remembered.
func (k Key) open(service, version string) (hash string, cuts []rollout.Attempt) {
	if len(version) <= hashLength || version[hashLength] != '!' {
		return strings.ToValidUTF8(version[:min(len(version), maxForeign)], ""), nil
	}
	hash = version[:hashLength]
	if len(k) == 0 || len(version) > hashLength+1+maxNamed+1+2*macLength {
		return hash, nil
	}
	end, at := strings.LastIndexByte(version, '!'), len(version)-2*macLength
	if end == hashLength || at <= end || !hmac.Equal([]byte(version[at:]), []byte(k.mac(service, version[:at]))) {
		return hash, nil
	}
	ids := version[end+1 : at]
	for named := range strings.SplitSeq(version[hashLength+1:end], ",") {
		a, ok := attempt(named)
		if !ok || len(ids) < rollout.IDLength { // another canaryd's way to write it
			return hash, nil
		}
		a.ID, ids = ids[:rollout.IDLength], ids[rollout.IDLength:]
		cuts = append(cuts, a)
	}
	return hash, cuts
}

// attempt reads one as seal writes it.
func attempt(named string) (a rollout.Attempt, ok bool) {
	dot := strings.LastIndexByte(named, '.')
	if dot < 0 || policy.VersionName(named[:dot]) != nil {
		return a, false
	}
	n, err := strconv.Atoi(named[dot+1:])
	return rollout.Attempt{Version: named[:dot], Number: n}, err == nil && n > 0 && strconv.Itoa(n) == named[dot+1:]
}

// recall takes in the version that an Envoy presents for a service's route, and returns its hash. What it names and
// the present table still has under test is out of the route before anything goes out, on this stream and on all
// others, and stays out until a table says what has become of it (see publish); the loop is told and decides.
func (h *Hub) recall(service, version string) (hash string) {
	hash, cuts := h.Key.open(service, version)
	s := h.services[service]
	if s == nil || !s.hears(cuts) {
		return hash
	}
	h.changes(service)
	p := Prepared{table: s.edition.forms.table, from: s.edition}
	p.make(h, s.recalled)
	if err := h.reinstall(p); err != nil {
		h.log.WithError(err).WithField("service", service).Error("an Envoy remembers a rollback, which cannot be published")
	}
	return hash
}

// hears notes what Envoys remember, and reports whether some of it is new.
func (s *service) hears(cuts []rollout.Attempt) (news bool) {
	for _, a := range cuts {
		if i, known := slices.BinarySearchFunc(s.recalled, a, rollout.Attempt.Compare); !known {
			s.recalled, news = slices.Insert(s.recalled, i, a), true
		}
	}
	return news
}
