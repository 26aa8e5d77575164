package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	yaml "go.yaml.in/yaml/v4"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/policy"
)

// file checks a file that was not checked yet.
func (k *checker) file(f string) error {
	abs, err := filepath.Abs(f)
	if err != nil {
		return err
	}
	if k.seen[abs] {
		return nil
	}
	k.seen[abs] = true
	data, err := os.ReadFile(f)
	if err != nil {
		return err
	}
	k.text(f, data)
	return nil
}

// named checks the policies that a canaryd.yml names, as serve does.
func (k *checker) named() error {
	for _, f := range k.policies {
		if err := k.file(f); err != nil {
			return err
		}
	}
	return nil
}

// text checks what a file holds.
func (k *checker) text(name string, data []byte) {
	k.files++
	root, _ := policy.LoadOne(name, data)
	switch kindOf(name, root) {
	case testsFile:
		_, err := readTests(name)
		k.found(name, err)
	case webConfigFile:
		k.found(name, checkWebConfig(name))
		if c, err := readWebConfig(name); err == nil {
			users := map[string]string{}
			for user := range c.Users {
				users[user] = ""
			}
			k.users = append(k.users, users)
		}
	case tokensFile:
		_, err := access.ReadTokens(name, data)
		k.found(name, err)
	case serverFile:
		cfg, fs := parseServerConfig(name, data)
		k.sources = append(k.sources, cfg.Metrics.Source)
		k.servers = append(k.servers, server{bounds: *cfg.bounds()})
		k.findings = append(append(append(k.findings, fs...), k.namedPolicies(name, root, cfg)...), missingFiles(name, root)...)
		k.namedTokens(name, root, cfg, len(fs.Errors()) == 0)
	case policyFile:
		docs, fs := policy.Parse(name, data)
		k.docs, k.findings = append(k.docs, docs...), append(k.findings, fs...)
	}
}

// found takes in what another check says of a file.
func (k *checker) found(file string, err error) {
	var fs policy.Findings
	switch {
	case errors.As(err, &fs):
		k.findings = append(k.findings, fs...)
	case err != nil:
		k.findings = append(k.findings, policy.Finding{File: file, Line: 1, Column: 1, Message: err.Error()})
	}
}

// namedPolicies notes the policies that a canaryd.yml names, and warns of those that are not there.
func (k *checker) namedPolicies(file string, root *yaml.Node, cfg serverConfig) (fs policy.Findings) {
	if !policy.Has(root, "policies") {
		return nil
	}
	cfg.relativeTo(filepath.Dir(file))
	for i, p := range cfg.Policies {
		m, err := filepath.Glob(p)
		if err == nil && len(m) == 0 {
			at := policy.Position(root, fmt.Sprintf("policies[%d]", i))
			fs = append(fs, policy.Finding{File: file, Line: at.Line, Column: at.Column, Message: fmt.Sprintf("no file matches %s: paths are relative to this file", p), Warning: true})
		}
		k.policies = append(k.policies, m...)
		k.servers[len(k.servers)-1].names(m)
	}
	return fs
}

// namedTokens checks the tokens that a canaryd.yml names, and keeps whom its rules are about.
func (k *checker) namedTokens(file string, root *yaml.Node, cfg serverConfig, rulesGood bool) {
	path, tokens := "web.access", access.Tokens(nil)
	if policy.Has(root, "web.tokens_file") {
		path = "web.tokens_file"
		cfg.relativeTo(filepath.Dir(file))
		data, err := os.ReadFile(cfg.Web.TokensFile)
		if err != nil { // missingFiles warns
			return
		}
		tokens, err = access.ReadTokens(cfg.Web.TokensFile, data)
		if abs, _ := filepath.Abs(cfg.Web.TokensFile); !k.seen[abs] {
			k.files, k.seen[abs] = k.files+1, true
			k.found(cfg.Web.TokensFile, err)
		}
		rulesGood = rulesGood && err == nil
	}
	if rulesGood {
		s, at := &k.servers[len(k.servers)-1], policy.Position(root, path)
		s.access, s.at = &access.Config{Rules: cfg.Web.Access, Tokens: tokens}, policy.Finding{File: file, Line: at.Line, Column: at.Column, Warning: true}
	}
}

// idle warns of rules and tokens without effect; of users where the files are those of one canaryd.
func (k *checker) idle() (fs policy.Findings) {
	for _, s := range k.servers {
		if s.access == nil {
			continue
		}
		if len(k.users) == 1 && len(k.servers) == 1 {
			s.access.Users = k.users[0]
		}
		for _, idle := range s.access.Idle() {
			s.at.Message = idle
			fs = append(fs, s.at)
		}
	}
	return fs
}

// missingFiles warns of certificates, keys and passwords that a canaryd.yml names and that are not there: they may be elsewhere
// where it is checked.
func missingFiles(file string, n *yaml.Node) (fs policy.Findings) {
	if n == nil {
		return nil
	}
	for i, c := range n.Content {
		fs = append(fs, missingFiles(file, c)...)
		if n.Kind != yaml.MappingNode || i%2 == 0 || c.Kind != yaml.ScalarNode || c.Value == "" || !strings.HasSuffix(n.Content[i-1].Value, "_file") {
			continue
		}
		name := c.Value
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(file), name)
		}
		if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) {
			fs = append(fs, policy.Finding{File: file, Line: c.Line, Column: c.Column, Message: fmt.Sprintf("%s: there is no %s: paths are relative to this file", n.Content[i-1].Value, name), Warning: true})
		}
	}
	return fs
}
