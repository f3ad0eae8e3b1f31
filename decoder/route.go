// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"fmt"
	"net/netip"
	"strings"
)

// Routing tables with a fixed number (include/uapi/linux/rtnetlink.h).
const (
	tableDefault = 253
	tableMain    = 254
	tableLocal   = 255
)

// RouteQuery is one lookup, as the kernel does it for a packet (struct flowi4
// and flowi6).
type RouteQuery struct {
	Src, Dst netip.Addr
	Mark     uint32
	IIF      string // device the packet came in by; "lo" for packets the host sends
	OIF      string // device a socket is bound to; empty: none
}

// RouteResult is what policy routing says.
type RouteResult struct {
	Found     bool
	Rule      Rule   // that led to the route; set if Found
	Route     Route  // set if Found and the rule's action is lookup
	Type      string // unicast, local, blackhole, unreachable, prohibit, ...; "none": no route
	Passed    []Rule // rules that matched but whose table had no route for the packet, default rules left out
	Uncertain bool   // a rule on the way has selectors that are not evaluated
}

// defaultRules hold in a namespace whose rules are not known for a family.
func defaultRules(family int) []Rule {
	return []Rule{
		{Family: family, Priority: 0, Table: tableLocal, Action: "lookup"},
		{Family: family, Priority: 32766, Table: tableMain, Action: "lookup"},
		{Family: family, Priority: 32767, Table: tableDefault, Action: "lookup"},
	}
}

// Lookup walks the rules in priority order; the first whose table has a route
// decides (net/core/fib_rules.c). Rules must be sorted by priority within a
// family, as the kernel lists them.
func (r *Routing) Lookup(q RouteQuery) RouteResult {
	family := 4
	if q.Dst.Is6() && !q.Dst.Is4In6() {
		family = 6
	}
	res := RouteResult{Type: "none"}
	known := false
	for i := range r.Rules {
		if r.Rules[i].Family != family {
			continue
		}
		known = true
		if r.try(&r.Rules[i], q, &res) {
			return res
		}
	}
	if known {
		return res
	}
	for _, rule := range defaultRules(family) {
		if r.try(&rule, q, &res) {
			return res
		}
	}
	return res
}

// try applies one rule; true: it decided.
func (r *Routing) try(rule *Rule, q RouteQuery, res *RouteResult) bool {
	if rule.matches(q) == rule.Invert {
		return false
	}
	if rule.Unknown {
		// It may or may not match: go on as if it did not, and say so.
		res.Uncertain = true
		return false
	}
	switch rule.Action {
	case "lookup", "":
	case "blackhole", "unreachable", "prohibit":
		res.Found, res.Rule, res.Type = true, *rule, rule.Action
		return true
	default: // goto, nop
		res.Uncertain = true
		return false
	}
	best := r.longest(rule.Family, rule.Table, q.Dst)
	if best == nil || best.Type == "throw" {
		if rule.Table < tableDefault || rule.Table > tableLocal {
			res.Passed = append(res.Passed, *rule)
		}
		return false
	}
	res.Found, res.Rule, res.Route, res.Type = true, *rule, *best, best.Type
	if res.Type == "" {
		res.Type = "unicast"
	}
	return true
}

// matches tells whether the selectors fit, before Invert is applied.
func (rule *Rule) matches(q RouteQuery) bool {
	switch {
	case rule.Src.IsValid() && rule.Src.Bits() > 0 && !rule.Src.Contains(q.Src),
		rule.Dst.IsValid() && rule.Dst.Bits() > 0 && !rule.Dst.Contains(q.Dst),
		rule.IIF != "" && rule.IIF != q.IIF,
		rule.OIF != "" && rule.OIF != q.OIF,
		(q.Mark^rule.Mark)&rule.MarkMask != 0:
		return false
	}
	return true
}

// longest is the route with the longest prefix, then the lowest metric, then
// the first listed; nil if the table has none.
func (r *Routing) longest(family, table int, dst netip.Addr) *Route {
	var best *Route
	for i := range r.Routes {
		c := &r.Routes[i]
		if c.Table != table || c.Family != family || !c.Dst.Contains(dst) {
			continue
		}
		if best == nil || c.Dst.Bits() > best.Dst.Bits() || c.Dst.Bits() == best.Dst.Bits() && c.Metric < best.Metric {
			best = c
		}
	}
	return best
}

// nexthop picks the one the packet took: the only one, or the only one that
// goes by dev (or by the address hop, if that is known from the frame's
// destination). ok is false if several fit or none does.
func (res *RouteResult) nexthop(devs []string, fits func(netip.Addr) bool) (nh Nexthop, ok bool) {
	var byDev, byMAC []Nexthop
	for _, n := range res.Route.Nexthops {
		for _, d := range devs {
			if d == "" || n.Dev != d {
				continue
			}
			byDev = append(byDev, n)
			if fits != nil && n.Via.IsValid() && fits(n.Via) {
				byMAC = append(byMAC, n)
			}
			break
		}
	}
	switch {
	case len(res.Route.Nexthops) == 1:
		return res.Route.Nexthops[0], true
	case len(byDev) == 1:
		return byDev[0], true
	case len(byMAC) == 1:
		return byMAC[0], true
	}
	return Nexthop{}, false
}

// selectors are a rule's conditions as `ip rule` writes them.
func (rule *Rule) selectors() string {
	var b strings.Builder
	if rule.Invert {
		b.WriteString(" not")
	}
	if rule.Src.IsValid() && rule.Src.Bits() > 0 {
		b.WriteString(" from " + prefixText(rule.Src))
	}
	if rule.Dst.IsValid() && rule.Dst.Bits() > 0 {
		b.WriteString(" to " + prefixText(rule.Dst))
	}
	if rule.MarkMask != 0 {
		b.WriteString(" fwmark " + markMask(rule.Mark, rule.MarkMask))
	}
	if rule.IIF != "" {
		b.WriteString(" iif " + rule.IIF)
	}
	if rule.OIF != "" {
		b.WriteString(" oif " + rule.OIF)
	}
	return strings.TrimPrefix(b.String(), " ")
}

// text is "rule 99 fwmark 0x13b8 → table 5048".
func (rule *Rule) text() string {
	s := fmt.Sprintf("rule %d", rule.Priority)
	if sel := rule.selectors(); sel != "" {
		s += " " + sel
	}
	if rule.Action != "lookup" && rule.Action != "" {
		return s + " → " + rule.Action
	}
	return fmt.Sprintf("%s → table %s", s, tableText(rule.Table))
}

func tableText(t int) string {
	switch t {
	case tableLocal:
		return "local"
	case tableMain:
		return "main"
	case tableDefault:
		return "default"
	}
	return fmt.Sprint(t)
}

// prefixText leaves out the length of a host prefix.
func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func markMask(mark, mask uint32) string {
	if mask == ^uint32(0) {
		return fmt.Sprintf("%#x", mark)
	}
	return fmt.Sprintf("%#x/%#x", mark, mask)
}

func (n Nexthop) text() string {
	switch {
	case n.Via.IsValid() && n.Dev != "":
		return "via " + n.Via.String() + " dev " + n.Dev
	case n.Via.IsValid():
		return "via " + n.Via.String()
	}
	return "dev " + n.Dev
}
