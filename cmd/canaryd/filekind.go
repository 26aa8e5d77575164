package main

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/prometheus/exporter-toolkit/web"
	yaml "go.yaml.in/yaml/v4"

	"github.com/canaryd/canaryd/internal/access"
	"github.com/canaryd/canaryd/internal/policy"
)

// kind is what a file is for: `check` is given all of them.
type kind int

const (
	policyFile kind = iota
	serverFile
	webConfigFile
	tokensFile
	testsFile
)

// kindOf tells what a file is for by its keys, by keys that are spelled like those, and by its name when it has none.
func kindOf(name string, root *yaml.Node) kind {
	server, service := keysOf(serverConfig{}), keysOf(policy.Policy{})
	has := func(keys []string, but ...string) bool {
		return slices.ContainsFunc(keys, func(k string) bool { return !slices.Contains(but, k) && policy.Has(root, k) })
	}
	switch {
	case access.HoldsTokens(root): // which may have the names of keys
		return tokensFile
	case policy.Has(root, "cases"):
		return testsFile
	case has(keysOf(web.Config{})):
		return webConfigFile
	case policy.Has(root, "service"):
		return policyFile
	case has(server, service...):
		return serverFile
	case has(service, server...):
		return policyFile
	case has(server): // keys of both
		return serverFile
	}
	return likeliest(name, root)
}

// likeliest: none of the keys is written as it should be.
func likeliest(name string, root *yaml.Node) kind {
	for _, c := range []struct {
		kind kind
		keys []string
	}{{policyFile, keysOf(policy.Policy{})}, {serverFile, keysOf(serverConfig{})}, {webConfigFile, keysOf(web.Config{})}} {
		if root != nil && root.Kind == yaml.MappingNode && slices.ContainsFunc(root.Content, func(n *yaml.Node) bool { return policy.Nearest(n.Value, c.keys) != "" }) {
			return c.kind
		}
	}
	if strings.TrimSuffix(filepath.Base(name), filepath.Ext(name)) == "canaryd" {
		return serverFile
	}
	return policyFile
}

// keysOf are the YAML keys of a struct.
func keysOf(v any) []string {
	var keys []string
	for f := range reflect.TypeOf(v).Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		keys = append(keys, key)
	}
	return keys
}
