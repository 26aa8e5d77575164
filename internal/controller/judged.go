package controller

// judged is the service of a name, where it is busy. Evidence of all of them mostly comes in one order: who came next the last time is
// looked at before it is looked for.
func (c *Controller) judged(name string) *unit {
	last := c.observedLast
	if last != nil && last.next != nil && last.next.noted && last.next.state.Policy.Service == name {
		c.observedLast = last.next
		return last.next
	}
	u := c.busy[name]
	if u == nil {
		return nil
	}
	if last != nil {
		last.next = u
	}
	c.observedLast = u
	return u
}
