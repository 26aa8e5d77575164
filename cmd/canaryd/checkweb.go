package main

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/crypto/bcrypt"

	"github.com/canaryd/canaryd/internal/policy"
)

// checkWebConfig says what is wrong with the file of --web.config.file, and where. What only Prometheus' library finds has no place.
func checkWebConfig(file string) error {
	if file == "" {
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	root, fs := policy.LoadOne(file, data)
	var c web.Config
	if root != nil {
		fs = append(fs, policy.Decode(file, root, &c)...)
	}
	for _, user := range slices.Sorted(maps.Keys(c.Users)) {
		if _, err := bcrypt.Cost([]byte(c.Users[user])); err != nil { // never the value: it may be a password
			at := policy.Position(root, "basic_auth_users."+user)
			fs = append(fs, policy.Finding{File: file, Line: at.Line, Column: at.Column, Message: fmt.Sprintf("the password of %s is not a bcrypt hash: `htpasswd -nB %s` prints one", user, user)})
		}
	}
	if len(fs) > 0 {
		fs.Sort()
		return fs
	}
	return web.Validate(file)
}
