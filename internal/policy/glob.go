package policy

import "path"

// Matches reports whether a name fits a glob as operators write them: of services, images, certificates and claims. `*`
// stops at a slash. A glob that is not valid fits nothing: whoever reads it refuses it.
func Matches(glob, name string) bool {
	fits, err := path.Match(glob, name)
	return err == nil && fits
}
