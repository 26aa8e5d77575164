package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	yaml "go.yaml.in/yaml/v4"

	"github.com/canaryd/canaryd/internal/policy"
)

// Tokens are the names of tokens, by hash. A token has 130 random bits, so a fast hash keeps it secret.
type Tokens map[[sha256.Size]byte]string

const (
	hashPrefix = "sha256:"
	notAName   = "%q is not a name for a token: write letters, digits, dots, dashes and underscores, as in ci-shop"
)

var tokenName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// NewToken makes a token, and the line of the tokens file that lets it in.
func NewToken(name string) (token, line string, err error) {
	if !tokenName.MatchString(name) {
		return "", "", fmt.Errorf(notAName, name)
	}
	token = "canaryd_" + rand.Text()
	sum := sha256.Sum256([]byte(token))
	return token, name + ": " + hashPrefix + hex.EncodeToString(sum[:]), nil
}

// hashes is one hash or, while a token is being replaced, several.
type hashes [][sha256.Size]byte

// UnmarshalYAML reads a hash or a list of them.
func (h *hashes) UnmarshalYAML(n *yaml.Node) error {
	nodes := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		nodes = n.Content
	}
	for _, n := range nodes {
		raw, err := hex.DecodeString(strings.TrimPrefix(n.Value, hashPrefix))
		if err != nil || len(raw) != sha256.Size || !strings.HasPrefix(n.Value, hashPrefix) { // never the value: it may be a token
			return fmt.Errorf("this is not the hash of a token: `canaryd token NAME` prints the line")
		}
		*h = append(*h, [sha256.Size]byte(raw))
	}
	return nil
}

// HoldsTokens reports whether a YAML mapping has a token's hash: what else it has is wrong, and it is a tokens file all the same.
func HoldsTokens(root *yaml.Node) bool {
	if root == nil {
		return false
	}
	for _, n := range root.Content {
		if n.Kind == yaml.SequenceNode && HoldsTokens(n) || strings.HasPrefix(n.Value, hashPrefix) {
			return true
		}
	}
	return false
}

// ReadTokens reads the tokens file, and says of each mistake where it is.
func ReadTokens(file string, data []byte) (Tokens, error) {
	root, fs := policy.LoadOne(file, data)
	var byName map[string]hashes
	if root != nil {
		fs = append(fs, policy.Decode(file, root, &byName)...)
	}
	if len(fs) > 0 {
		return nil, fs
	}
	out := Tokens{}
	for i := 0; root != nil && i+1 < len(root.Content); i += 2 {
		key := root.Content[i]
		wrong := func(format string, args ...any) {
			fs = append(fs, policy.Finding{File: file, Line: key.Line, Column: key.Column, Message: fmt.Sprintf(format, args...)})
		}
		name := key.Value
		if !tokenName.MatchString(name) {
			wrong(notAName, name)
		}
		for _, h := range byName[name] {
			if other, twice := out[h]; twice {
				wrong("%s and %s are one token: who did it would not be known", other, name)
			}
			out[h] = name
		}
	}
	if len(fs) > 0 {
		return nil, fs
	}
	return out, nil
}

func (t Tokens) find(token string) (name string, ok bool) {
	name, ok = t[sha256.Sum256([]byte(token))]
	return name, ok
}
