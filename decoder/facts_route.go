// SPDX-License-Identifier: Apache-2.0

// What routing says about a packet that was lost, and about an answer to it.

package decoder

import "net/netip"

// leavesBy are the device (and no bridge) that the packet was to leave by when it
// was lost, if it was; else none.
func (f *dropFacts) leavesBy() []string {
	if !unresolved(f) {
		return nil
	}
	return []string{f.drop.Dev, ""}
}

// lookup is what routing says about the packet; nil: no rules are known.
func (f *dropFacts) lookup() *RouteResult {
	if !f.routeSet && f.dst.IsValid() {
		f.routeSet = true
		from := f.e
		if f.sameNetns {
			from = f.prev
		}
		f.query, f.route = f.b.lookup(f.br, from, f.e, f.leavesBy())
	}
	return f.route
}

// nexthops are the addresses that the packet's route leads to by the drop's
// device; none if that is not known for sure.
func (f *dropFacts) nexthops() (via []netip.Addr) {
	r := f.lookup()
	if r == nil || r.Uncertain || r.Type != "unicast" {
		return nil
	}
	for _, n := range r.Route.Nexthops {
		if n.Via.IsValid() && n.Dev == f.drop.Dev {
			via = append(via, n.Via)
		}
	}
	return via
}

func (f *dropFacts) routing() *Routing {
	for _, r := range f.b.w.routings(f.view, f.netns) {
		return r
	}
	return nil
}

// forwarding is the namespace's setting for the packet's family: "0", "1", or
// empty if it is not known.
func (f *dropFacts) forwarding() string {
	family := "ipv4"
	if f.dst.Is6() {
		family = "ipv6"
	}
	paths := []string{"net/" + family + "/conf/all/forwarding"}
	if family == "ipv4" {
		if f.device != nil {
			paths = append([]string{"net/ipv4/conf/" + f.device.Name + "/forwarding"}, paths...)
		}
		paths = append(paths, "net/ipv4/ip_forward")
	}
	r := f.routing()
	for _, p := range paths {
		if v, ok := r.sysctl(p); ok {
			return v
		}
	}
	return ""
}

// rpFilter is the effective rp_filter at the device: the greater of "all" and
// the device's (Documentation/networking/ip-sysctl.rst).
func (f *dropFacts) rpFilter() string {
	value := func(conf string) string {
		if v, ok := f.sysctl("net.ipv4.conf." + conf + ".rp_filter"); ok {
			return v // read when the packet was lost
		}
		v, _ := f.routing().sysctl("net/ipv4/conf/" + conf + "/rp_filter")
		return v
	}
	dev := ""
	if f.device != nil {
		dev = value(f.device.Name)
	}
	return max(value("all"), dev)
}

// wayBack is how the namespace would answer the packet's source
// (fib_validate_source, net/ipv4/fib_frontend.c: the mark counts only with
// src_valid_mark).
func (f *dropFacts) wayBack() *RouteResult {
	r := f.routing()
	if r == nil || !f.src.IsValid() {
		return nil
	}
	res := r.Lookup(RouteQuery{Src: f.dst, Dst: f.src, IIF: "lo"})
	return &res
}

// reversePath tells a drop for its source address: named so or, where the
// kernel gives no name, found by doing the check again.
func (f *dropFacts) reversePath() bool {
	if f.drop.Reason == "IP_RPFILTER" {
		return true
	}
	if !f.dst.Is4() || !f.reasonIs(unnamed) || !f.functionIs([]string{"ip_rcv_finish*", "ip_route_input*"}) {
		return false
	}
	filter := f.rpFilter()
	back := f.wayBack()
	if filter == "" || filter == "0" || back == nil || back.Uncertain {
		return false
	}
	if back.Type != "unicast" {
		return true
	}
	return filter == "1" && f.device != nil && back.fits([]string{f.device.Name, ""}) != ""
}

// rulesForMark are the rules that select the packet's mark.
func (f *dropFacts) rulesForMark() []Rule {
	r := f.routing()
	if r == nil || f.rec.Mark == 0 {
		return nil
	}
	family := 4
	if f.dst.Is6() {
		family = 6
	}
	var rules []Rule
	for _, rule := range r.Rules {
		if rule.Family == family && rule.MarkMask != 0 && (rule.Mark^f.rec.Mark)&rule.MarkMask == 0 {
			rules = append(rules, rule)
		}
	}
	return rules
}
