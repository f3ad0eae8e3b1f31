// SPDX-License-Identifier: Apache-2.0

// What the advice table may ask about a packet that was lost: who freed it and where.

package decoder

import (
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

// master is the bridge that the drop's device is a port of; nil if none is known.
func (f *dropFacts) master() *Device {
	if f.device == nil || f.device.Master == 0 {
		return nil
	}
	return f.b.w.device(f.view, f.netns, f.device.Master)
}
