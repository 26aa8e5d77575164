package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v4"

	"github.com/canaryd/canaryd/internal/policy"
	"github.com/canaryd/canaryd/internal/rollout"
)

// testFile holds unit tests of a policy.
type testFile struct {
	Policy  string     `yaml:"policy"`  // its file, relative to this one
	Service string     `yaml:"service"` // where that file holds several
	Cases   []testCase `yaml:"cases"`

	file   string
	root   *yaml.Node
	policy policy.Policy
}

// testCase is one story, and what is expected of it.
type testCase struct {
	Name   string                  `yaml:"name"`
	Rate   *float64                `yaml:"rate"`   // requests/s of the service; default 100
	Errors map[string]policy.Share `yaml:"errors"` // of each version, from the beginning
	Past   *policy.Duration        `yaml:"past"`   // for how long stable is known when it begins; default 1d
	Story  []scene                 `yaml:"story"`
}

// scene is what happens at a moment, and what is expected then.
type scene struct {
	At       policy.Duration         `yaml:"at"` // since the beginning
	Announce string                  `yaml:"announce"`
	Again    bool                    `yaml:"again"` // announced though it was cut before
	Promote  string                  `yaml:"promote"`
	Abort    string                  `yaml:"abort"`
	Pause    string                  `yaml:"pause"`
	Resume   string                  `yaml:"resume"`
	Knowing  bool                    `yaml:"even_failed"` // promoted though it has failed
	Down     string                  `yaml:"down"`        // its endpoints do not answer
	Up       string                  `yaml:"up"`          // they do again
	Errors   map[string]policy.Share `yaml:"errors"`      // from now on
	Rate     *float64                `yaml:"rate"`        // from now on
	Evidence *bool                   `yaml:"evidence"`    // whether any comes
	Envoy    string                  `yaml:"envoy"`       // "accepts", or why it refuses every other table
	Refused  string                  `yaml:"refused"`     // the command is refused, in words that contain this
	Within   policy.Duration         `yaml:"within"`      // so long after the moment it is expected at the latest
	Expect   map[string]expected     `yaml:"expect"`      // by version
}

// expected is what is looked at of a version; what is empty is not.
type expected struct {
	Phase   rollout.Phase `yaml:"phase"`
	Weight  string        `yaml:"weight"` // 5%, or <=5%, or >=5%
	Outcome string        `yaml:"outcome"`
	Code    string        `yaml:"code"`
	Reason  string        `yaml:"reason"` // contains this
}

func (c *testCase) rate() float64 {
	if c.Rate == nil {
		return 100
	}
	return *c.Rate
}

func (c *testCase) past() time.Duration {
	if c.Past == nil {
		return 24 * time.Hour
	}
	return c.Past.Std()
}

// readTests reads a file of tests, with the policy that it is about.
func readTests(file string) (*testFile, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	t := &testFile{file: file}
	var fs policy.Findings
	if t.root, fs = policy.LoadOne(file, data); t.root == nil {
		return nil, append(fs, policy.Finding{File: file, Line: 1, Column: 1, Message: "there are no tests: write policy: and cases:"})
	}
	fs = append(fs, policy.Decode(file, t.root, t)...)
	if len(fs.Errors()) == 0 {
		fs = append(fs, t.check()...)
	}
	if len(fs.Errors()) > 0 {
		return nil, fs.Errors()
	}
	return t, nil
}

// finding is a mistake at a key.
func (t *testFile) finding(path, format string, args ...any) policy.Finding {
	at := policy.Position(t.root, path)
	return policy.Finding{File: t.file, Line: at.Line, Column: at.Column, Message: fmt.Sprintf(format, args...)}
}

// check reads the policy, and says what the types do not.
func (t *testFile) check() (fs policy.Findings) {
	if err := t.readPolicy(); err != nil {
		fs = append(fs, t.finding("policy", "%v", err))
	}
	if len(t.Cases) == 0 {
		fs = append(fs, t.finding("cases", "there are no cases"))
	}
	names := map[string]bool{}
	for i, c := range t.Cases {
		path := fmt.Sprintf("cases[%d]", i)
		if c.Name == "" || names[c.Name] {
			fs = append(fs, t.finding(cmp.Or(path+".name", path), "a case has a name of its own: %q is not", c.Name))
		}
		names[c.Name] = true
		fs = append(fs, t.checkRate(path, c.Rate)...)
		if len(c.Story) == 0 {
			fs = append(fs, t.finding(path, "nothing happens and nothing is expected: write a story"))
		}
		if !slices.IsSortedFunc(c.Story, func(a, b scene) int { return cmp.Compare(a.At, b.At) }) {
			fs = append(fs, t.finding(path+".story", "the story goes back in time: write what happens in order of `at`"))
		}
		if c.past() > longestStory {
			fs = append(fs, t.finding(path+".past", "past is at most %s", policy.Duration(longestStory)))
		}
		for j, s := range c.Story {
			fs = append(fs, t.checkScene(fmt.Sprintf("%s.story[%d]", path, j), s)...)
		}
	}
	return fs
}

func (t *testFile) checkRate(path string, rate *float64) policy.Findings {
	if rate == nil || *rate >= 0 && *rate <= 1e6 {
		return nil
	}
	return policy.Findings{t.finding(path+".rate", "rate is a number of requests/s, up to a million")}
}

// longestStory is as long as a test may be: a day of it takes a second or two.
const longestStory = 30 * 24 * time.Hour

func (t *testFile) checkScene(path string, s scene) (fs policy.Findings) {
	if s.At.Std() > longestStory || s.Within.Std() > longestStory {
		fs = append(fs, t.finding(path, "a story takes %s at most", policy.Duration(longestStory)))
	}
	fs = append(fs, t.checkRate(path, s.Rate)...)
	if n := len(s.commands()); n > 1 || n == 0 && s.Refused != "" {
		fs = append(fs, t.finding(path, "%d commands: write one at a moment, and as many moments as you like", n))
	}
	for _, e := range s.Expect {
		if _, err := e.weight(); err != nil {
			fs = append(fs, t.finding(path+".expect", "%v", err))
		}
		if e.Phase != "" && !e.Phase.Known() {
			fs = append(fs, t.finding(path+".expect", "there is no phase %q", e.Phase))
		}
	}
	return fs
}

// readPolicy finds the policy that the tests are about.
func (t *testFile) readPolicy() error {
	if t.Policy == "" {
		return fmt.Errorf("say which policy is tested: policy: FILE, relative to this file")
	}
	name := t.Policy
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(t.file), name)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	docs, fs := policy.Parse(name, data)
	if errs := fs.Errors(); len(errs) > 0 {
		return errs
	}
	var names []string
	for _, d := range docs {
		if names = append(names, d.Policy.Service); d.Policy.Service == t.Service || t.Service == "" && len(docs) == 1 {
			t.policy = d.Policy
			return nil
		}
	}
	return fmt.Errorf("%s has the services %s: write service: with one of them", t.Policy, strings.Join(names, ", "))
}

// asked is a command of a scene.
type asked struct{ verb, version string }

// commands are what is asked for at the moment.
func (s scene) commands() (all []asked) {
	for _, o := range []asked{{"announce", s.Announce}, {"promote", s.Promote}, {"abort", s.Abort}, {"pause", s.Pause}, {"resume", s.Resume}} {
		if o.version != "" {
			all = append(all, o)
		}
	}
	return all
}

// weight reads what is expected of a weight: from and to, in parts of 10 000.
func (e expected) weight() (limits [2]int, err error) {
	limits = [2]int{0, policy.FullWeight}
	if e.Weight == "" {
		return limits, nil
	}
	text := strings.TrimLeft(e.Weight, "<>= ")
	sign := strings.TrimSpace(strings.TrimSuffix(e.Weight, text))
	var share policy.Share
	if err := share.UnmarshalYAML(&yaml.Node{Kind: yaml.ScalarNode, Value: text}); err != nil {
		return limits, err
	}
	w := share.Weight()
	switch sign {
	case "":
		limits = [2]int{w, w}
	case "<=":
		limits[1] = w
	case ">=":
		limits[0] = w
	default:
		err = fmt.Errorf("%q: write a weight as 5%%, <=5%% or >=5%%", e.Weight)
	}
	return limits, err
}
