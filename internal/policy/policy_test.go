package policy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	yaml "go.yaml.in/yaml/v4"

	"github.com/canaryd/canaryd/config"
)

// Every file in testdata/bad holds one mistake (or several) and says what must be found, where.
func TestEveryMistakeIsFoundWhereItStands(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yml")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d files (%v)", len(files), err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		_, fs := Parse("f", data)
		var wants []string
		for line := range strings.Lines(string(data)) {
			if w, ok := strings.CutPrefix(line, "# want "); ok {
				wants = append(wants, strings.TrimSpace(w))
			}
		}
		for _, want := range wants {
			place, message, _ := strings.Cut(want, " ")
			if !slices.ContainsFunc(fs, func(x Finding) bool {
				return strings.HasPrefix(x.String(), "f:"+place) && strings.HasPrefix(x.Message, strings.TrimSpace(message))
			}) {
				t.Errorf("%s: want %q, found:\n%s", filepath.Base(f), want, fs.Error())
			}
		}
		if len(wants) == 0 || len(fs) > len(wants) {
			t.Errorf("%s: %d wanted, %d found:\n%s", filepath.Base(f), len(wants), len(fs), fs.Error())
		}
	}
}

func TestOnlyTheServiceIsRequired(t *testing.T) {
	docs, fs := Parse("f", []byte("service: shop\n"))
	if len(fs) > 0 || len(docs) != 1 {
		t.Fatal(fs)
	}
	want := Default()
	want.Service = "shop"
	if !reflect.DeepEqual(docs[0].Policy, want) {
		t.Errorf("got %+v", docs[0].Policy)
	}
	if p := docs[0].Policy; !p.Ramp.Auto() || p.Ramp.First() != 10 || p.Ramp.Next(5000) != FullWeight || p.Judge.Deadline.After.Std() != 24*time.Hour {
		t.Errorf("defaults are off: %+v", p)
	}
}

func TestTheNextStepIsTheFirstAboveWhateverTheWeight(t *testing.T) {
	r := Ramp{Steps: Steps{0.05, 0.2, 0.5, 1}}
	for w, want := range map[int]int{0: 500, 499: 500, 500: 2000, 1000: 2000, 1999: 2000, 2000: 5000, 4999: 5000, 5000: 10000, 9999: 10000} {
		if got := r.Next(w); got != want {
			t.Errorf("after %d comes %d, want %d", w, got, want)
		}
	}
}

func TestMistakesBetweenPolicies(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"service: shop\n", "service: shop\n", "b.yml:1:10: service shop already has a policy at a.yml:1:10: keep one"},
		{"service: a\nroute: {listener: 1.1.1.1:80, domains: [x.de]}\n", "service: b\nroute: {listener: 1.1.1.1:80, domains: [X.de]}\n", "b.yml:2:41: host X.de belongs to service a already"},
		{"service: a\nroute: {listener: 1.1.1.1:80, domains: [x.de]}\n", "service: b\nroute: {listener: 1.1.1.1:80}\n", "b.yml:2:8: listener 1.1.1.1:80 is shared with a: \"*\" would take its requests"},
		{"service: a\nroute: {listener: 1.1.1.1:80, domains: [x.de]}\n", "service: b\nroute: {listener: 1.1.1.1:80, domains: [y.de]}\n", ""},
		{"service: a\n", "service: b\n", ""},
		{"service: a\nroute: {listener: 1.1.1.1:80, domains: []}\n", "service: b\nroute: {listener: 1.1.1.1:80, domains: [x.de]}\n", ""}, // Parse says it
		{"route: {timeout: 1s}\n", "route: {timeout: 1s}\n", ""},
	} {
		x, _ := Parse("a.yml", []byte(c.a))
		y, _ := Parse("b.yml", []byte(c.b))
		got := CheckSet(append(x, y...), "").Error()
		if c.want == "" && got != "" || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s%sgot %q, want %q", c.a, c.b, got, c.want)
		}
	}
}

func TestWhatLoadReportsCannotCount(t *testing.T) {
	for text, want := range map[string]string{
		"judge: {queries: {requests: a, errors: b}}\n":                                                "f:2:18: judge.queries needs",
		"judge: {<<: {queries: {requests: a, errors: b}}}\n":                                          "f:2:23: judge.queries needs",
		"route: {protocol: grpc}\njudge: {grpc_errors: [INTERNAL]}\n":                                 "f:3:22: judge.grpc_errors needs",
		"route: {protocol: grpc}\n":                                                                   "",
		"route: {protocol: grpc}\njudge: {grpc_errors: [" + strings.Join(GRPCErrors(), ", ") + "]}\n": "",
	} {
		docs, fs := Parse("f", []byte("service: shop\n"+text))
		if len(fs) > 0 {
			t.Fatal(fs)
		}
		if got := CheckSet(docs, SourceEnvoy).Error(); want == "" && got != "" || !strings.HasPrefix(got, want) {
			t.Errorf("%sgot %q, want %q", text, got, want)
		}
		for _, source := range []string{SourcePrometheus, ""} {
			if fs := CheckSet(docs, source); len(fs) > 0 {
				t.Errorf("source %q: %v", source, fs)
			}
		}
	}
}

// What `check --print` prints is a policy again, the same one, and fits the schema.
func TestDefaultsSurviveWritingAndReading(t *testing.T) {
	schema := policySchema(t)
	for _, body := range []string{
		"",
		"ramp: {steps: [1%, 12.34%, 100%], per: user}\njudge: {clump: 3, max_error_rate: 0.5%}\nsessions: {cookie: c, ttl: 90m}\n",
		"route: {protocol: grpc, user_key: {header: u}, testers: {cookie: t, key: k}, health_check: {}, outlier: {at_most: 0%}}\njudge: {grpc_errors: [INTERNAL]}\n",
		"judge: {slow: {edges: [250ms, 1s], then: rollback, warm_up: 0s}, hang: off, promote_within: {slow: {}}}\n",
		"judge: {slow: {}, hang: 2s}\n",
		"docker: {port: 1, keep: 0, memory: 1g, healthcheck: {test: [NONE]}}\njudge: {queries: {requests: a, errors: b}}\n",
	} {
		docs, fs := Parse("f", []byte("service: shop\n"+body))
		if len(fs) > 0 {
			t.Fatal(fs)
		}
		text, err := yaml.Dump(docs[0].Policy)
		if err != nil {
			t.Fatal(err)
		}
		again, fs := Parse("g", text)
		if len(fs.Errors()) > 0 || jsonOf(t, again[0].Policy) != jsonOf(t, docs[0].Policy) {
			t.Errorf("%v\n%s\n%s\n%s", fs, text, jsonOf(t, docs[0].Policy), jsonOf(t, again[0].Policy))
		}
		if err := schema.Validate(valueOf(t, text)); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	}
}

func policySchema(t *testing.T) *jsonschema.Resolved {
	t.Helper()
	var s jsonschema.Schema
	if err := json.Unmarshal(config.PolicySchema, &s); err != nil {
		t.Fatal(err)
	}
	resolved, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	return resolved
}

func valueOf(t *testing.T, text []byte) (v any) {
	t.Helper()
	if err := yaml.Load(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// The defaults that the schema tells an editor are those that are used.
func TestTheDefaultsOfTheSchemaAreOurs(t *testing.T) {
	docs, fs := Parse("f", []byte("service: shop\nroute: {health_check: {}, outlier: {}}\njudge: {slow: {}, promote_within: {slow: {}}}\nsessions: {cookie: c}\ndocker: {port: 1}\n"))
	if len(fs) > 0 {
		t.Fatal(fs)
	}
	text, err := yaml.Dump(docs[0].Policy)
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(config.PolicySchema, &schema); err != nil {
		t.Fatal(err)
	}
	if n := compareDefaults(t, "policy", schema, valueOf(t, text)); n < 30 {
		t.Errorf("only %d defaults were compared", n)
	}
}

func compareDefaults(t *testing.T, path string, schema map[string]any, value any) (n int) {
	if want, ok := schema["default"]; ok {
		n++
		if got := strings.Replace(fmt.Sprint(value), "1d", "24h", 1); got != fmt.Sprint(want) && path != "policy.judge.grpc_errors" { // empty: the usual ones
			t.Errorf("%s: the schema says %v, the default is %v", path, want, value)
		}
	}
	props, _ := schema["properties"].(map[string]any)
	values, _ := value.(map[string]any)
	for key, p := range props {
		if v, printed := values[key]; printed {
			n += compareDefaults(t, path+"."+key, p.(map[string]any), v)
		}
	}
	return n
}

func jsonOf(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(`,"nodes":[]`, "").Replace(string(b))
}

// Schema and structs have the same keys, at every depth.
func TestSchemaAndStructsAreEqual(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal(config.PolicySchema, &schema); err != nil {
		t.Fatal(err)
	}
	compareKeys(t, "policy", schema, reflect.TypeOf(Policy{}))
}

func compareKeys(t *testing.T, path string, schema map[string]any, typ reflect.Type) {
	t.Helper()
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Struct {
		typ = typ.Elem()
	}
	if items, ok := schema["items"].(map[string]any); ok {
		schema = items
	}
	if typ.Kind() != reflect.Struct {
		return
	}
	props, _ := schema["properties"].(map[string]any)
	seen := map[string]bool{}
	for i := range typ.NumField() {
		key := strings.Split(typ.Field(i).Tag.Get("yaml"), ",")[0]
		seen[key] = true
		p, ok := props[key].(map[string]any)
		if !ok {
			t.Errorf("%s.%s is not in the schema", path, key)
			continue
		}
		compareKeys(t, path+"."+key, p, typ.Field(i).Type)
	}
	for key := range props {
		if !seen[key] {
			t.Errorf("%s.%s is in the schema only", path, key)
		}
	}
	if schema["additionalProperties"] != false {
		t.Errorf("%s: the schema allows unknown keys", path)
	}
}

// Every sample in config/ parses without a finding and fits the schema.
func TestSamplesAreRight(t *testing.T) {
	resolved := policySchema(t)
	files, err := filepath.Glob("../../config/policies/*.yml")
	if err != nil || len(files) < 2 {
		t.Fatalf("%v %v", files, err)
	}
	for _, f := range append(files, "../../config/demo.yml") {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, fs := Parse(f, data); len(fs) > 0 {
			t.Errorf("%v", fs)
		}
		if err := resolved.Validate(valueOf(t, data)); err != nil {
			t.Errorf("%s: %v", f, err)
		}
		if !strings.HasPrefix(string(data), "# yaml-language-server: $schema=") {
			t.Errorf("%s does not name its schema", f)
		}
	}
	for _, text := range []string{"service: Shop", "service: shop\nramp: {stepz: auto}", "service: shop\njudge: {false_rollback: 3}"} {
		if resolved.Validate(valueOf(t, []byte(text))) == nil {
			t.Errorf("the schema accepts %q", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, pair := range merges() {
		f.Add([]byte("service: shop\n" + pair[0] + "\n"))
	}
	f.Add([]byte(several))
	for _, glob := range []string{"testdata/bad/*.yml", "../../config/policies/*.yml", "../../config/*.yml"} {
		files, err := filepath.Glob(glob)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, fs := Parse("f", data)
		for _, x := range fs { // Go's type names mean nothing to an operator
			if x.Line < 1 || x.Column < 1 || x.Message == "" || strings.HasPrefix(x.Message, "cannot construct") || strings.HasSuffix(x.Message, " policy.Policy") {
				t.Fatalf("a finding that helps nobody: %+v", x)
			}
		}
		CheckSet(docs, SourceEnvoy) // whatever is wrong with them
		read, _ := documents("f", data)
		for i := range docs {
			for _, path := range []string{"service", "versions[0].endpoints[1]", "docker.env.TEXT", "ramp"} {
				if now, was := docs[i].place(path), read[i].place(path); now != was {
					t.Fatalf("%s of document %d stood at %s, and is found at %s again: %q", path, i, was, now, docs[i].Text)
				}
			}
		}
		if len(fs.Errors()) > 0 {
			return
		}
		standAlone(t, docs)
		for _, d := range docs {
			if _, err := json.Marshal(d.Policy); err != nil {
				t.Fatalf("accepted what cannot be stored: %v", err)
			}
			w := d.Policy.Ramp.Weights()
			if ServiceName(d.Policy.Service) != nil || w[len(w)-1] != FullWeight || w[0] <= 0 || !slices.IsSorted(w) {
				t.Fatalf("accepted %+v", d.Policy)
			}
		}
	})
}
