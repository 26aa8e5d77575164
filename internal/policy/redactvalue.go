package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
)

// Without is the policy with something else in the place of each secret: values of docker.env, keys of testers, and texts with an
// address that has a user or a query. hid: it had any. Text and value of a policy have the same secrets (redact.go).
func (p Policy) Without(instead func(secret string) string) (_ Policy, hid bool, err error) {
	raw, err := json.Marshal(p)
	if err != nil {
		return Policy{}, false, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return Policy{}, false, err
	}
	r := substitution{instead: instead}
	if v = r.walk(v, ""); !r.hid {
		return p, false, nil
	}
	if raw, err = json.Marshal(v); err != nil {
		return Policy{}, false, err
	}
	var out Policy
	if err := json.Unmarshal(raw, &out); err != nil {
		return Policy{}, false, fmt.Errorf("the policy of %s without its secrets: %w", p.Service, err)
	}
	return out, true, nil
}

type substitution struct {
	instead func(string) string
	hid     bool
}

func (r *substitution) walk(v any, under string) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			text, isText := value.(string)
			switch {
			case isText && text != "" && (under == "env" || under == "testers" && key == "key"):
				r.hid, v[key] = true, r.instead(text)
			case under == "env" && !isText: // it says where the secret is
			default:
				v[key] = r.walk(value, key)
			}
		}
	case []any:
		for i := range v {
			v[i] = r.walk(v[i], under)
		}
	case string:
		if u, err := url.Parse(v); err == nil && u.Host != "" && (u.User != nil || u.RawQuery != "") {
			r.hid = true
			return r.instead(v)
		}
	}
	return v
}
