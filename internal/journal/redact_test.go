package journal

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/rollout"
)

const secretive = usual + "route: {probe: off, testers: {header: x-canary, key: SECRET}}\ndocker: {image: shop, port: 80, command: [serve, \"postgres://me:SECRET@db/shop\"], labels: {env: prod}, env: {PASSWORD: SECRET, KEY: {from_file: /run/key}, EMPTY: \"\"}}\n"

// with is a policy with a secret in each place where one may be.
func with(t *testing.T, secret string) rollout.PolicyChanged {
	t.Helper()
	d := document(t, strings.ReplaceAll(strings.Replace(secretive, "route: {probe: off}\n", "", 1), "SECRET", secret))
	return rollout.PolicyChanged{Policy: d.Policy, Hash: d.Hash, Secret: "s", By: "test"}
}

// A journal without the secrets of its policies has the same events, and says that it is redacted; one that never had any
// stays as it is.
func TestAJournalWithoutItsSecrets(t *testing.T) {
	at := time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC)
	first, changed := with(t, "hunter2"), with(t, "hunter3")
	first.At, changed.At = at, at.Add(time.Second)
	s, _, err := rollout.Step(rollout.State{}, first)
	if err != nil {
		t.Fatal(err)
	}
	w := Begin(1, Header{Service: "shop", At: at, Why: Began}, s)
	events := append(odd(partFormat), changed, rollout.Tick{At: at.Add(2 * time.Hour)}, first)
	for i, e := range events {
		w.Took(e, []rollout.Record{{At: at, Service: "shop", Kind: rollout.KindHeld, Reason: fmt.Sprint(i)}})
	}
	raw, err := w.Cut(Point{At: at, Stable: "v1"}, true).Encode()
	if err != nil {
		t.Fatal(err)
	}
	packed, err := Pack([][]byte{raw})
	if err != nil {
		t.Fatal(err)
	}
	rd, err := NewReader()
	if err != nil {
		t.Fatal(err)
	}
	instead := func(secret string) string { return fmt.Sprint("•", len(secret), secret[len(secret)-1:]) }
	for _, parts := range [][][]byte{{raw}, {packed}} {
		out, err := rd.Redacted(parts, instead)
		if err != nil {
			t.Fatal(err)
		}
		if all := bytes.Join(out, nil); bytes.Contains(all, []byte("hunter")) || !bytes.Contains(all, []byte("/run/key")) {
			t.Errorf("%q", all)
		}
		was, err1 := rd.Read(parts)
		is, err2 := rd.Read(out)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if !is.Redacted || was.Redacted || len(is.Events) != len(events) || !reflect.DeepEqual(is.Records, was.Records) || !reflect.DeepEqual(is.Points, was.Points) {
			t.Errorf("%+v, %d events", is.Header, len(is.Events))
		}
		for i, e := range was.Events {
			if p, ok := e.(rollout.PolicyChanged); ok {
				if p.Policy, _, err = p.Policy.Without(instead); err != nil {
					t.Fatal(err)
				}
				e = p
			}
			if !reflect.DeepEqual(is.Events[i], e) {
				t.Errorf("%d: is   %+v\nwant %+v", i, is.Events[i], e)
			}
		}
		env := is.State.Policy.Docker.Env
		if env["PASSWORD"].Value != "•72" || env["EMPTY"].Value != "" || env["KEY"].FromFile != "/run/key" || is.State.Policy.Route.Testers.Key != "•72" || is.State.Policy.Docker.Labels["env"] != "prod" {
			t.Errorf("%+v", is.State.Policy)
		}
		out[0][len(out[0])/2] ^= 1
		if _, err := rd.Redacted(out, instead); err == nil {
			t.Error("what cannot be read was redacted")
		}
	}
	for format := firstPart; format <= partFormat; format++ {
		parts, _ := oddParts(t, format)
		if out, err := rd.Redacted(parts, instead); err != nil || !reflect.DeepEqual(out, parts) {
			t.Errorf("a journal without secrets was changed: %v", err)
		}
	}
}
