package paths

import (
	"encoding/json"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// requestLine is what access logs have of a request: "GET /items/7?x=1 HTTP/1.1".
var requestLine = regexp.MustCompile(`\b([A-Z]{3,7}) (\S+) HTTP/[0-9]`)

// Keys of access logs in JSON.
var (
	pathKeys   = []string{"path", "request_path", "uri", "request_uri", "url", "http_path", "x-envoy-original-path"}
	methodKeys = []string{"method", "request_method", "http_method", "verb"}
)

// Line reads one line of an access log (common, combined, Envoy's, JSON), of a list of paths, or of paths with methods and counts, as `uniq -c`
// has them. ok is false where it has no path.
func Line(line string) (method, path string, n float64, ok bool) {
	line = strings.TrimSpace(line)
	if strings.HasPrefix(line, "{") {
		var of map[string]any
		if json.Unmarshal([]byte(line), &of) == nil {
			path, ok = pathOf(first(of, pathKeys))
			return strings.ToUpper(first(of, methodKeys)), path, 1, ok
		}
	}
	if m := requestLine.FindStringSubmatch(line); m != nil {
		path, ok = pathOf(m[2])
		return m[1], path, 1, ok
	}
	fields := strings.Fields(line)
	n = 1
	if len(fields) > 1 {
		if count, err := strconv.ParseFloat(fields[0], 64); err == nil && count > 0 && count < 1e15 {
			n, fields = count, fields[1:]
		}
	}
	switch {
	case len(fields) == 0:
		return "", "", 0, false
	case len(fields) > 1 && methods[strings.ToUpper(fields[0])]:
		method, fields = strings.ToUpper(fields[0]), fields[1:]
	}
	path, ok = pathOf(fields[0])
	return method, path, n, ok
}

func first(of map[string]any, keys []string) string {
	for _, k := range keys {
		if s, is := of[k].(string); is && s != "" {
			return s
		}
	}
	if inner, is := of["request"].(map[string]any); is { // as Caddy writes it
		return first(inner, keys)
	}
	return ""
}

// pathOf is the path of a path or URL, without its query.
func pathOf(text string) (string, bool) {
	if strings.HasPrefix(text, "http://") || strings.HasPrefix(text, "https://") {
		u, err := url.Parse(text)
		if err != nil {
			return "", false
		}
		if text = u.EscapedPath(); text == "" {
			text = "/"
		}
	}
	text, _, _ = strings.Cut(text, "?")
	return text, strings.HasPrefix(text, "/")
}
