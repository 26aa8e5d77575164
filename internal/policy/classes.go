package policy

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
