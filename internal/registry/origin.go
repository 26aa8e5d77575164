package registry

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/file"
	"github.com/prometheus/prometheus/discovery/http"
)

// File is a set of files with targets, JSON or YAML.
type File struct {
	Files   []string // may be patterns
	Refresh time.Duration
}

// URL is an address that answers with targets.
type URL struct {
	URL     string
	Refresh time.Duration
	HTTP    config.HTTPClientConfig
}

// Check says what is wrong with the names of the files: their ending says how they are written, and
// Prometheus' reader gives up the whole process at another one.
func (f File) Check() error {
	for _, name := range f.Files {
		if !slices.Contains([]string{".json", ".yml", ".yaml"}, strings.ToLower(filepath.Ext(name))) {
			return fmt.Errorf("%q: files with targets end in .json, .yml or .yaml, and so must a pattern, as in targets/*.json", name)
		}
	}
	return nil
}

// origin is one place where versions are named.
type origin struct {
	name   string
	check  func() error
	config discovery.Config
	hidden []string // what must not be logged
}

func (f File) origin() origin {
	return origin{name: fmt.Sprintf("file_sd %v", f.Files), check: f.Check, config: &file.SDConfig{Files: f.Files, RefreshInterval: model.Duration(f.Refresh)}}
}

// origin is known by its address without user, password and query, which may be credentials: the name
// stands in the history, in status and in the log.
func (u URL) origin() origin {
	o := origin{
		name: "http_sd", check: func() error { return nil },
		config: &http.SDConfig{URL: u.URL, RefreshInterval: model.Duration(u.Refresh), HTTPClientConfig: u.HTTP},
	}
	shown, err := url.Parse(u.URL)
	if err != nil {
		o.check = func() error {
			return fmt.Errorf("the address cannot be read: write one such as http://127.0.0.1:8500/targets")
		}
		return o
	}
	if shown.RawQuery != "" {
		o.hidden = append(o.hidden, "?"+shown.RawQuery)
	}
	if user := shown.User; user != nil {
		o.hidden = append(o.hidden, user.String()+"@", user.Username()+":***@") // as written, and as net/http writes it
	}
	shown.User, shown.RawQuery = nil, ""
	o.name += " " + shown.String()
	return o
}

// named gives origins that would have the same name a number each, in the order of the configuration.
func named(origins []origin) []origin {
	times := map[string]int{}
	for i := range origins {
		name := origins[i].name
		if times[name]++; times[name] > 1 {
			origins[i].name = fmt.Sprintf("%s #%d", name, times[name])
		}
	}
	return origins
}

// hiding leaves credentials out of what the library logs: its errors name the whole address.
type hiding struct {
	slog.Handler
	hide *strings.Replacer
}

func newHiding(h slog.Handler, hidden []string) hiding {
	var pairs []string
	for _, s := range hidden {
		pairs = append(pairs, s, "")
	}
	return hiding{h, strings.NewReplacer(pairs...)}
}

func (h hiding) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, r.Level, h.hide.Replace(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(slog.String(a.Key, h.hide.Replace(a.Value.String())))
		return true
	})
	return h.Handler.Handle(ctx, out)
}

func (h hiding) WithAttrs(as []slog.Attr) slog.Handler {
	return hiding{h.Handler.WithAttrs(as), h.hide}
}

func (h hiding) WithGroup(name string) slog.Handler { return hiding{h.Handler.WithGroup(name), h.hide} }
