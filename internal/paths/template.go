// Package paths learns from requests which classes a service's table could have. It is pure, and keeps no query strings.
package paths

import (
	"regexp"
	"strings"
)

const (
	segmentsMost = 8  // of a path; what is deeper is `**`
	segmentMost  = 40 // letters of a segment that is a name
)

var (
	uuid      = regexp.MustCompile(`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)
	hex       = regexp.MustCompile(`^[0-9a-fA-F]{8,}$`)
	asWritten = regexp.MustCompile(`^[A-Za-z0-9._~$&'()+,;:=-]+$`) // what a template of a policy takes, less what may be about a person
)

// Template is a path with a * for each segment that looks like an id, without query and fragment. It is empty for what is no path.
func Template(path string) string {
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path = path[:i]
	}
	if !strings.HasPrefix(path, "/") {
		return ""
	}
	segments := strings.Split(path[1:], "/")
	for i, s := range segments {
		switch {
		case i == segmentsMost-1 && i < len(segments)-1:
			segments[i] = "**"
			return "/" + strings.Join(segments[:segmentsMost], "/")
		case s != "" && variable(s):
			segments[i] = "*"
		}
	}
	return "/" + strings.Join(segments, "/")
}

// variable reports whether a segment looks like an id, and not like a name.
func variable(s string) bool {
	digits, letters := 0, 0
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
			letters++
		}
	}
	switch {
	case len(s) > segmentMost, !asWritten.MatchString(s):
		return true
	case digits > 0 && letters == 0, uuid.MatchString(s):
		return true
	case digits > 0 && hex.MatchString(s):
		return true
	case digits >= 3 && 3*digits >= len(s): // ord-12345
		return true
	}
	return len(s) >= 16 && digits >= 2 && !strings.ContainsAny(s, "-_.")
}
