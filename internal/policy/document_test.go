package policy

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const several = `# yaml-language-server: $schema=policy.schema.json
service: a # the first
ramp: &r {hold: 2m}

# said about a, too
---
# about b
service: b
ramp: &r {hold: 3m}
<<: {after_promotion: {watch: 1m}}
---
---   # nothing
--- {service: c, route: {domains: [c.de]}}
...
# about d
%YAML 1.1
---
service: d
docker: {port: 1, env: {TEXT: "a
 --- b"}}
`

func TestADocumentStandsOnItsOwn(t *testing.T) {
	for _, end := range []string{"\n", "\r\n", "\r", "\u0085", "\u2028"} {
		file := strings.ReplaceAll(several, "\n", end)
		docs, fs := Parse("f", []byte(file))
		if len(fs) > 0 || len(docs) != 4 {
			t.Fatalf("%q: %d documents, %v", end, len(docs), fs)
		}
		standAlone(t, docs)
		for i, want := range []string{
			"# yaml-language-server: $schema=policy.schema.json\nservice: a # the first\nramp: &r {hold: 2m}\n\n# said about a, too\n",
			"# about b\nservice: b\nramp: &r {hold: 3m}\n<<: {after_promotion: {watch: 1m}}\n",
			"--- {service: c, route: {domains: [c.de]}}\n...\n# about d\n",
			"%YAML 1.1\n---\nservice: d\ndocker: {port: 1, env: {TEXT: \"a\n --- b\"}}\n",
		} {
			if want = strings.ReplaceAll(want, "\n", end); docs[i].Text != want {
				t.Errorf("document %d is %q, want %q", i, docs[i].Text, want)
			}
		}
		if at := docs[1].place("after_promotion.watch"); at != "f:10:31" {
			t.Errorf("a position is that in the file, not %s", at)
		}
	}
}

func TestAnEditChangesTheHashOfItsDocumentOnly(t *testing.T) {
	hashes := func(text string) map[string]string {
		docs, fs := Parse("f", []byte(text))
		if len(fs) > 0 {
			t.Fatal(fs)
		}
		m := map[string]string{}
		for _, d := range docs {
			m[d.Policy.Service] = d.Hash
		}
		return m
	}
	a, b, c := "service: a\n", "service: b\n", "service: c\n"
	before := hashes(a + "---\n" + b)
	for text, changed := range map[string]string{
		a + "---\n" + b + "---\n" + c:           "",
		"---\n" + b + "---\n" + a:               "",
		a + "--- \n---\n" + b:                   "",
		a + "ramp: {hold: 2m}\n---\n" + b:       "a",
		a + "---\n" + b + "# is not the same\n": "b",
	} {
		after := hashes(text)
		for _, service := range []string{"a", "b"} {
			if (after[service] != before[service]) != (service == changed) {
				t.Errorf("%q: the hash of %s was %s and is %s", text, service, before[service], after[service])
			}
		}
	}
}

func TestSamplesStandOnTheirOwn(t *testing.T) {
	files, err := filepath.Glob("../../config/policies/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v %v", files, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		docs, _ := Parse(f, data)
		if len(docs) == 1 && docs[0].Text != string(data) {
			t.Errorf("%s: the text of the only document is not that of the file", f)
		}
		standAlone(t, docs)
	}
}

// standAlone wants each document's text to give the same policy without the rest of its file.
func standAlone(t *testing.T, docs []Document) {
	t.Helper()
	for _, d := range docs {
		again, fs := Parse("f", []byte(d.Text))
		if len(fs.Errors()) > 0 || len(again) != 1 || !reflect.DeepEqual(again[0].Policy, d.Policy) || again[0].Hash != d.Hash {
			t.Fatalf("on its own the document is another: %v\n%q\n%+v\n%+v", fs, d.Text, d, again)
		}
	}
}

func TestOnlyUTF8IsRead(t *testing.T) {
	if _, fs := Parse("f", []byte("\xff\xfes\x00")); !strings.Contains(fs.Error(), "not UTF-8") {
		t.Error(fs)
	}
}
