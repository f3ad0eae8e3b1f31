// SPDX-License-Identifier: Apache-2.0

// What balancers have to do with a packet that was lost: their flows, queues and
// devices.

package decoder

import (
	"net/netip"
	"slices"
	"strings"
)

func (f *dropFacts) balancer() *Balancer {
	for _, b := range f.b.w.balancers(f.view, f.netns) {
		return b
	}
	return nil
}

// changedFlow is the flow of the balancer that took the packet before the
// balancer's state last changed, and does not now.
func (f *dropFacts) changedFlow() string {
	from := f.e
	if f.sameNetns {
		from = f.prev
	}
	states := f.b.w.balancers(f.view, f.netns)
	if f.b.s.opt.LB == nil || len(states) < 2 {
		return ""
	}
	for _, before := range states[1:] {
		d := f.b.decide(before, from)
		if d.Accept && slices.ContainsFunc(states[0].Flows, func(flow BalancerFlow) bool { return flow.Name == d.Flow }) {
			return d.Flow
		}
	}
	return ""
}

// bareDevice is NETNS/DEV of a load balancer's device that is up, but has no
// address of the packet's family that is good beyond its link; empty: there is none.
func (f *dropFacts) bareDevice() string {
	var bare []string
	for inode, v := range f.b.w.views {
		if v.balancer == nil {
			continue
		}
		for _, d := range v.devices {
			if !d.Up || d.Name == "lo" || d.MAC == "" || d.Master != 0 || slices.ContainsFunc(d.Addrs, func(p netip.Prefix) bool {
				return p.Addr().Is4() == f.dst.Is4() && (p.Addr().Is4() || !p.Addr().IsLinkLocalUnicast())
			}) {
				continue
			}
			netns, _ := f.b.w.netns(inode)
			bare = append(bare, place(netns, d.Name))
		}
	}
	if len(bare) == 0 {
		return ""
	}
	return slices.Min(bare)
}

// isVIP tells whether some balancer has a flow for the address.
func (f *dropFacts) isVIP(a netip.Addr) bool {
	if !a.IsValid() {
		return false
	}
	for _, v := range f.b.w.views {
		if v.balancer == nil {
			continue
		}
		for i := range v.balancer.Flows {
			if named(v.balancer.Flows[i].Dests, a) {
				return true
			}
		}
	}
	return false
}

// named tells whether a flow's list of addresses names a: one or a prefix that has it,
// but for that of all addresses.
func named(list []string, a netip.Addr) bool {
	for _, d := range list {
		p, err := netip.ParsePrefix(d)
		if one, e := netip.ParseAddr(d); err != nil && e == nil {
			p = netip.PrefixFrom(one, one.BitLen())
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 { // as nfqlb lists IPv4
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if p.Bits() > 0 && p.Contains(a) {
			return true
		}
	}
	return false
}

// nearFlow is a flow of the balancer that names the packet's destination and would
// take it but for the port; nil: there is none. Whether the flow is an old one or the
// client asks for a wrong port, the balancer does not know.
func (f *dropFacts) nearFlow() *BalancerFlow {
	b := f.balancer()
	if b == nil {
		return nil
	}
	for i := range b.Flows {
		flow := &b.Flows[i]
		if len(flow.DPorts) == 0 || len(flow.SPorts)+len(flow.Match)+len(flow.Srcs) > 0 || inRanges(flow.DPorts, f.rec.DstPort()) {
			continue
		}
		if (len(flow.Protocols) == 0 || slices.Contains(flow.Protocols, protoName(f.rec.Proto))) && named(flow.Dests, f.dst) {
			return flow
		}
	}
	return nil
}

// inRanges tells whether a flow's list of ports, such as "5000-5003", has port.
func inRanges(list []string, port uint16) bool {
	return slices.ContainsFunc(list, func(r string) bool {
		first, last, ok := strings.Cut(r, "-")
		if !ok {
			last = first
		}
		return number(first) <= int(port) && int(port) <= number(last)
	})
}

// listeners are the NFQUEUE numbers somebody listens on; known is false if the
// stream does not tell.
func (f *dropFacts) listeners() (queues []Queue, known bool) {
	for _, v := range []*view{f.b.w.views[f.netns], f.view} {
		if v != nil && v.queues != nil {
			return v.queues.Queues, true
		}
	}
	return nil, false
}
