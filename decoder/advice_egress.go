// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"maps"
	"net/netip"
	"slices"
)

// egressAdvice is what waymark knows about replies that leave by a load balancer
// other than the one with the gateway.
var egressAdvice = []adviceRow{
	{
		question: "M39", functions: noRouteFunctions, when: otherHasGateway,
		because: "the reply was sent to {netns}, which has no external gateway ({passed} has no route to {dst}, and {rule} is a blackhole); {gatewayOf} has one, {gatewayBy}",
		advice:  "take {entrance} out of the next hops that {divider} divides replies between, or find out why table {passedTable} in {netns} is empty: its default route comes from the routing daemon (BGP, BFD), which has lost its gateway or is not running",
	},
}

// otherHasGateway: a reply fell into a load balancer's blackhole, and another load
// balancer would have had a way for it.
func otherHasGateway(f *dropFacts) bool {
	if !blackholeAfterEmptyTable(f) || !f.isVIP(f.src) {
		return false
	}
	v, _ := f.otherGateway()
	return v != nil
}

// otherGateway is another namespace that looks the packet up in the table that had
// no route here, and has one; the first by name.
func (f *dropFacts) otherGateway() (best *view, route *RouteResult) {
	r := f.lookup()
	if r == nil || len(r.Passed) == 0 {
		return nil, nil
	}
	table := r.Passed[len(r.Passed)-1].Table
	var name string
	for inode, v := range f.b.w.views {
		if inode == f.netns || v.routing == nil || !slices.ContainsFunc(v.routing.Rules, func(r Rule) bool { return r.Table == table }) {
			continue
		}
		res := v.routing.Lookup(f.query)
		if res.Uncertain || res.Type != "unicast" || res.Rule.Table != table {
			continue
		}
		if n, _ := f.b.w.netns(inode); best == nil || n < name {
			best, route, name = v, &res, n
		}
	}
	return best, route
}

// divider is a namespace with a route of several next hops, one of which is an
// address of the drop's device, and that address; the first by name.
func (f *dropFacts) divider() (name string, entrance netip.Addr) {
	if f.device == nil {
		return "", netip.Addr{}
	}
	for inode, v := range f.b.w.views {
		if inode == f.netns || v.routing == nil {
			continue
		}
		n, _ := f.b.w.netns(inode)
		if name != "" && n > name {
			continue
		}
		for i := range v.routing.Routes {
			if via := f.hopHere(&v.routing.Routes[i]); via.IsValid() {
				name, entrance = n, via
				break
			}
		}
	}
	return name, entrance
}

// hopHere is the next hop of a route with several that is an address of the drop's
// device, of the packet's family; invalid: none is.
func (f *dropFacts) hopHere(r *Route) netip.Addr {
	if len(r.Nexthops) < 2 {
		return netip.Addr{}
	}
	for _, hop := range r.Nexthops {
		if hop.Via.IsValid() && hop.Via.Is4() == f.dst.Is4() && slices.ContainsFunc(f.device.Addrs, func(p netip.Prefix) bool { return p.Addr() == hop.Via }) {
			return hop.Via
		}
	}
	return netip.Addr{}
}

// egressTexts are the facts that egressAdvice names.
var egressTexts = map[string]func(*dropFacts) string{
	"gatewayOf": func(f *dropFacts) string {
		v, _ := f.otherGateway()
		name, _ := f.b.w.netns(v.inode)
		return name
	},
	"gatewayBy": func(f *dropFacts) string {
		_, res := f.otherGateway()
		if len(res.Route.Nexthops) == 0 {
			return "by " + res.Rule.text()
		}
		return res.Route.Nexthops[0].text()
	},
	"entrance": func(f *dropFacts) string {
		if _, via := f.divider(); via.IsValid() {
			return via.String()
		}
		return f.drop.Netns
	},
	"divider": func(f *dropFacts) string {
		if name, _ := f.divider(); name != "" {
			return name
		}
		return "the proxy"
	},
}

func init() { maps.Copy(factTexts, egressTexts) }
