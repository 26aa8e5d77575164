package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	yaml "go.yaml.in/yaml/v4"

	"github.com/canaryd/canaryd/internal/policy"
)

// The documents show commands, policies and output in fenced blocks:
//
//	yaml    a policy, a canaryd.yml, a test, or a part of one; it has to be valid. `yaml NAME` is another program's
//	sh      commands; each is run, with `# exit N` if it ends otherwise than with 0
//	text    output; it has to be that of a golden
//	(none)  a picture
//
// What cannot be run, or is none of these, says why in the line before: <!-- not run: REASON -->. Its commands have to be right all
// the same, as have those within sentences. A document whose commands another test runs names it: <!-- run by: FILE -->. And
// <!-- output: FILE --> says which golden an output is of.
type fence struct {
	doc     string
	line    int
	kind    string
	text    string
	mark    string // in the comment before it: `not run` or `output`
	because string
}

func documents(t *testing.T) map[string]string {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) < 8 {
		t.Fatalf("%v %v", files, err)
	}
	docs := map[string]string{}
	for _, name := range ofTheRoot() {
		files = append(files, "../../"+name)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		docs[filepath.Base(f)] = string(data)
	}
	return docs
}

// ofTheRoot are the documents that do not lie in docs/.
func ofTheRoot() []string { return []string{"README.md", "SECURITY.md", "CONTRIBUTING.md"} }

var fenced = regexp.MustCompile("(?ms)(?:^[ \t]*<!-- (not run|output): ([^\n]*) -->\n)?^([ \t]*)```([^\n]*)\n(.*?)^[ \t]*```")

func fences(doc, text string) (fs []fence) {
	for _, m := range fenced.FindAllStringSubmatchIndex(text, -1) {
		at := func(i int) string {
			if m[2*i] < 0 {
				return ""
			}
			return text[m[2*i]:m[2*i+1]]
		}
		body := regexp.MustCompile(`(?m)^`+at(3)).ReplaceAllString(at(5), "")
		fs = append(fs, fence{doc, 1 + strings.Count(text[:m[0]], "\n"), at(4), body, at(1), at(2)})
	}
	return fs
}

// Every policy and every canaryd.yml that the documents show is valid, with the keys around it where it is a part of one.
func TestWhatTheDocumentsShowIsValid(t *testing.T) {
	checked := 0
	for doc, text := range documents(t) {
		for _, f := range fences(doc, text) {
			if f.kind != "yaml" {
				continue
			}
			if f.mark == "not run" {
				t.Logf("%s:%d is not checked: %s", doc, f.line, f.because)
				continue
			}
			checked++
			for _, problem := range problemsOf(t, f.text) {
				t.Errorf("%s:%d: %s", doc, f.line, problem)
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d were checked", checked)
	}
	rules := regexp.MustCompile("`(\\{(?:user|token|oidc): [^`]+\\})`").FindAllStringSubmatch(documents(t)["access.md"], -1)
	for _, m := range rules {
		if _, fs := parseServerConfig("block", []byte("web: {tokens_file: t, access: ["+m[1]+"]}\n")); len(fs.Errors()) > 0 {
			t.Errorf("access.md: %s: %v", m[1], fs)
		}
	}
	if len(rules) == 0 {
		t.Error("access.md shows no rule within a sentence")
	}
}

func problemsOf(t *testing.T, text string) (problems []string) {
	root, fs := policy.LoadOne("block", []byte(text))
	if root == nil || len(fs) > 0 {
		return []string{fmt.Sprint("not one YAML document: ", fs)}
	}
	switch asServer, bad := parseServerConfig("block", []byte(text)); {
	case policy.Has(root, "cases"):
		if _, err := readTests(besidePolicies(t, text)); err != nil {
			problems = append(problems, err.Error())
		}
	case len(bad.Errors()) == 0 && asServer.Metrics.Source != "":
	case kindOf("block", root) == serverFile && !policy.Has(root, "docker"): // which may be that of a policy
		fs = bad.Errors()
	default:
		if !policy.Has(root, "service") {
			text = "service: shop\n" + text
		}
		var docs []policy.Document
		docs, fs = policy.Parse("block", []byte(text))
		fs = append(fs.Errors(), policy.CheckSet(docs, "").Errors()...)
	}
	for _, f := range fs {
		problems = append(problems, f.String())
	}
	return problems
}

// besidePolicies is a file of tests that finds the policies in config/.
func besidePolicies(t *testing.T, text string) string {
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "policies"), os.DirFS("../../config/policies")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "tests", "block.yml")
	if err := os.Mkdir(filepath.Dir(file), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Every command that the documents and the help show exists, with the flags and arguments that it is shown with.
func TestTheCommandsOfTheDocumentsExist(t *testing.T) {
	shown := map[string][]string{}
	for doc, text := range documents(t) {
		for _, f := range fences(doc, text) {
			if f.kind == "sh" {
				shown[doc] = append(shown[doc], commandsIn(f.text)...)
			}
		}
		for _, m := range regexp.MustCompile("`(canaryd [^`]+)`").FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			shown[doc] = append(shown[doc], m[1])
		}
	}
	for _, c := range verbs(newRoot()) {
		shown["the help of "+c.CommandPath()] = commandsIn(c.Example)
	}
	n := 0
	for where, commands := range shown {
		for _, command := range commands {
			n++
			command = strings.Join(append(commandsIn(command), command)[:1], "")
			if err := rightCommand(command); err != nil {
				t.Errorf("%s shows %q: %v", where, command, err)
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d commands", n)
	}
}

// commandsIn are the commands of canaryd in a shell's text, without what stands around them.
func commandsIn(text string) (commands []string) {
	text = regexp.MustCompile(`(?m)(^|\s)#.*$|\s>\s*\S+`).ReplaceAllString(strings.ReplaceAll(text, "\\\n", " "), "")
	for _, c := range regexp.MustCompile(`[\n|;&()]+`).Split(text, -1) {
		if c = strings.TrimSpace(c); strings.HasPrefix(c, "canaryd ") {
			commands = append(commands, c)
		}
	}
	return commands
}

// rightCommand says what would be wrong with a command.
func rightCommand(command string) error {
	words := wordsOf(command)
	root := newRoot()
	c, args, err := root.Find(words[1:])
	if err != nil {
		return err
	}
	if c == root && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		return fmt.Errorf("there is no %s", args[0])
	}
	if err := c.ParseFlags(args); err != nil {
		return err
	}
	if c.Args == nil || len(c.Flags().Args()) == 0 { // within a sentence the arguments may be left out
		return nil
	}
	return c.Args(c, c.Flags().Args())
}

// wordsOf splits a line as a shell does, without carrying out anything; what is redirected is left out.
func wordsOf(line string) (words []string) {
	for _, m := range regexp.MustCompile(`(?:[^\s"']|"[^"]*"|'[^']*')+`).FindAllString(line, -1) {
		if !strings.ContainsAny(m[:1], "<>") {
			words = append(words, strings.NewReplacer(`"`, "", `'`, "").Replace(m))
		}
	}
	return words
}

// Every block of commands is run, against a daemon with an Envoy, in a copy of what they name. The documents' own order counts.
func TestTheCommandsOfTheDocumentsRun(t *testing.T) {
	for doc, text := range documents(t) {
		if m := regexp.MustCompile(`<!-- run by: (\S+) -->`).FindStringSubmatch(text); m != nil {
			other, err := os.ReadFile("../../" + m[1])
			if err != nil || !strings.Contains(string(other), doc) {
				t.Errorf("%s is to be run by %s: %v", doc, m[1], err)
			}
			continue
		}
		blocks := slices.DeleteFunc(fences(doc, text), func(f fence) bool { return f.kind != "sh" })
		if len(blocks) == 0 {
			continue
		}
		t.Run(doc, func(t *testing.T) {
			t.Parallel()
			var w *town
			var dir string
			for _, f := range blocks {
				if f.mark == "not run" {
					t.Logf("%s:%d is not run: %s", doc, f.line, f.because)
					for _, other := range regexp.MustCompile(`\S+_test\.go`).FindAllString(f.because, -1) {
						if _, err := os.Stat("../../" + other); err != nil {
							t.Errorf("%s:%d: %v", doc, f.line, err)
						}
					}
					continue
				}
				if w == nil {
					w = newTown(t, strings.Replace(townPolicy, "hold: 1s", "hold: 2s", 1))
					dir = named(t)
				}
				for _, line := range strings.Split(strings.TrimSpace(strings.ReplaceAll(f.text, "\\\n", " ")), "\n") {
					w.runs(t, dir, f, line)
				}
			}
		})
	}
}

// named makes a directory with the files that documents name.
func named(t *testing.T) string {
	dir := t.TempDir()
	for to, from := range map[string]string{"config/policies": "policies", "config/tests": "tests", "policies": "policies"} {
		if err := os.CopyFS(filepath.Join(dir, to), os.DirFS("../../config/"+from)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"canaryd.yml": "policies: [policies/*.yml]\n", "shop.yml": townPolicy} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// runs says one line of a document, and compares the exit code.
func (w *town) runs(t *testing.T, dir string, f fence, line string) {
	t.Helper()
	want := exitOK
	if m := regexp.MustCompile(`# exit (\d+)`).FindStringSubmatch(line); m != nil {
		want, _ = strconv.Atoi(m[1])
	}
	commands := commandsIn(line)
	if len(commands) != 1 || !strings.HasPrefix(strings.TrimSpace(line), "canaryd ") {
		t.Errorf("%s:%d: %q is not one command of canaryd: say why it is not run", f.doc, f.line, line)
		return
	}
	args := wordsOf(commands[0])[1:]
	verb, _, err := newRoot().Find(args)
	if err != nil {
		t.Errorf("%s:%d: %v", f.doc, f.line, err)
		return
	}
	for i, a := range args {
		if exists := fileIn(dir, a); exists != "" {
			args[i] = exists
		}
	}
	if verb.Flags().Lookup("url") != nil {
		args = append(args, "--url", "http://"+w.web)
	}
	if verb.Name() == "simulate" {
		args = append(args, "--runs", "4") // of a hundred: it is the command that is tried
	}
	var out bytes.Buffer
	if code := execute(t.Context(), args, strings.NewReader(""), &out, &out); code != want {
		t.Errorf("%s:%d: %s: exit %d, want %d\n%s", f.doc, f.line, line, code, want, &out)
	}
}

// fileIn is a file or directory of a name in a directory; empty: there is none.
func fileIn(dir, name string) string {
	p := filepath.Join(dir, name)
	if _, err := os.Stat(p); err != nil || name == "." || !filepath.IsLocal(name) {
		return ""
	}
	return p
}

// Output that the documents show is that of a golden, but for numbers.
func TestOutputInTheDocumentsIsOurs(t *testing.T) {
	n := 0
	for doc, text := range documents(t) {
		for _, f := range fences(doc, text) {
			switch {
			case f.kind == "text" && f.mark == "output":
				kept, err := os.ReadFile("../../" + f.because)
				if err != nil || !strings.Contains(numberless(string(kept)), numberless(f.text)) {
					t.Errorf("%s:%d is not in %s (%v)", doc, f.line, f.because, err)
				}
				n++
			case !slices.Contains([]string{"yaml", "sh", ""}, f.kind) && !strings.HasPrefix(f.kind, "yaml "):
				t.Errorf("%s:%d: a block of %q: write yaml, sh, text with its golden, or nothing for a picture", doc, f.line, f.kind)
			case f.kind == "" && len(commandsIn(f.text)) > 0:
				t.Errorf("%s:%d: commands in a block without a kind: write sh", doc, f.line)
			}
		}
	}
	if n < 6 {
		t.Errorf("only %d outputs", n)
	}
}

// numberless is a text without what depends on the moment: numbers, the widths of columns, and the places where lines break. It
// has a line for each command.
func numberless(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	text = regexp.MustCompile(`<?\b(\d+(\.\d+)?(e[+-]\d+)?(ms|s|m|h|%)?)+|<\.001%`).ReplaceAllString(text, "N")
	return regexp.MustCompile(` (## |\$ canaryd)`).ReplaceAllString(text, "\n$1")
}

// Every code of a verdict has a section that says what to do, and every alert one in the runbook.
func TestCodesAndAlertsAreDocumented(t *testing.T) {
	docs := documents(t)
	codes := codesOfVerdicts(t)
	for _, code := range codes {
		if !strings.Contains(docs["verdicts.md"], "\n### "+code+"\n") {
			t.Errorf("docs/verdicts.md has no section %s", code)
		}
	}
	var alerts struct {
		Groups []struct {
			Rules []struct {
				Alert string `yaml:"alert"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	data, err := os.ReadFile("../../config/alerts.yml")
	if err == nil {
		err = yaml.Load(data, &alerts)
	}
	if err != nil || len(alerts.Groups) == 0 || len(codes) < 20 {
		t.Fatalf("%d codes, %+v, %v", len(codes), alerts, err)
	}
	for _, r := range alerts.Groups[0].Rules {
		if !strings.Contains(docs["runbook.md"], "\n## "+r.Alert+"\n") {
			t.Errorf("docs/runbook.md has no section %s", r.Alert)
		}
	}
}

// codesOfVerdicts reads the constants in internal/analysis/verdict.go.
func codesOfVerdicts(t *testing.T) (codes []string) {
	f, err := parser.ParseFile(token.NewFileSet(), "../../internal/analysis/verdict.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Code" {
			code, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			codes = append(codes, code)
		}
		return true
	})
	return codes
}

// Links between documents lead somewhere.
func TestLinksInTheDocumentsLeadSomewhere(t *testing.T) {
	docs := documents(t)
	for doc, text := range docs {
		dir := "../../docs"
		if slices.Contains(ofTheRoot(), doc) {
			dir = "../.."
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]*)?\)`).FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			target := text
			if m[1] != "" && !strings.Contains(m[1], "://") {
				data, err := os.ReadFile(filepath.Join(dir, m[1]))
				if info, statErr := os.Stat(filepath.Join(dir, m[1])); err != nil && (statErr != nil || !info.IsDir()) {
					t.Errorf("%s: %s: %v", doc, m[1], err)
				}
				target = string(data)
			}
			if m[2] != "" && !strings.Contains(m[1], "://") && !slices.Contains(anchors(target), m[2][1:]) {
				t.Errorf("%s: %s has no %s", doc, m[1], m[2])
			}
		}
	}
}

// anchors are the names of headings as GitHub makes them.
func anchors(text string) (names []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		name := strings.ToLower(regexp.MustCompile(`[^\p{L}\p{N}_\- ]`).ReplaceAllString(m[1], ""))
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}
