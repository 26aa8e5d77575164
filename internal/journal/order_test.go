package journal

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/canaryd/canaryd/internal/analysis"
	"github.com/canaryd/canaryd/internal/rollout"
)

// What is left out of a cell is what the last one of the same proxy said, in whatever order the proxies are told of.
func TestProxiesAreToldOfInAnyOrder(t *testing.T) {
	at := time.Date(2026, 3, 29, 1, 59, 59, 0, time.UTC)
	d := document(t, usual)
	state, _, err := rollout.Step(rollout.State{}, rollout.PolicyChanged{At: at, Policy: d.Policy, Hash: d.Hash, Secret: "s", By: "test"})
	if err != nil {
		t.Fatal(err)
	}
	w := Begin(1, Header{Service: "shop", At: at, Why: Began}, state)
	var events []rollout.Event
	for i, order := range []string{"abc", "abc", "cab", "b", "bd", "dbca", "aab", "", "abcd", "abcd"} {
		now := at.Add(time.Duration(i) * time.Second)
		cells := []rollout.Cell{}
		for _, proxy := range order {
			cells = append(cells, rollout.Cell{Slice: string(proxy), From: now.Add(-time.Second), To: now, HasSince: at.Add(-time.Duration(proxy) * time.Second),
				Has: []rollout.Run{{Version: fmt.Sprint("v", string(proxy)), Count: 10000}}, Counts: map[string]analysis.Counts{"v1": {Requests: float64(i)}}})
		}
		e := rollout.Observed{At: now, Batch: time.Second, Cells: cells}
		w.Took(e, nil)
		events = append(events, e)
	}
	raw, err := w.Cut(Point{At: at}, true).Encode()
	if err != nil {
		t.Fatal(err)
	}
	rd, err := NewReader()
	if err != nil {
		t.Fatal(err)
	}
	c, err := rd.Read([][]byte{raw})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c.Events, events) {
		t.Errorf("written %+v\nread    %+v", events, c.Events)
	}
}
