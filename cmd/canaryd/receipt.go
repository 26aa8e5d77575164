package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/canaryd/canaryd/internal/controller"
	"github.com/canaryd/canaryd/internal/policy"
)

// receipts make what each release cost, and how long its steps took, of the entries of a history, which come in their order.
type receipts struct{ climbs map[string]*climb }

// climb are the steps that a version has taken.
type climb struct {
	since time.Time // of the present step
	steps []string
}

// of takes in an entry; where a test ended with it, it returns the receipt.
func (r *receipts) of(e controller.Entry) string {
	if r.climbs == nil {
		r.climbs = map[string]*climb{}
	}
	for version, w := range e.After {
		if r.climbs[version] == nil && e.Before[version] == 0 && w > 0 {
			r.climbs[version] = &climb{since: e.At}
		}
	}
	for version, c := range r.climbs {
		if was := e.Before[version]; was != e.After[version] && was > 0 {
			c.steps = append(c.steps, fmt.Sprintf("%s for %s", percent(float64(was)/policy.FullWeight), lasting(e.At.Sub(c.since))))
			c.since = e.At
		}
	}
	c := r.climbs[e.Version]
	if c != nil && e.Kind.Ends() || e.Receipt != nil {
		delete(r.climbs, e.Version)
	}
	if e.Receipt == nil {
		return ""
	}
	steps := "steps before the first entry shown"
	if c != nil && len(c.steps) > 0 {
		steps = strings.Join(c.steps, ", ")
	}
	x := e.Receipt
	return fmt.Sprintf("receipt of %s: under test for %s (%s); %.0f of its %.0f requests failed, %.0f more than at stable's rate; %s by %s",
		e.Version, lasting(e.At.Sub(x.Since)), steps, x.Errors, x.Requests, math.Round(x.Beyond), strings.ReplaceAll(string(e.Kind), "_", " "), e.By)
}
