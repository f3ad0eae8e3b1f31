// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"waymark/bpf"
)

// lbHop adds what the balancer of prev's namespace decided about the packet
// that came in at prev, checked against the mark it had at e (or against its
// drop by the queue's verdict). nil: there is no balancer or nothing to say.
func (b *builder) lbHop(br *branch, prev, e *event, dropped bool) *LBDecision {
	if b.s.opt.LB == nil || prev.rec.IpVersion == 0 || b.around(prev) {
		return nil
	}
	var bal *Balancer
	var d LBDecision
	for _, state := range b.w.balancers(prev.view, prev.rec.Netns) {
		c := b.decide(state, prev)
		b.w.withoutHash(state, &c, e.rec.Mark)
		agrees := lbAgrees(&c, e.rec.Mark, dropped)
		if bal == nil || agrees {
			bal, d = state, c
		}
		if agrees {
			break
		}
	}
	if bal == nil {
		return nil
	}
	// A later fragment alone does not tell what the balancer saw, and any
	// fragment can be another's in a tier, whose table is not recorded.
	unsure := laterFragment(&prev.rec) || bal.Tier != "" && firstFragment(&prev.rec)
	if unsure && !lbAgrees(&d, e.rec.Mark, dropped) {
		return nil
	}
	h := b.hop(br, e, GroupLB, "decide")
	h.Netns, h.Pod = b.w.netns(prev.rec.Netns)
	h.Verdict = "accept"
	if !d.Accept {
		h.Verdict = "drop"
	}
	h.Detail = b.w.lbDetail(bal, &d, e.rec.Mark, dropped)
	if mark := e.rec.Mark; !dropped {
		h.Mark = &mark
		if was := br.mark; was != mark {
			h.markWas = &was
		}
	}
	br.mark = e.rec.Mark
	b.insert(br, h)
	return &d
}

// refusal is why a balancer of e's namespace drops the packet that was freed at e,
// of which nothing else was seen; nil: none does, as far as is known.
func (b *builder) refusal(e *event) *LBDecision {
	if b.s.opt.LB == nil || e.rec.IpVersion == 0 || firstFragment(&e.rec) || laterFragment(&e.rec) {
		return nil
	}
	for _, state := range b.w.balancers(e.view, e.rec.Netns) {
		if d := b.decide(state, e); !d.Accept {
			return &d
		}
	}
	return nil
}

// markedOnEntry explains a mark the packet had at the first record in its
// namespace: a balancer in the device's TC hook comes before waymark's. Only
// agreement is shown, the mark may be somebody else's.
func (b *builder) markedOnEntry(br *branch, e *event) {
	if b.s.opt.LB == nil || e.rec.IpVersion == 0 {
		return
	}
	for _, state := range b.w.balancers(e.view, e.rec.Netns) {
		d := b.decide(state, e)
		b.w.withoutHash(state, &d, e.rec.Mark)
		if !lbAgrees(&d, e.rec.Mark, false) {
			continue
		}
		h := b.hop(br, e, GroupLB, "decide")
		h.Verdict, h.Detail = "accept", b.w.lbDetail(state, &d, e.rec.Mark, false)
		mark := e.rec.Mark
		h.Mark = &mark
		b.j.Hops = append(b.j.Hops, h)
		return
	}
}

func lbAgrees(d *LBDecision, mark uint32, dropped bool) bool {
	if dropped {
		return !d.Accept
	}
	return d.Accept && uint32(d.Mark) == mark
}

// withoutHash makes of a decision about other addresses, whose hash is another,
// that about the real ones: the target is the one that the mark says.
func (w *world) withoutHash(bal *Balancer, d *LBDecision, mark uint32) {
	if !w.session.Anonymized || d.Flow == "" || !d.Accept || uint32(d.Mark) == mark {
		return
	}
	if i := bal.targetOf(d.Flow, mark); i >= 0 {
		d.Target, d.Mark = i, int(mark)
	}
}

// targetOf is the index of the target of a flow that gives mark; -1: none does.
func (b *Balancer) targetOf(flow string, mark uint32) int {
	for i := range b.Flows {
		if b.Flows[i].Name != flow {
			continue
		}
		for _, t := range b.Tables {
			if t.Name == b.Flows[i].Target {
				return slices.IndexFunc(t.Active, func(m int) bool { return m >= 0 && uint32(m) == mark })
			}
		}
	}
	return -1
}

func (w *world) lbDetail(bal *Balancer, d *LBDecision, mark uint32, dropped bool) *LBDetail {
	x := &LBDetail{Balancer: bal.Name, Flow: d.Flow, Why: d.Why}
	if d.Flow != "" {
		if !w.session.Anonymized {
			hash, index := d.Hash, d.Index
			x.Hash, x.Index = &hash, &index
		}
		if d.Accept {
			target := d.Target
			x.Target = &target
		}
	}
	switch {
	case w.session.Anonymized && d.Accept && (dropped || uint32(d.Mark) != mark):
		x.Target = nil // not known without the hash
		x.Contradiction = fmt.Sprintf("by its state it accepts with a mark of flow %s's, but the packet went on with mark %#x", d.Flow, mark)
		if dropped {
			x.Contradiction = "by its state it accepts, but the packet was dropped"
		}
	case dropped && d.Accept:
		x.Contradiction = fmt.Sprintf("by its state it accepts with mark %#x, but the packet was dropped", uint32(d.Mark))
	case !dropped && !d.Accept:
		x.Contradiction = fmt.Sprintf("by its state it drops the packet, but that went on with mark %#x", mark)
	case !dropped && uint32(d.Mark) != mark:
		x.Contradiction = fmt.Sprintf("by its state the mark is %#x, but the packet had %#x", uint32(d.Mark), mark)
	}
	return x
}

// decide recomputes the decision about the packet of e. Of a fragment it is
// the one about the whole packet, which the kernel puts together before the
// queue, as long as the first fragment was seen.
func (b *builder) decide(bal *Balancer, e *event) LBDecision {
	p := lbPacket(&e.rec)
	p.L3 = networkHeader(&e.rec, b.o.snapshot(e))
	if p.FragFirst || p.FragLater {
		if whole, ok := b.s.frags.first[keyOfFragment(&e.rec)]; ok {
			p = whole
		}
	}
	return b.s.opt.LB.Decide(bal, &p)
}

// routeHop adds how the packet that came in at prev was routed on its way to e,
// an egress or a drop: the mark is the one it had then, after any balancer. devs
// are as in lookup.
func (b *builder) routeHop(br *branch, prev, e *event, devs []string) {
	out := bpf.Hook(e.rec.Hook) == bpf.HookTCEgress
	_, res := b.lookup(br, prev, e, devs)
	if res == nil {
		return
	}
	h := b.hop(br, e, GroupRoute, "fib")
	d := b.routeDetail(res, e, devs, out)
	h.Detail = d
	if d.Type != "" && d.Type != "local" {
		h.Verdict = d.Type
	}
	b.insert(br, h)
}

// lookup asks the rule sets that may have held for the first answer that fits
// what happened: leaving by one of devs or, without devs, a drop. If none fits,
// it is the likeliest set's answer; nil: no rules are known.
func (b *builder) lookup(br *branch, prev, e *event, devs []string) (RouteQuery, *RouteResult) {
	q := b.query(br, prev, e)
	var first *RouteResult
	for _, r := range b.w.routings(e.view, prev.rec.Netns) {
		res := r.Lookup(q)
		fits := res.Type != "unicast" && res.Type != "local"
		if len(devs) > 0 {
			fits = res.fits(devs) == ""
		}
		if fits {
			return q, &res
		}
		if first == nil {
			first = &res
		}
	}
	return q, first
}

// query is the lookup the kernel does for a packet from prev, with the mark and
// destination of e. A bridge's port hands the packet up to the bridge. IPVS
// asks by itself.
func (b *builder) query(br *branch, prev, e *event) RouteQuery {
	if br.ipvs != nil {
		q := *br.ipvs
		q.Mark = e.rec.Mark
		return q
	}
	around := b.around(e)
	if around && !b.around(prev) { // the host sends what is around the packet
		return RouteQuery{Src: e.rec.SrcAddr(), Dst: e.rec.DstAddr(), Mark: e.rec.Mark, IIF: "lo"}
	}
	q := RouteQuery{Src: prev.rec.SrcAddr(), Dst: e.rec.DstAddr(), Mark: e.rec.Mark}
	if b.wrapped(prev, e) {
		q.Src = e.rec.SrcAddr()
	}
	if !q.Dst.IsValid() || bpf.Hook(e.rec.Hook) == bpf.HookKfreeSkb {
		q.Dst = prev.rec.DstAddr()
		if br.seen && br.last.dst.IsValid() && !around { // NAT may have changed it since
			q.Dst = br.last.dst
		}
	}
	q.IIF = b.w.deviceName(prev.view, prev.rec.Netns, prev.rec.Ifindex)
	if m := b.master(prev); m != "" {
		q.IIF = m
	}
	return q
}

func (b *builder) routeDetail(res *RouteResult, e *event, devs []string, out bool) *RouteDetail {
	d := &RouteDetail{Uncertain: res.Uncertain}
	for i := range res.Passed {
		d.Passed = append(d.Passed, res.Passed[i].text()+": no route")
	}
	if res.Type != "unicast" {
		d.Type = res.Type
	}
	if res.Found {
		prio := res.Rule.Priority
		d.Rule, d.Table, d.IIF = &prio, res.Rule.Table, res.Rule.IIF
		if res.Rule.MarkMask != 0 {
			d.FwMark = markMask(res.Rule.Mark, res.Rule.MarkMask)
		}
		if p := res.Rule.Src; p.IsValid() && p.Bits() > 0 {
			d.From = p
		}
		if p := res.Rule.Dst; p.IsValid() && p.Bits() > 0 {
			d.To = p
		}
	}
	var egressMAC string
	if out {
		egressMAC = b.destinationMAC(e)
	}
	if nh, ok := res.nexthop(devs, func(via netip.Addr) bool { return b.w.macHas(egressMAC, via) }); ok {
		d.Nexthop, d.Dev = nh.Via, nh.Dev
	} else {
		for _, n := range res.Route.Nexthops {
			d.Nexthops = append(d.Nexthops, n.text())
		}
	}
	if out {
		d.Contradiction = res.fits(devs)
	}
	return d
}

// fits compares the answer with the device the packet left by (devs[0], or its
// bridge devs[1]); empty: no contradiction.
func (res *RouteResult) fits(devs []string) string {
	if res.Type != "unicast" {
		return fmt.Sprintf("by the rules it is %s, but the packet left by %s", typeWords(res.Type), devs[0])
	}
	var other string
	for _, n := range res.Route.Nexthops {
		if n.Dev == "" || n.Dev == devs[0] || n.Dev == devs[1] {
			return ""
		}
		other = n.Dev
	}
	if other == "" {
		return ""
	}
	return fmt.Sprintf("by the rules it leaves by %s, but it left by %s", other, devs[0])
}

func typeWords(t string) string {
	if t == "none" {
		return "unroutable"
	}
	return t
}

// destinationMAC is the Ethernet destination of e's frame; empty if unknown.
func (b *builder) destinationMAC(e *event) string {
	snap := b.o.snapshot(e)
	if e.rec.Flags&bpf.FlagL3 != 0 || len(snap) < 14 || binary.BigEndian.Uint16(snap) == 0 && binary.BigEndian.Uint32(snap[2:]) == 0 {
		return ""
	}
	return net.HardwareAddr(snap[:6]).String()
}

// macHas tells whether the device with that MAC has the address.
func (w *world) macHas(mac string, a netip.Addr) bool {
	d := w.macs[strings.ToLower(mac)]
	if d == nil {
		return false
	}
	for _, p := range d.Addrs {
		if p.Addr() == a {
			return true
		}
	}
	return false
}
