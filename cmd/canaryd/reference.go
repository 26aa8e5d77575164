package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/canaryd/canaryd/config"
	"github.com/canaryd/canaryd/internal/policy"
)

// described is what the schema says of a key.
type described struct {
	Description string               `json:"description"`
	Default     any                  `json:"default"`
	Enum        []string             `json:"enum"`
	Properties  map[string]described `json:"properties"`
	Items       *described           `json:"items"`
}

// writeReference writes the page of all keys of a policy: the structs say which there are, in which order, and what may be
// written; the schema says what they mean, and their defaults.
func writeReference(w io.Writer) error {
	var schema described
	if err := json.Unmarshal(config.PolicySchema, &schema); err != nil {
		return fmt.Errorf("the schema of policies: %w", err)
	}
	r := reference{w: w}
	r.print(`# Policy reference

One YAML document for each service; a file may hold several. Only ` + "`service`" + ` is required. Percentages are written as ` + "`5%`" + `, durations as
` + "`30s`, `5m`, `1h30m` or `1d`" + `. ` + "`canaryd check FILE`" + ` finds every mistake with its position, ` + "`canaryd check --print FILE`" + ` shows all defaults.
` + "`canaryd schema`" + ` prints the JSON schema, for editors. This page is generated: ` + "`canaryd schema --markdown`" + `.

A change to how a release is judged (false_rollback, false_promotion, tolerate, promote_within, max_error_rate, clump, burst, exercise, slow, hang, route.classes) applies to
versions that are announced after it; everything else applies at once, and lowers no weight (except a smaller ramp.canaries).

`)
	r.table("", reflect.TypeFor[policy.Policy](), schema, true)
	for f := range reflect.TypeFor[policy.Policy]().Fields() {
		key := keyOf(f)
		if t, many := mapping(f.Type); t != nil {
			d := schema.Properties[key]
			r.print("\n## " + key + "\n" + d.Description + "\n\n")
			if many {
				d, key = *d.Items, key+"[]"
			}
			r.table(key+".", t, d, false)
		}
	}
	return r.err
}

type reference struct {
	w   io.Writer
	err error
}

func (r *reference) print(text string) {
	if r.err == nil {
		_, r.err = io.WriteString(r.w, text)
	}
}

// table has a row for each key, those of the mappings below it too; at the top these have sections of their own.
func (r *reference) table(prefix string, t reflect.Type, d described, top bool) {
	r.print("| key | value | default | |\n| --- | --- | --- | --- |\n")
	r.rows(prefix, t, d, top)
}

func (r *reference) rows(prefix string, t reflect.Type, d described, top bool) {
	for f := range t.Fields() {
		key := keyOf(f)
		k := d.Properties[key]
		below, _ := mapping(f.Type)
		name := "`" + strings.TrimPrefix(prefix+key, "versions[].") + "`"
		if top && below != nil {
			name = fmt.Sprintf("[%s](#%s)", name, key)
		}
		r.print(fmt.Sprintf("| %s | %s | %s | %s |\n", name, valueOf(f.Type, k), defaultOf(k), strings.ReplaceAll(k.Description, "|", `\|`)))
		if below != nil && !top {
			if k.Items != nil {
				k = *k.Items
			}
			r.rows(prefix+key+".", below, k, false)
		}
	}
}

func keyOf(f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return key
}

// mapping is the struct that a key holds, or many of; nil for a plain value.
func mapping(t reflect.Type) (of reflect.Type, many bool) {
	if t.Kind() == reflect.Slice {
		t, many = t.Elem(), true
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil, false
	}
	return t, many
}

// valueOf says what may be written for a key.
func valueOf(t reflect.Type, d described) string {
	if len(d.Enum) > 0 {
		return "`" + strings.Join(d.Enum, "` or `") + "`"
	}
	switch t {
	case reflect.TypeFor[policy.Duration]():
		return "duration"
	case reflect.TypeFor[policy.Share]():
		return "percentage"
	case reflect.TypeFor[policy.Bytes]():
		return "size"
	case reflect.TypeFor[policy.Steps]():
		return "`auto`, or list of percentages"
	case reflect.TypeFor[policy.Clump]():
		return "`auto`, or number"
	case reflect.TypeFor[policy.Edges]():
		return "`auto`, or list of durations"
	case reflect.TypeFor[policy.Hang]():
		return "`off`, or duration"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "`true` or `false`"
	case reflect.Slice:
		return "list"
	case reflect.Map, reflect.Struct, reflect.Pointer:
		return "mapping"
	default:
		return "number"
	}
}

func defaultOf(d described) string {
	switch v := d.Default.(type) {
	case nil:
		return ""
	case []any:
		return "`" + strings.ReplaceAll(fmt.Sprint(v), " ", ", ") + "`"
	case float64:
		if v >= 1<<32-1 {
			return "no limit"
		}
		return fmt.Sprintf("`%.10g`", v)
	default:
		return fmt.Sprintf("`%v`", v)
	}
}
