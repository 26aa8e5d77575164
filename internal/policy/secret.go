package policy

import (
	"encoding/json"
	"errors"
	"path"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// Hidden stands where a secret is.
const Hidden = "•••"

// Secret is a value that may be one: as it is written, or where it is read when it is needed. One of the three is set.
type Secret struct {
	Value    string
	FromFile string // without the newline at its end
	FromEnv  string // of canaryd's own environment
}

type secretKeys struct {
	FromFile string `yaml:"from_file,omitempty" json:"from_file,omitempty"`
	FromEnv  string `yaml:"from_env,omitempty" json:"from_env,omitempty"`
}

// UnmarshalYAML reads a value, or {from_file: …} or {from_env: …}. Its errors do not show the value.
func (s *Secret) UnmarshalYAML(n *yaml.Node) error {
	*s = Secret{}
	if n.Kind == yaml.ScalarNode {
		return n.Decode(&s.Value)
	}
	var k secretKeys
	if n.Kind != yaml.MappingNode {
		return errors.New("write a value, {from_file: PATH} or {from_env: NAME}")
	}
	if err := decode(n, &k); err != nil {
		return err
	}
	if (k.FromFile == "") == (k.FromEnv == "") {
		return errors.New("write one of from_file and from_env")
	}
	s.FromFile, s.FromEnv = k.FromFile, k.FromEnv
	return nil
}

func (s Secret) written() any {
	if s.FromFile+s.FromEnv == "" {
		return s.Value
	}
	return secretKeys{s.FromFile, s.FromEnv}
}

// MarshalYAML writes the secret as it is read.
func (s Secret) MarshalYAML() (any, error) { return s.written(), nil }

// MarshalJSON writes a value as text, so states from before there were others read and compare the same.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.written()) }

// UnmarshalJSON reads what MarshalJSON writes.
func (s *Secret) UnmarshalJSON(raw []byte) error {
	*s = Secret{}
	if strings.HasPrefix(string(raw), "{") {
		var k secretKeys
		err := json.Unmarshal(raw, &k)
		s.FromFile, s.FromEnv = k.FromFile, k.FromEnv
		return err
	}
	return json.Unmarshal(raw, &s.Value)
}

// String shows nothing of the value.
func (s Secret) String() string {
	switch {
	case s.FromFile != "":
		return "from_file " + s.FromFile
	case s.FromEnv != "":
		return "from_env " + s.FromEnv
	case s.Value == "":
		return ""
	}
	return Hidden
}

// RelativeTo makes a relative file one of a directory.
func (s *Secret) RelativeTo(dir string) {
	if s.FromFile != "" && !path.IsAbs(s.FromFile) {
		s.FromFile = path.Join(dir, s.FromFile)
	}
}

// placed makes the files of the policy's secrets relative to the file that names them.
func (d *Document) placed() {
	if d.Policy.Docker == nil {
		return
	}
	for name, s := range d.Policy.Docker.Env {
		s.RelativeTo(path.Dir(d.File))
		d.Policy.Docker.Env[name] = s
	}
}
