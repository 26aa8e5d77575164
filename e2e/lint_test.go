package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	yaml "go.yaml.in/yaml/v4"
)

var shebang = regexp.MustCompile(`^#!.*\b(bash|sh)\b`)

// ofTheTree are the files of the repository that fit, by their place in it.
func ofTheTree(t *testing.T, fits func(name string, text []byte) bool) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", ".tools", "bin", "testdata"}, d.Name()):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err == nil && fits(d.Name(), text) {
			files[strings.TrimPrefix(path, "../")] = string(text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// blocks are the fenced blocks of the documents, of kinds that begin so, by file and number.
func blocks(t *testing.T, kind string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for file, text := range ofTheTree(t, func(name string, _ []byte) bool { return strings.HasSuffix(name, ".md") }) {
		for i, m := range regexp.MustCompile("(?ms)^[ \t]*```"+kind+"\n(.*?)^[ \t]*```").FindAllStringSubmatch(text, -1) {
			found[fmt.Sprintf("%s-%d", filepath.Base(file), i+1)] = m[1]
		}
	}
	return found
}

// scriptsIn are what the jobs of GitLab and the steps of an action run.
func scriptsIn(t *testing.T, text string) (scripts []string) {
	t.Helper()
	var doc map[string]any
	if err := yaml.Load([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			for key, e := range v {
				switch lines, several := e.([]any); {
				case key != "run" && key != "script":
				case several:
					for _, line := range lines {
						scripts = append(scripts, fmt.Sprint(line))
					}
				default:
					scripts = append(scripts, fmt.Sprint(e))
				}
				walk(e)
			}
		}
	}
	walk(doc)
	return scripts
}

// Scripts are read by shellcheck: those of the tree, the commands of the documents, and what CI systems are shown to run.
func TestScripts(t *testing.T) {
	t.Parallel()
	scripts := ofTheTree(t, func(name string, text []byte) bool {
		return strings.HasSuffix(name, ".sh") || shebang.Match(text)
	})
	for name, text := range blocks(t, "sh") {
		scripts[name] = "#!/usr/bin/env bash\n" + text
	}
	jobs := blocks(t, `yaml \.gitlab-ci\.yml`)
	for _, file := range []string{"config/ci/gitlab.yml", "config/ci/github/action.yml"} {
		text, err := os.ReadFile(filepath.Join("..", file))
		if err != nil {
			t.Fatal(err)
		}
		jobs[strings.ReplaceAll(file, "/", "-")] = string(text)
	}
	for name, text := range jobs {
		found := scriptsIn(t, text)
		if len(found) == 0 {
			t.Errorf("%s runs nothing", name)
		}
		for i, script := range found {
			scripts[fmt.Sprintf("%s-job%d", name, i)] = "#!/bin/sh\n" + script + "\n"
		}
	}
	if len(scripts) < 15 {
		t.Errorf("only %d scripts", len(scripts))
	}
	dir := t.TempDir()
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(name, "/", "-")), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(part(t, "shellcheck"), append([]string{"--format=gcc"}, files...)...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, strings.ReplaceAll(string(out), dir+"/", ""))
	}
}

// Workflows are read by actionlint, in a repository that has config/ci as action.yml says: those of the documents, and the
// step that action.yml shows.
func TestWorkflows(t *testing.T) {
	t.Parallel()
	workflows := blocks(t, `yaml \.github/workflows/[a-z]+\.yml`)
	action, err := os.ReadFile("../config/ci/github/action.yml")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?m)^#   (- uses: .*)\n#   (  with: .*)$`).FindSubmatch(action)
	if shown == nil || len(workflows) == 0 {
		t.Fatalf("action.yml shows no step, or the documents none of %d workflows", len(workflows))
	}
	step := fmt.Sprintf("      %s\n      %s\n", shown[1], shown[2])
	workflows["action"] = "on: push\njobs:\n  release:\n    runs-on: ubuntu-latest\n    steps:\n" + step
	for name, text := range workflows {
		if out, err := readWorkflow(t, text); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	wrong := strings.Replace(workflows["action"], "service:", "servise:", 1)
	if out, err := readWorkflow(t, wrong); err == nil || !strings.Contains(out, `"servise" is not defined in action "canaryd deploy"`) {
		t.Errorf("an input that the action does not have: %v\n%s", err, out)
	}
}

// readWorkflow has actionlint read one; what it runs goes to shellcheck.
func readWorkflow(t *testing.T, text string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, ".github/actions/canaryd"), os.DirFS("../config/ci")); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{".git", ".github/workflows"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, ".github/workflows/w.yml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(part(t, "actionlint"), "-no-color", "-shellcheck", part(t, "shellcheck"))
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}
