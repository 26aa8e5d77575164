package policy

import (
	"fmt"
	"slices"
	"strings"
)

// CheckSet finds what is wrong with policies that are each right on their own: two policies for one
// service, one host in two services of a listener, "*" beside another service, and what their source of
// evidence cannot count. With an empty source, one that is not known, the last is not judged.
func CheckSet(docs []Document, source string) Findings {
	var fs Findings
	services := map[string]*Document{}
	hosts := map[string]*Document{}
	perListener := map[string][]*Document{}
	for i := range docs {
		d := &docs[i]
		c := &check{d: d}
		c.source(source)
		if first, ok := services[d.Policy.Service]; ok && d.Policy.Service != "" {
			c.fail("service", "service %s already has a policy at %s: keep one", d.Policy.Service, first.place("service"))
			fs = append(fs, c.fs...)
			continue
		}
		services[d.Policy.Service] = d
		if l := d.Policy.Route.Listener; l != "" {
			c.hosts(hosts)
			perListener[l] = append(perListener[l], d)
		}
		fs = append(fs, c.fs...)
	}
	for l, ds := range perListener {
		for _, d := range ds {
			if len(ds) > 1 && slices.Contains(d.Policy.Route.Domains, "*") {
				c := &check{d: d}
				c.fail("route.domains", "listener %s is shared with %s: \"*\" would take its requests; name the hosts", l, otherService(ds, d))
				fs = append(fs, c.fs...)
			}
		}
	}
	fs.Sort()
	return fs
}

// CheckBeside finds policies that would take requests away from services which have lost theirs, and go on with their
// last one.
func CheckBeside(docs []Document, kept []*Policy) Findings {
	var fs Findings
	for i := range docs {
		c := &check{d: &docs[i]}
		for _, k := range kept {
			c.beside(k)
		}
		fs = append(fs, c.fs...)
	}
	fs.Sort()
	return fs
}

func (c *check) beside(k *Policy) {
	r := &c.d.Policy.Route
	if r.Listener == "" || k.Route.Listener == "" || c.d.Policy.Service == k.Service {
		return
	}
	const how = "which has lost its policy and is served as before: keep its name; or take this policy out, reload, and `canaryd remove %s` first"
	for i, h := range r.Domains {
		switch {
		case r.Listener == k.Route.Listener && (h == "*" || slices.Contains(k.Route.Domains, "*")):
			c.fail(fmt.Sprintf("route.domains[%d]", i), "listener %s still belongs to service %s, "+how, r.Listener, k.Service, k.Service)
			return
		case h != "*" && slices.ContainsFunc(k.Route.Domains, func(o string) bool { return strings.EqualFold(o, h) }):
			c.fail(fmt.Sprintf("route.domains[%d]", i), "host %s still belongs to service %s, "+how, h, k.Service, k.Service)
		}
	}
}

func (c *check) hosts(taken map[string]*Document) {
	for i, h := range c.d.Policy.Route.Domains {
		key := strings.ToLower(h) // scopes of all listeners of an Envoy are one set
		if first, ok := taken[key]; ok && h != "*" {
			c.fail(fmt.Sprintf("route.domains[%d]", i), "host %s belongs to service %s already (%s)", h, first.Policy.Service, first.place("route.domains"))
			continue
		}
		taken[key] = c.d
	}
}

func otherService(ds []*Document, d *Document) string {
	for _, o := range ds {
		if o.Policy.Service != d.Policy.Service {
			return o.Policy.Service
		}
	}
	return d.Policy.Service
}
