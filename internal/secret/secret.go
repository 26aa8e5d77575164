// Package secret reads secrets where the configuration says that they are.
package secret

import (
	"fmt"
	"os"
	"strings"

	"github.com/canaryd/canaryd/internal/policy"
)

// Read returns the value. Its errors name the place, and nothing of what is there.
func Read(s policy.Secret) (string, error) {
	switch {
	case s.FromFile != "":
		raw, err := os.ReadFile(s.FromFile)
		if err != nil {
			return "", fmt.Errorf("from_file: %w", err)
		}
		return strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r"), nil
	case s.FromEnv != "":
		v, set := os.LookupEnv(s.FromEnv)
		if !set {
			return "", fmt.Errorf("from_env: canaryd itself has no %s in its environment", s.FromEnv)
		}
		return v, nil
	}
	return s.Value, nil
}
