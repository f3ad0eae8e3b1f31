// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"waymark/bpf"
)

// dropFacts is what the advice table may ask about one freed packet.
type dropFacts struct {
	b         *builder
	br        *branch
	e, prev   *event // the free; the packet's device record before it, if any
	rec       *bpf.Record
	drop      *Drop
	fn        string // function that freed it
	netns     uint32
	sameNetns bool // prev is in that namespace
	view      *view
	device    *Device
	src, dst  netip.Addr
	local     bool        // dst is an address of the namespace, and the packet had come in
	copies    int         // other packets of the journey
	lb        *LBDecision // the balancer's, if it was asked

	route    *RouteResult
	routeSet bool
	query    RouteQuery

	// How an answer would be routed, see answer.
	answerRoute   *RouteResult
	answerRouting *Routing // that says so
	answerSince   uint64   // boot clock ns; 0: not known
	answerSet     bool

	directed   bool    // directedBy is known
	directedBy []*view // directors with the packet's service
}

func (b *builder) facts(br *branch, e *event, d *Drop) *dropFacts {
	f := &dropFacts{b: b, br: br, e: e, prev: br.dev, rec: &e.rec, drop: d, fn: function(d.At), netns: e.rec.Netns, copies: len(b.branches) - 1}
	if f.netns == 0 && f.prev != nil {
		f.netns = f.prev.rec.Netns
	}
	f.sameNetns = f.prev != nil && f.prev.rec.Netns == f.netns
	if f.view = e.view; f.view == nil || b.w.views[f.netns] != nil {
		f.view = b.w.views[f.netns]
	}
	f.device = b.w.device(e.view, f.netns, e.rec.Ifindex)
	if f.device == nil && f.sameNetns {
		f.device = b.w.device(f.prev.view, f.netns, f.prev.rec.Ifindex)
	}
	f.src, f.dst = e.rec.SrcAddr(), e.rec.DstAddr()
	if !f.dst.IsValid() && f.prev != nil {
		f.src, f.dst = f.prev.rec.SrcAddr(), f.prev.rec.DstAddr()
	}
	if f.prev == nil || bpf.Hook(f.prev.rec.Hook) == bpf.HookTCIngress {
		for _, v := range b.w.viewsOf(e.view, f.netns) {
			f.local = f.local || v.local(f.dst)
		}
	}
	return f
}

func (f *dropFacts) reasonIs(names []string) bool { return slices.Contains(names, f.drop.Reason) }

// functionIs tells whether the freeing function is in names; "*" at the end of
// a name stands for anything.
func (f *dropFacts) functionIs(names []string) bool {
	for _, n := range names {
		if p, ok := strings.CutSuffix(n, "*"); ok && strings.HasPrefix(f.fn, p) || n == f.fn {
			return true
		}
	}
	return false
}

// Functions that free a packet at a verdict of its NFQUEUE (6.1 and 6.12+).
var verdictFunctions = []string{"nfqnl_reinject", "nf_reinject", "nfqnl_recv_verdict*"}

// Functions that free a packet during or after its routing.
var routingFunctions = []string{
	"ip_error", "ip_rcv_finish*", "ip_route_input*", "ip_forward*", "ip_output", "ip_finish_output*", "ip_mc_*",
	"ip6_pkt_discard*", "ip6_pkt_prohibit*", "ip6_pkt_drop", "ip6_rcv_finish*", "ip6_forward*", "ip6_output", "ip6_finish_output*",
	"dst_discard*", "__dev_queue_xmit", "neigh_*", "__neigh_*", "arp_*", "ndisc_*",
}

// filter is the chain that dropped the packet; empty if none is known.
func (f *dropFacts) filter() *NetfilterDetail {
	if d := f.droppedBy(); d != nil {
		return d
	}
	return &NetfilterDetail{}
}

func (f *dropFacts) inQueue() bool { return f.functionIs(verdictFunctions) }

// routed tells whether a routing decision belongs before the drop.
func (f *dropFacts) routed() bool {
	return f.drop.Reason != "IP_RPFILTER" && f.rec.IpVersion != 0 && f.functionIs(routingFunctions) &&
		f.prev != nil && bpf.Hook(f.prev.rec.Hook) == bpf.HookTCIngress && !f.reversePath()
}

// ipLen is the packet's length from the network header on.
func (f *dropFacts) ipLen() int {
	return int(describePacket(f.rec, f.b.o.snapshot(f.e)).Len)
}

// mtu is the device's, the smaller one if it changed about then; 0: not known.
func (f *dropFacts) mtu() (mtu int) {
	if f.device == nil {
		return 0
	}
	mtu = f.device.MTU
	for _, v := range f.b.w.viewsOf(f.e.view, f.netns) {
		if d := v.devices[f.device.Index]; d != nil && d.MTU > 0 {
			mtu = min(mtu, d.MTU)
		}
	}
	return mtu
}

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

// master is the bridge that the drop's device is a port of; nil if none is known.
func (f *dropFacts) master() *Device {
	if f.device == nil || f.device.Master == 0 {
		return nil
	}
	return f.b.w.device(f.view, f.netns, f.device.Master)
}

func (f *dropFacts) routing() *Routing {
	for _, r := range f.b.w.routings(f.view, f.netns) {
		return r
	}
	return nil
}

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
			for _, d := range v.balancer.Flows[i].Dests {
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
		}
	}
	return false
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

// fill replaces {name} in an advice text by the fact of that name.
func (f *dropFacts) fill(text string) string {
	if !strings.Contains(text, "{") {
		return text
	}
	b := f.b.w.scratch[:0]
	for {
		before, rest, ok := strings.Cut(text, "{")
		b = append(b, before...)
		if !ok {
			f.b.w.scratch = b
			return f.b.w.text(b)
		}
		name, after, _ := strings.Cut(rest, "}")
		if fact := factTexts[name]; fact != nil {
			b = append(b, fact(f)...)
		}
		text = after
	}
}

// factTexts are the facts advice texts can name.
var factTexts = map[string]func(*dropFacts) string{
	"netns":   func(f *dropFacts) string { return f.drop.Netns },
	"dev":     func(f *dropFacts) string { return f.drop.Dev },
	"src":     func(f *dropFacts) string { return f.src.String() },
	"dst":     func(f *dropFacts) string { return f.dst.String() },
	"to":      func(f *dropFacts) string { return protoName(f.rec.Proto) + " " + endpoint(f.dst, f.rec.DstPort()) },
	"proto":   func(f *dropFacts) string { return protoName(f.rec.Proto) },
	"mark":    func(f *dropFacts) string { return fmt.Sprintf("%#x", f.rec.Mark) },
	"reason":  func(f *dropFacts) string { return f.drop.Reason },
	"at":      func(f *dropFacts) string { return f.drop.At },
	"blocked": func(f *dropFacts) string { return f.br.blocked },
	"ttl":     func(f *dropFacts) string { return fmt.Sprint(f.rec.Ttl) },
	"mtu": func(f *dropFacts) string {
		if f.mtu() == 0 {
			return "its limit"
		}
		return fmt.Sprint(f.mtu())
	},
	"family": func(f *dropFacts) string {
		if f.dst.Is6() {
			return "ipv6"
		}
		return "ipv4"
	},
	"chain":       func(f *dropFacts) string { return f.filter().place() },
	"filterRule":  func(f *dropFacts) string { return f.filter().rule() },
	"filterTable": func(f *dropFacts) string { return f.filter().Table },
	"filterHook":  func(f *dropFacts) string { return f.filter().Hook },
	"rp":          func(f *dropFacts) string { return f.rpFilter() },
	"back": func(f *dropFacts) string {
		res := f.wayBack()
		switch {
		case res == nil:
			return "is not the way it came"
		case res.Type == "none":
			return "does not exist"
		case res.Type != "unicast":
			return "is " + res.Type
		}
		var hops []string
		for _, n := range res.Route.Nexthops {
			hops = append(hops, n.text())
		}
		return "goes " + strings.Join(hops, " or ")
	},
	"flow": func(f *dropFacts) string {
		if f.lb == nil || f.lb.Flow == "" {
			return "the flow"
		}
		return f.lb.Flow
	},
	"why": func(f *dropFacts) string {
		if f.lb == nil {
			return ""
		}
		return f.lb.Why
	},
	"owner": func(f *dropFacts) string {
		if d := f.br.socket; d.Process != "" {
			return fmt.Sprintf("%s[%d]", d.Process, d.PID)
		}
		return "the application"
	},
	"accept": func(f *dropFacts) string {
		return fmt.Sprintf("%d wait, the limit is %d", *f.br.socket.AcceptQueue, f.br.socket.AcceptLimit)
	},
	"buffer": func(f *dropFacts) string {
		return fmt.Sprintf("%d of %d bytes", *f.br.socket.ReceiveQueue, f.br.socket.ReceiveLimit)
	},
	"refusal": func(f *dropFacts) string { return f.br.answer.Why },
	"rule": func(f *dropFacts) string {
		if r := f.lookup(); r != nil && r.Found {
			return r.Rule.text()
		}
		return "a rule"
	},
	"hop": func(f *dropFacts) string {
		if via := f.nexthops(); len(via) == 1 {
			return "the next hop " + via[0].String()
		}
		return "the next hop"
	},
	"hops": func(f *dropFacts) string {
		var via []string
		for _, a := range f.nexthops() {
			via = append(via, a.String())
		}
		return strings.Join(via, ", ")
	},
	"bridge": func(f *dropFacts) string { return f.master().Name },
	"passed": func(f *dropFacts) string {
		r := f.lookup()
		if r == nil || len(r.Passed) == 0 {
			return "no rule"
		}
		return r.Passed[len(r.Passed)-1].text()
	},
	"passedTable": func(f *dropFacts) string {
		r := f.lookup()
		if r == nil || len(r.Passed) == 0 {
			return "the table"
		}
		return tableText(r.Passed[len(r.Passed)-1].Table)
	},
	"markTable": func(f *dropFacts) string {
		if rules := f.rulesForMark(); len(rules) > 0 {
			return tableText(rules[0].Table)
		}
		return fmt.Sprint(f.rec.Mark)
	},
	"ip": func(f *dropFacts) string {
		if f.dst.Is6() {
			return "ip -6"
		}
		return "ip"
	},
	"changedFlow": (*dropFacts).changedFlow,
	"lbMark":      func(f *dropFacts) string { return fmt.Sprintf("%#x", uint32(f.lb.Mark)) },
	"bare":        (*dropFacts).bareDevice,
	"ipVersion": func(f *dropFacts) string {
		if f.dst.Is6() {
			return "IPv6"
		}
		return "IPv4"
	},
	"answerTable": (*dropFacts).answerTable,
	"answerPassed": func(f *dropFacts) string {
		r := f.answer()
		return r.Passed[len(r.Passed)-1].text()
	},
	"answerRule": func(f *dropFacts) string { return f.answer().Rule.text() },
	"queue": func(f *dropFacts) string {
		if w := f.br.wait; w != nil {
			return fmt.Sprintf("queue %d", w.number)
		}
		return "the balancer's queue"
	},
	"queues": func(f *dropFacts) string {
		qs, _ := f.listeners()
		var n []string
		for _, q := range qs {
			n = append(n, fmt.Sprint(q.Number))
		}
		return strings.Join(n, ", ")
	},
}
