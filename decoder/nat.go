// SPDX-License-Identifier: Apache-2.0

// The hops of a packet through connection tracking and NAT.

package decoder

import (
	"math/bits"
	"net/netip"

	"waymark/bpf"
)

// NATDetail tells of a change of one end of the packet (nat/manip).
type NATDetail struct {
	Kind      string `json:"kind,omitempty"`      // dnat, snat, masquerade; omitted if it was only seen to change
	Manip     string `json:"manip"`               // which end: src or dst
	Direction string `json:"direction,omitempty"` // original, or reply: the change of the other direction is undone
	From      string `json:"from"`                // ADDR:PORT; ICMP echo: ADDR
	To        string `json:"to"`
	Inferred  bool   `json:"inferred,omitempty"` // from what the packet was before and after
}

// ConntrackDetail tells of the packet's connection (nat/conntrack).
type ConntrackDetail struct {
	State     string  `json:"state"`               // new, established, related, untracked, invalid, none
	Direction string  `json:"direction,omitempty"` // original or reply
	TCPState  string  `json:"tcp_state,omitempty"` // after this packet
	Mark      *uint32 `json:"connmark,omitempty"`  // omitted if 0
}

func (*NATDetail) detail()       {}
func (*ConntrackDetail) detail() {}

// Names of enum ip_conntrack_dir (nf_conntrack_tuple_common.h), nf_nat_manip_type
// (nf_nat.h) and tcp_conntrack (nf_conntrack_tcp.h), all in
// include/uapi/linux/netfilter.
var (
	ctDirections = []string{"original", "reply"}
	natManips    = []string{"src", "dst"}
	ctTCPStates  = []string{
		"none", "syn_sent", "syn_recv", "established", "fin_wait", "close_wait", "last_ack", "time_wait", "close", "syn_sent2",
	}
)

// ctInfos are the values of enum ip_conntrack_info (nf_conntrack_common.h).
var ctInfos = []struct{ state, direction string }{
	{"established", "original"},
	{"related", "original"},
	{"new", "original"},
	{"established", "reply"},
	{"related", "reply"},
	{},
	{},
	{"untracked", ""},
}

func natDetail(r *bpf.Record, x *bpf.NATExt) *NATDetail {
	before := recordTuple(r)
	after := translated(before, x)
	d := &NATDetail{Manip: nameAt(natManips, int(x.Manip)), Direction: nameAt(ctDirections, int(x.Dir))}
	// What changes the source of one direction changes the destination of the other.
	switch {
	case x.Manip != x.Dir:
		d.Kind = "dnat"
	case x.Flags&bpf.NATMasquerade != 0:
		d.Kind = "masquerade"
	default:
		d.Kind = "snat"
	}
	d.ends(before, after)
	return d
}

// ends fills in from and to. An ICMP identifier is no port.
func (d *NATDetail) ends(before, after tuple) {
	end := func(t tuple) string {
		if t.proto == protoICMP || t.proto == protoICMPv6 {
			t.sport, t.dport = 0, 0
		}
		if d.Manip == "src" {
			return endpoint(t.src, t.sport)
		}
		return endpoint(t.dst, t.dport)
	}
	d.From, d.To = end(before), end(after)
}

// translated is what NAT makes of t.
func translated(t tuple, x *bpf.NATExt) tuple {
	const manipSrc = 0
	addr := netip.AddrFrom16(x.Addr)
	if t.src.Is4() {
		addr = addr.Unmap()
	}
	port := bits.ReverseBytes16(x.Port)
	if x.Manip == manipSrc {
		t.src = addr
	} else {
		t.dst = addr
	}
	switch {
	case t.sport == 0 && t.dport == 0: // a fragment, or a protocol without ports
	case t.proto == protoICMP || t.proto == protoICMPv6:
		t.sport, t.dport = port, port
	case x.Manip == manipSrc:
		t.sport = port
	default:
		t.dport = port
	}
	return t
}

// manipulated is the hop of a packet that NAT changes.
func (b *builder) manipulated(br *branch, e *event) {
	x, err := bpf.DecodeExt[bpf.NATExt](b.o.ext(e))
	if err != nil || e.rec.IpVersion == 0 {
		return // of a recording that is damaged there
	}
	h := b.hop(br, e, GroupNAT, "manip")
	d := natDetail(&e.rec, &x)
	h.Detail = d
	t := translated(recordTuple(&e.rec), &x)
	p := describePacket(&e.rec, b.o.snapshot(e))
	p.take(t)
	h.Packet = &p
	if b.around(e) {
		br.tunnel = t
	} else {
		br.last, br.seen = t, true
	}
	if d.Manip == "src" && br.dev != nil && br.dev.rec.Netns == e.rec.Netns && bpf.Hook(br.dev.rec.Hook) == bpf.HookTCIngress {
		// The source is changed last, after the routing that is told only when the
		// packet has left.
		br.natted = append(br.natted, h)
		return
	}
	b.j.Hops = append(b.j.Hops, h)
}

// natHops adds the hops held back, behind those from n on, which are not younger.
func (b *builder) natHops(br *branch, n int) {
	if len(br.natted) == 0 {
		return
	}
	for i := range b.j.Hops[n:] {
		h := &b.j.Hops[n+i]
		h.TNs = min(h.TNs, br.natted[0].TNs)
	}
	b.j.Hops = append(b.j.Hops, br.natted...)
	br.natted = br.natted[:0]
}

// inferNAT adds the hop of a change of src or dst that was seen only by the
// packet being another than before, in one namespace.
func (b *builder) inferNAT(br *branch, e *event, manip string) {
	now := recordTuple(&e.rec)
	if !br.seen || now.proto != br.last.proto || !now.src.IsValid() || !br.last.src.IsValid() || br.ipvs != nil {
		return
	}
	after := br.last
	if manip == "src" {
		after.src, after.sport = now.src, now.sport
	} else {
		after.dst, after.dport = now.dst, now.dport
	}
	if after == br.last || now.proto == protoICMP && after.src == br.last.src && after.dst == br.last.dst {
		return
	}
	d := &NATDetail{Manip: manip, Inferred: true}
	d.ends(br.last, after)
	h := b.hop(br, e, GroupNAT, "manip")
	h.Detail = d
	p := describePacket(&e.rec, b.o.snapshot(e))
	p.take(after)
	h.Packet = &p
	br.last = after
	b.j.Hops = append(b.j.Hops, h)
}

// take gives a described packet the ends of t.
func (p *Packet) take(t tuple) {
	p.Src, p.Dst = t.src, t.dst
	if p.ICMPType != nil {
		if p.ICMPID != nil {
			id := t.sport
			p.ICMPID = &id
		}
		return
	}
	p.SPort, p.DPort = t.sport, t.dport
}

// connected is the hop of what conntrack says.
func (b *builder) connected(br *branch, e *event) {
	x, err := bpf.DecodeExt[bpf.ConntrackExt](b.o.ext(e))
	if err != nil {
		return
	}
	h := b.hop(br, e, GroupNAT, "conntrack")
	h.Detail = conntrackDetail(&e.rec, &x)
	if v := nfVerdict(e.rec.Verdict); v != "accept" {
		h.Verdict = v
		br.refused = v == "drop"
	}
	b.j.Hops = append(b.j.Hops, h)
}

func conntrackDetail(r *bpf.Record, x *bpf.ConntrackExt) *ConntrackDetail {
	d := &ConntrackDetail{}
	found := x.Flags&bpf.ConntrackFound != 0
	switch info := int(x.Info); {
	case !found && nfVerdict(r.Verdict) == "drop":
		d.State = "none"
		return d
	case info < len(ctInfos) && ctInfos[info].state != "" && (found || ctInfos[info].state == "untracked"):
		d.State, d.Direction = ctInfos[info].state, ctInfos[info].direction
	default:
		d.State = "invalid"
		return d
	}
	if !found {
		return d
	}
	if r.Proto == protoTCP {
		d.TCPState = nameAt(ctTCPStates, int(x.TcpState))
	}
	if x.Mark != 0 {
		mark := x.Mark
		d.Mark = &mark
	}
	return d
}

func (d *NATDetail) text() string {
	s := "nat: "
	switch {
	case d.Inferred && d.Manip == "src":
		s += "source "
	case d.Inferred:
		s += "destination "
	case d.Direction == "reply":
		s += d.Kind + " undone, "
	default:
		s += d.Kind + " "
	}
	s += d.From + " → " + d.To
	if d.Inferred {
		s += " (inferred)"
	}
	return s
}

func (d *ConntrackDetail) text(verdict string) string {
	if d.State == "none" && verdict == "drop" {
		return "conntrack: no entry could be made, drop"
	}
	s := "conntrack: " + d.State
	if d.Direction == "reply" {
		s += " reply"
	}
	if d.TCPState != "" {
		s += ", tcp " + d.TCPState
	}
	if d.Mark != nil {
		s += ", connmark " + markText(*d.Mark)
	}
	if verdict != "" {
		s += ", " + verdict
	}
	return s
}
