package policy

import (
	"fmt"
	"math"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// Class is a kind of requests that is counted apart: those that it matches and no class before it does.
type Class struct {
	Name     string `yaml:"name" json:"name"`
	Method   string `yaml:"method,omitempty" json:"method,omitempty"` // empty: any
	Path     string `yaml:"path,omitempty" json:"path,omitempty"`
	Prefix   string `yaml:"prefix,omitempty" json:"prefix,omitempty"`
	Template string `yaml:"template,omitempty" json:"template,omitempty"` // /items/*: a * is one segment, ** is any number of them
	Regex    string `yaml:"regex,omitempty" json:"regex,omitempty"`       // of the whole path, as RE2 reads it
	GRPC     string `yaml:"grpc,omitempty" json:"grpc,omitempty"`         // pkg.Service/Method
}

// Rest is the class of requests that no other one matches.
const Rest = "rest"

// ClassesMost are the classes of one service, without Rest: of each that is added the evidence for all weighs less.
const ClassesMost = 19

// millis is what Envoys name the durations in their reports beside the classes.
const millis = "ms"

const (
	patternMost = 512 // letters of a path or pattern
	programMost = 90  // instructions of a regex, as programSize guesses: an Envoy refuses more than 100
)

var (
	className     = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)
	methodName    = regexp.MustCompile(`^[A-Z][A-Z-]{0,31}$`)
	grpcMethod    = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*\.)*[A-Za-z_][A-Za-z0-9_]*/[A-Za-z_][A-Za-z0-9_]*$`)
	templateParts = regexp.MustCompile(`^(/([A-Za-z0-9._~%!$&'()+,;:@=-]+|\*))*(/(\*\*|\*)[A-Za-z0-9._~%!$&'()+,;:@=-]*)?$`)
)

// ClassNames are the classes in order, Rest last; nil where none are written.
func (r *Route) ClassNames() []string {
	if len(r.Classes) == 0 {
		return nil
	}
	var names []string
	for _, c := range r.Classes {
		names = append(names, c.Name)
	}
	return append(names, Rest)
}

// pattern is one way to say which paths a class matches.
type pattern struct{ key, value string }

func (c *Class) patterns() []pattern {
	all := []pattern{{"path", c.Path}, {"prefix", c.Prefix}, {"template", c.Template}, {"regex", c.Regex}, {"grpc", c.GRPC}}
	return slices.DeleteFunc(all, func(p pattern) bool { return p.value == "" })
}

// Matchable reports whether a policy may have a class of one pattern, whatever its name and its neighbours are.
func (c *Class) Matchable(grpc bool) bool {
	ps := c.patterns()
	if len(ps) != 1 || grpc != (c.GRPC != "") || c.Method != "" && !methodName.MatchString(c.Method) {
		return false
	}
	k := &check{d: &Document{Text: "service: any"}}
	k.pattern("", ps[0])
	return len(k.fs) == 0
}

func (c *check) classes(r *Route) {
	if len(r.Classes) == 0 {
		return
	}
	if n := len(r.Classes); n > ClassesMost {
		c.fail(fmt.Sprintf("route.classes[%d]", ClassesMost), "%d classes: write %d at most, those that matter; all else is the class %s", n, ClassesMost, Rest)
	}
	first := map[string]int{}
	for i := range r.Classes {
		k, at := &r.Classes[i], fmt.Sprintf("route.classes[%d]", i)
		c.className(at+".name", k.Name)
		if j, twice := first[k.Name]; twice {
			c.fail(at+".name", "class %s is there twice: the first is number %d of the list", k.Name, j+1)
		} else {
			first[k.Name] = i
		}
		if c.class(at, k, r.GRPC()) {
			c.reached(at, r.Classes[:i], k)
		}
	}
	c.measured("route.classes", "classes")
}

// measured warns of what it means that Envoys write more than counts into their reports.
func (c *check) measured(path, what string) {
	c.warn(path, "with %s the Envoys write what they measure into a header of the answers, which they take away again: each cluster of the service changes once when this is switched on or off, and its connections are opened anew; load that an upstream reports itself in `endpoint-load-metrics` (ORCA) is lost", what)
}

func (c *check) className(path, name string) {
	switch {
	case name == "":
		c.fail(path, "the class has no name: write name, as in {name: checkout, method: POST, path: /checkout}")
	case name == Rest:
		c.fail(path, "%s is the class of all requests that no other class matches: take another name", Rest)
	case name == millis:
		c.fail(path, "%s is what durations are called in the Envoys' reports: take another name", millis)
	case !className.MatchString(name):
		c.fail(path, "%q cannot be the name of a class: 1 to 32 small letters, digits, hyphens and underscores", name)
	}
}

// class checks what a class matches; false: that is not known.
func (c *check) class(at string, k *Class, grpc bool) bool {
	before := len(c.fs)
	ps := k.patterns()
	switch {
	case len(ps) == 0 && grpc:
		c.fail(at, "which requests? Write grpc, as in {name: %s, grpc: pkg.Service/Method}", named(k.Name))
	case len(ps) == 0:
		c.fail(at, "which requests? Write path, prefix, template or regex, as in {name: %s, path: /checkout}", named(k.Name))
	case len(ps) > 1:
		c.fail(at+"."+ps[1].key, "%s and %s: write one of them", ps[0].key, ps[1].key)
	case grpc && k.GRPC == "":
		c.fail(at+"."+ps[0].key, "with `protocol: grpc` a class is one method: write grpc: pkg.Service/Method")
	case !grpc && k.GRPC != "":
		c.fail(at+".grpc", "grpc needs `route: {protocol: grpc}`: write path, prefix, template or regex")
	default:
		c.pattern(at+"."+ps[0].key, ps[0])
	}
	switch {
	case k.Method != "" && k.GRPC != "":
		c.fail(at+".method", "every gRPC call is a POST: leave method out")
	case k.Method != "" && !methodName.MatchString(k.Method):
		c.fail(at+".method", "%q is not a method: write it in capitals, as in POST", k.Method)
	}
	return len(c.fs) == before
}

func named(name string) string {
	if name == "" {
		return "NAME"
	}
	return name
}

func (c *check) pattern(at string, p pattern) {
	if len(p.value) > patternMost {
		c.fail(at, "%s has %d letters: %d at most", p.key, len(p.value), patternMost)
		return
	}
	switch p.key {
	case "path", "prefix":
		c.plainPath(at, p)
	case "template":
		c.template(at, p.value)
	case "regex":
		c.regex(at, p.value)
	case "grpc":
		if !grpcMethod.MatchString(strings.TrimPrefix(p.value, "/")) {
			c.fail(at, "%q is not a method: write pkg.Service/Method, as in shop.Cart/Checkout", p.value)
		} else if strings.HasPrefix(p.value, "/") {
			c.fail(at, "%q: leave the first / out", p.value)
		}
	}
}

func (c *check) plainPath(at string, p pattern) {
	switch {
	case !strings.HasPrefix(p.value, "/"):
		c.fail(at, "%q is not a path: begin it with /", p.value)
	case strings.ContainsAny(p.value, "?#"):
		c.fail(at, "%q: classes look at the path only: leave out what comes from ? or # on", p.value)
	case strings.ContainsFunc(p.value, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		c.fail(at, "%q: write spaces and letters that are not ASCII as %%20 and the like, as they are sent", p.value)
	case strings.ContainsAny(p.value, "*{"):
		c.fail(at, "%q: a %s is taken literally; for patterns write template: /items/* or regex", p.value, p.key)
	}
}

func (c *check) template(at, t string) {
	switch {
	case !strings.HasPrefix(t, "/"):
		c.fail(at, "%q is not a path: begin it with /", t)
	case strings.ContainsAny(t, "{}"):
		c.fail(at, "%q: variables have no names here: write * for one segment, as in /items/*", t)
	case !strings.Contains(t, "*"):
		c.fail(at, "%q has no *: write path: %s", t, t)
	case strings.Count(t, "**") > 1 || strings.Contains(t, "**") && strings.Contains(t[strings.Index(t, "**"):], "/"):
		c.fail(at, "%q: ** is any number of segments, and can only be the last one, as in /files/**", t)
	case strings.Count(t, "*") > 10:
		c.fail(at, "%q has too many *: ten at most", t)
	case !templateParts.MatchString(t):
		c.fail(at, "%q: a * stands for a whole segment, as in /items/*/reviews, and may begin the last one, as in /media/*.png; other letters as they are sent", t)
	}
}

func (c *check) regex(at, expr string) {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		c.fail(at, "%q is not a regex as RE2 reads it: %s", expr, strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		return
	}
	if names := strings.Join(re.CapNames(), ""); names != "" {
		c.fail(at, "%q: groups have no names here: write (?:...)", expr)
		return
	}
	if strings.ContainsFunc(expr, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
		c.fail(at, "%q: write letters that are not ASCII as %%C3%%A9 and the like, as they are sent", expr)
		return
	}
	if n := programSize(re); n > programMost {
		c.fail(at, "%q is too large for an Envoy, which takes 100 instructions (this has about %d; each [^/] or . has 8): write template or prefix, or fewer alternatives and repetitions", expr, n)
		return
	}
	if whole, err := regexp.Compile("^(?:" + expr + ")$"); err == nil && whole.MatchString("") && !whole.MatchString("/") {
		c.fail(at, "%q matches no path: each begins with /, and is matched as a whole", expr)
	}
}

// programSize is about how many instructions Envoy's RE2 makes of a regex: one for each range of letters. Until 1.36 it reads
// UTF-8: what is beyond ASCII takes several.
func programSize(re *syntax.Regexp) int {
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return math.MaxInt
	}
	n := len(prog.Inst)
	for _, i := range prog.Inst {
		switch i.Op {
		case syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			n += 7
		case syntax.InstRune:
			n += moreOf(i.Rune)
		}
	}
	return n
}

// moreOf are the instructions beside the first one of some ranges of letters, or of a single letter in both cases.
func moreOf(ranges []rune) (n int) {
	if len(ranges) == 1 {
		if strings.ContainsRune("kKsS", ranges[0]) { // each has a third form in Unicode
			return 3
		}
		return 0
	}
	for at := 1; at < len(ranges); at += 2 {
		if n++; ranges[at] > 0x7f {
			n += 6
		}
	}
	return n - 1
}

// reached refuses a class whose requests all belong to an earlier one.
func (c *check) reached(at string, before []Class, k *Class) {
	for i := range before {
		if before[i].covers(k) {
			c.fail(at, "class %s gets no request: class %s, which comes first, matches all of them; put %s before it", k.Name, before[i].Name, k.Name)
			return
		}
	}
}

// covers reports whether a class certainly matches whatever another one does.
func (k *Class) covers(o *Class) bool {
	switch {
	case k.Method != "" && k.Method != o.Method:
		return false
	case k.Prefix != "":
		return strings.HasPrefix(o.literal(), k.Prefix)
	case k.Regex != "" && (k.Regex == ".*" || k.Regex == "/.*"):
		return true
	case k.Regex != "" && o.Path != "":
		re, err := regexp.Compile("^(?:" + k.Regex + ")$")
		return err == nil && re.MatchString(o.Path)
	case k.Template != "" && o.Path+o.Template != "":
		return templateCovers(strings.Split(k.Template, "/"), strings.Split(o.Path+o.Template, "/"))
	}
	return k.Path == o.Path && k.Prefix == o.Prefix && k.Template == o.Template && k.Regex == o.Regex && k.GRPC == o.GRPC
}

// literal is what all the paths that it matches begin with; empty: that is not known.
func (k *Class) literal() string {
	before, _, _ := strings.Cut(k.Template, "*")
	return k.Path + k.Prefix + before
}

// templateCovers reports whether a template matches all that another one, or a path, does. Of what stands beside a * in one segment only the same is
// known to be covered.
func templateCovers(k, o []string) bool {
	for i, segment := range k {
		switch {
		case segment == "**":
			return len(o) > i
		case i >= len(o):
			return false
		case segment == "*" && !strings.Contains(o[i], "**") && o[i] != "":
		case segment != o[i]:
			return false
		}
	}
	return len(k) == len(o)
}
