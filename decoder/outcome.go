// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"slices"

	"waymark/bpf"
)

// fateRow says that a packet freed through the kernel's drop path was not lost.
type fateRow struct {
	reasons   []string // any of; empty: any reason
	functions []string // any of, "*" at the end: prefix; empty: any function
	local     bool     // only if the packet had reached a namespace that has its destination
	when      func(*dropFacts) bool
	outcome   Outcome // of the branch; empty: says nothing about the packet
	why       string
	hide      bool // no hop: it tells nobody anything
}

// unnamed is the reason of code that gives none. On 6.1 the number has no name
// of its own in some builds.
var unnamed = []string{"NOT_SPECIFIED", "NOT_DROPPED_YET"}

// fates are the drops that are none, first match wins. Sources:
// include/net/dropreason-core.h for the meaning of the reasons, and the
// functions named.
var fates = []fateRow{
	{
		functions: []string{"nfqnl_enqueue_packet", "__nfqnl_enqueue_packet", "nf_queue", "__skb_gso_segment"},
		reasons:   unnamed, when: (*dropFacts).segmented,
		outcome: Consumed, why: "cut into segments for the queue, which travel on as packets of their own",
	},
	{functions: []string{"skb_release_data"}, reasons: unnamed, outcome: Consumed, why: "a part of a packet that was put together, and freed with it", hide: true},
	{reasons: []string{"NOT_DROPPED_YET", "CONSUMED"}, local: true, outcome: Delivered, why: "processed to the end", hide: true},
	{reasons: []string{"NOT_DROPPED_YET", "CONSUMED"}, outcome: Consumed, why: "processed to the end", hide: true},
	{reasons: []string{"SOCKET_CLOSE"}, outcome: Delivered, why: "was in the socket's queue when the socket was closed"},
	{reasons: []string{"QUEUE_PURGE"}, local: true, outcome: Delivered, why: "was in the socket's queue when the socket was closed"},
	{
		functions: []string{"skb_queue_purge*", "__skb_queue_purge*", "skb_rbtree_purge", "inet_sock_destruct", "sk_stream_kill_queues", "tcp_disconnect", "tcp_write_queue_purge"},
		reasons:   unnamed, local: true, outcome: Delivered, why: "was in the socket's queue when the socket was closed",
	},
	{reasons: []string{"QUEUE_PURGE"}, when: (*dropFacts).framed, outcome: Consumed, why: "a copy for a packet socket, which was closed"},
	{functions: []string{"skb_queue_purge*", "__skb_queue_purge*"}, reasons: unnamed, when: (*dropFacts).framed, outcome: Consumed, why: "a copy for a packet socket, which was closed"},
	{reasons: []string{"TCP_OLD_ACK", "TCP_TOO_OLD_ACK", "TCP_RFC7323_PAWS_ACK"}, outcome: Delivered, why: "an old acknowledgement: the socket knew more already"},
	{reasons: []string{"TCP_OLD_DATA", "TCP_OLD_SEQUENCE", "TCP_OFOMERGE"}, outcome: Delivered, why: "a repetition: the socket had the data already"},
	{reasons: []string{"TCP_INVALID_SYN"}, local: true, when: (*dropFacts).synAck, outcome: Delivered, why: "a repetition: the connection was open already"},
	{reasons: []string{"TCP_RESET"}, outcome: Delivered, why: "a reset: the socket has acted on it"},
	// The acknowledgement that ends LAST_ACK, and what TIME_WAIT swallows
	// (net/ipv4/tcp_input.c, tcp_ipv4.c: "goto discard" after the work is done).
	{reasons: unnamed, functions: []string{"tcp_rcv_state_process", "tcp_v4_rcv", "tcp_v6_rcv"}, local: true, when: (*dropFacts).accepted, outcome: Delivered, why: "the last of its connection: the socket has acted on it and is gone"},
	{reasons: []string{"NO_SOCKET", "NOT_SPECIFIED"}, functions: []string{"icmp_rcv", "icmpv6_rcv", "ping_rcv", "raw_rcv*", "rawv6_rcv*"}, local: true, outcome: Delivered, why: "the kernel has answered it or handed a copy to a socket"},
	{reasons: unnamed, functions: []string{"ip6_mc_input", "ip_mr_input", "ip_local_deliver*", "ip_rcv_finish*"}, when: (*dropFacts).multicast, outcome: Consumed, why: "multicast that nobody here has joined"},
	{reasons: []string{"OTHERHOST"}, when: (*dropFacts).forSomebodyElse, why: "a flooded copy for somebody else"},
}

// fateOf finds the row that says f is no loss; nil: it is one.
func fateOf(f *dropFacts) *fateRow {
	for i := range fates {
		r := &fates[i]
		if len(r.reasons) > 0 && !f.reasonIs(r.reasons) || len(r.functions) > 0 && !f.functionIs(r.functions) ||
			r.local && !f.local || r.when != nil && !r.when(f) {
			continue
		}
		return r
	}
	return nil
}

// segmented tells a packet that was seen to be cut into segments or, where that
// cannot be seen, that is bigger than its device's MTU allows on the wire.
func (f *dropFacts) segmented() bool {
	if f.br.segments > 0 {
		return true
	}
	mtu := 1500
	if f.device != nil && f.device.MTU > 0 {
		mtu = f.device.MTU
	}
	return int(f.rec.Len) > mtu+18 // Ethernet header and one tag
}

// accepted tells that nothing is known of TCP against the packet.
func (f *dropFacts) accepted() bool {
	return f.br.answer == nil && (f.br.socket == nil || !f.br.socket.full())
}

// framed tells a packet that has its link header: one that waits for a neighbour's
// address, in a queue that is purged as well, has none yet, or that of the device
// it came in by.
func (f *dropFacts) framed() bool {
	return f.rec.Flags&bpf.FlagL3 == 0 && f.rec.SnapLen > 0 && !f.functionIs(neighbourFunctions)
}

// synAck tells the answer to the first packet of a connection.
func (f *dropFacts) synAck() bool { return f.rec.Proto == protoTCP && f.rec.TcpFlags&0x12 == 0x12 }

func (f *dropFacts) multicast() bool { return f.dst.IsMulticast() }

// forSomebodyElse tells a copy of a flooded frame. Where copies are not seen, it is
// one if a device elsewhere has the frame's address, or nothing here wants the packet: a router, or who has its address, would.
func (f *dropFacts) forSomebodyElse() bool {
	return f.copies > 0 || f.addressedElsewhere() || !f.local && f.forwarding() == "0"
}

func (f *dropFacts) addressedElsewhere() bool {
	if !f.sameNetns {
		return false
	}
	d := f.b.w.macs[f.b.destinationMAC(f.prev)]
	return d != nil && d.Netns != f.netns
}

// rank is how much an outcome counts for a journey of several packets.
func (o Outcome) rank() int {
	return slices.Index([]Outcome{Open, Consumed, Forwarded, Delivered}, o)
}

// outcome is what became of the journey: the best any of its packets met, for
// copies die as a matter of course.
func (b *builder) outcome() {
	j := b.j
	result := Open
	var drop *branch
	for i := range b.branches {
		br := &b.branches[i]
		if br.drop != nil {
			j.drops = append(j.drops, *br.drop)
			if drop == nil || br.root {
				drop = br
			}
			continue
		}
		out := b.branchOutcome(br)
		if i == 0 || out.rank() > result.rank() {
			result = out
			b.ended(br, out)
		}
		if br.root {
			j.EndedAt = br.freed
		}
	}
	if drop != nil && (drop.root && result != Delivered || result == Open || result == Consumed) {
		d := *drop.drop
		d.Time = 0
		j.Drop, result = &d, Dropped
	}
	j.Outcome = result
	if result != Consumed && result != Delivered {
		j.EndedAt = ""
	}
}

// arrived tells whether the packet entered the namespace that has its
// destination, as the last that was seen of it.
func (b *builder) arrived(br *branch) bool {
	if br.dev == nil || !br.own || br.wait != nil || br.ipvs != nil || bpf.Hook(br.dev.rec.Hook) != bpf.HookTCIngress {
		return false
	}
	for _, v := range b.w.viewsOf(br.dev.view, br.dev.rec.Netns) {
		if v.local(br.last.dst) {
			return true
		}
	}
	return false
}

// ended notes the place of the outcome.
func (b *builder) ended(br *branch, out Outcome) {
	e := &b.j.end
	*e = endPlace{t: b.j.DurationNs}
	if br.dev == nil {
		return
	}
	e.t = br.told
	if br.fate != nil {
		e.t = max(e.t, br.freedT)
	}
	at := br.dev.rec.Netns
	if br.socket != nil { // which may be behind a device that is not looked at
		at, e.t = br.socketAt, max(e.t, br.socketT)
	}
	netns, pod := b.w.netns(at)
	if pod != "" {
		netns = pod
	}
	e.netns = netns
	if br.wait != nil {
		e.queue, e.t = &br.wait.number, br.wait.since-b.j.seq.start
	}
	if out == Forwarded && br.ipvs == nil {
		e.dev = b.w.deviceName(br.dev.view, br.dev.rec.Netns, br.dev.rec.Ifindex)
	}
	if out == Delivered && b.arrived(br) {
		e.local = br.last.dst
	}
}

// branchOutcome is how one packet that was not lost ended.
func (b *builder) branchOutcome(br *branch) Outcome {
	if br.fate != nil {
		if br.fate.outcome == "" {
			return Open
		}
		return br.fate.outcome
	}
	if br.socket != nil {
		return Delivered
	}
	if !br.own {
		if br.ended {
			return Consumed
		}
		return Open
	}
	if br.ipvs != nil { // in a tunnel, say, where it is another packet
		return Forwarded
	}
	if br.segments > 0 { // which went on in its place
		return Consumed
	}
	if bpf.Hook(br.dev.rec.Hook) == bpf.HookTCEgress {
		if br.ended || b.settled {
			return Forwarded
		}
		return Open
	}
	if b.arrived(br) {
		return Delivered
	}
	if br.ended {
		return Consumed
	}
	return Open
}
