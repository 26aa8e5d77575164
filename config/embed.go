// Package config holds what ships beside the binary: samples, the schema of a policy, alerts.
package config

import _ "embed"

// PolicySchema is the JSON schema (draft-07) of a policy.
//
//go:embed policy.schema.json
var PolicySchema []byte

// DemoPolicy is the policy of `canaryd demo`.
//
//go:embed demo.yml
var DemoPolicy []byte
