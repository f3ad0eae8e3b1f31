// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"cmp"
	"slices"
	"strconv"

	"waymark/bpf"
)

// builder turns the records of one open journey into hops and an outcome.
type builder struct {
	s        *Stitcher
	w        *world
	o        *openJourney
	j        *Journey
	settled  bool
	branches []branch
}

// branch is what is known of one packet (the root or a copy) while the records
// are walked in time order.
type branch struct {
	trail, parent uint64
	ended         bool
	root          bool

	dev      *event // last device record, of a copy: also its parent's before it
	own      bool   // dev is of this trail
	sentAt   *event // where it was sent, if the chains of output saw it
	last     tuple
	seen     bool  // last is set
	tunnel   tuple // of the headers that VXLAN has put around it; zero: none
	mark     uint32
	drop     *Drop            // real loss
	fate     *fateRow         // why the free as a drop was none
	wait     *queueWait       // it is in a queue
	ipvs     *RouteQuery      // the lookup that IPVS does for it
	filter   *NetfilterDetail // the last chain, if it dropped the packet
	routed   int              // the first hop since dev that only a routed packet meets; 0: none
	judged   bool             // a queue's verdict was to drop it
	lb       *LBDecision      // what the balancer behind that queue decided, if known
	natted   []Hop            // changes of its source, until it is told how it was routed
	refused  bool             // conntrack's verdict was to drop it
	switched bool             // a bridge has decided about it
	blocked  string           // and why the port will not send it
	flood    *BridgeDetail
	segments int    // it was cut into so many
	cutHop   int    // the hop that tells of that
	freed    string // symbol that freed it after normal use
	freedT   uint64 // when, ns since the start
	told     uint64 // time of its latest hop, ns since the start

	socket   *SocketDetail // that was given it, since it entered a device
	socketT  uint64        // when, ns since the start
	socketAt uint32        // its namespace
	answer   *AnswerDetail // that it was refused with, likewise
}

// build makes the journey of o.
func (s *Stitcher) build(o *openJourney, settled bool) *Journey {
	slices.SortStableFunc(o.events, func(a, b event) int { return cmp.Compare(a.rec.TimeNs, b.rec.TimeNs) })
	first := &o.events[0]
	j := s.spare.take()
	*j = Journey{
		Hops: j.Hops, tuples: j.tuples, drops: j.drops, normal: j.normal, had: j.had,
		Type: "journey", ID: s.id(o.root), Node: s.world.session.Node, Start: s.wall(first.rec.TimeNs),
		Packet: describePacket(&first.rec, o.snapshot(first)), Complete: !o.incomplete, Notes: slices.Clone(o.notes),
		seq: sortKey{first.rec.TimeNs, o.root},
	}
	if o.loose != 0 {
		j.ID = s.idStart() + "-x" + strconv.FormatUint(o.loose, 10)
		j.seq.trail = o.loose
	}
	if s.opt.Originals {
		j.keepOriginal(&first.rec, o.snapshot(first))
	}
	b := builder{s: s, w: s.world, o: o, j: j, settled: settled, branches: s.branches[:0]}
	for _, t := range o.trails {
		b.branches = append(b.branches, branch{trail: t.id, parent: t.parent, ended: t.ended, root: t.id == o.root})
	}
	if o.loose != 0 {
		b.branches = append(b.branches, branch{root: true, ended: true})
	}
	j.Hops = slices.Grow(j.Hops, len(o.events)+2)
	for i := range o.events {
		b.event(&o.events[i])
		b.had(&o.events[i].rec)
		j.matched = j.matched || s.matches(o, &o.events[i])
	}
	for i := range b.branches {
		b.natHops(&b.branches[i], len(j.Hops))
	}
	b.marks()
	j.until, j.ends = o.until(&s.opt), o.endsSeen()
	if n := len(j.Hops); n > 0 {
		j.DurationNs = j.Hops[n-1].TNs
	}
	b.connection(&first.rec)
	b.outcome()
	b.silent()
	clear(b.branches)
	s.branches = b.branches
	return j
}

// connection notes what naming the flow needs.
func (b *builder) connection(r *bpf.Record) {
	if r.IpVersion == 0 {
		return
	}
	if p := b.j.Packet.Inner; p != nil {
		b.j.inner = p.tuple()
	}
	if r.Proto == protoTCP && r.TcpFlags&0x02 != 0 {
		b.j.syn = 1
		if r.TcpFlags&0x10 != 0 {
			b.j.syn = 2
		}
	}
}

func (b *builder) branch(trail uint64) *branch {
	for i := range b.branches {
		if b.branches[i].trail == trail {
			return &b.branches[i]
		}
	}
	return &b.branches[0]
}

// event walks one record.
func (b *builder) event(e *event) {
	br := b.branch(e.rec.Trail)
	switch bpf.Hook(e.rec.Hook) {
	case bpf.HookTCIngress, bpf.HookTCEgress, bpf.HookKfreeSkb:
	default:
		b.natHops(br, len(b.j.Hops))
	}
	switch bpf.Hook(e.rec.Hook) {
	case bpf.HookTCIngress, bpf.HookTCEgress:
		b.device(br, e)
	case bpf.HookKfreeSkb:
		b.dropped(br, e)
	case bpf.HookConnect:
		b.unconnected(br, e)
	case bpf.HookQueueEnter:
		b.enqueued(br, e)
	case bpf.HookQueueVerdict:
		b.returned(br, e)
	case bpf.HookIPVSForward, bpf.HookIPVSReply:
		b.directed(br, e)
	case bpf.HookLocalOut:
		b.sent(br, e)
	case bpf.HookNFTChain, bpf.HookIPTTable:
		b.filtered(br, e)
	case bpf.HookNAT:
		b.manipulated(br, e)
	case bpf.HookConntrack:
		b.connected(br, e)
	case bpf.HookBridgeForward, bpf.HookBridgeFlood:
		b.onBridge(br, e)
	case bpf.HookSocketReceive:
		b.received(br, e)
	case bpf.HookSocketReset, bpf.HookSocketReject, bpf.HookSocketICMP:
		b.refused(br, e)
	case bpf.HookSkbClone:
		b.copied(br, e)
	case bpf.HookSkbSegment:
		b.cut(br, e)
	case bpf.HookConsumeSkb:
		br.freed = b.w.symbol(e.rec.Location)
	}
}

// hop starts a hop at the place of e.
func (b *builder) hop(br *branch, e *event, group, hook string) Hop {
	h := Hop{TNs: e.rec.TimeNs - b.j.seq.start, Group: group, Hook: hook}
	h.Netns, h.Pod = b.w.netns(e.rec.Netns)
	if !br.root {
		h.Trail = br.trail
	}
	br.told = h.TNs
	return h
}

// device is the hop of a TC record, and before it what must have been decided
// since the last one.
func (b *builder) device(br *branch, e *event) {
	t := recordTuple(&e.rec)
	around := b.around(e)
	same := br.dev != nil && br.dev.rec.Netns == e.rec.Netns
	sameLayer := same && !around && !b.wrapped(br.dev, e)
	if sameLayer {
		b.inferNAT(br, e, "dst")
	}
	n := len(b.j.Hops)
	if same {
		b.decided(br, e)
	}
	b.natHops(br, n)
	if sameLayer {
		b.inferNAT(br, e, "src")
	}
	hook := "ingress"
	if bpf.Hook(e.rec.Hook) == bpf.HookTCEgress {
		hook = "egress"
	}
	h := b.hop(br, e, GroupDevice, hook)
	h.Dev = b.w.deviceName(e.view, e.rec.Netns, e.rec.Ifindex)
	if hook == "egress" {
		br.flooded(h.Dev)
	}
	br.switched, br.blocked, br.flood = false, "", nil
	mark := e.rec.Mark
	h.Mark = &mark
	h.markWas, h.markNew = b.markBefore(br, e), br.dev == nil && br.sentAt == nil && mark != 0
	was := br.last
	if br.tunnel.src.IsValid() {
		was = br.tunnel
	}
	if br.seen && t != was {
		p := describePacket(&e.rec, b.o.snapshot(e))
		h.Packet = &p
	}
	b.j.Hops = append(b.j.Hops, h)
	// Many flows share a tunnel, none is named by it.
	if b.isVXLAN(e) == (b.j.Packet.VXLAN != nil) && !slices.Contains(b.j.tuples, t) {
		b.j.tuples = append(b.j.tuples, t)
	}
	entered := br.dev == nil || br.dev.rec.Netns != e.rec.Netns
	br.tunnel = tuple{}
	if around {
		br.tunnel, t = t, br.last
	}
	br.last, br.seen, br.mark = t, true, mark
	br.dev, br.own, br.ipvs, br.routed = e, true, nil, 0
	br.lb = nil
	br.socket, br.answer = nil, nil // a tunnel's socket passes it on, a redirect is no refusal
	if entered && hook == "ingress" && mark != 0 {
		b.markedOnEntry(br, e)
	}
}

// markBefore is the mark the packet had before e if that differs. Leaving a
// namespace clears it (skb_scrub_packet, net/core/skbuff.c), which is shown
// like any other change: a mark that was meant to arrive is lost there.
func (b *builder) markBefore(br *branch, e *event) *uint32 {
	if br.dev == nil && br.sentAt == nil || br.mark == e.rec.Mark {
		return nil
	}
	was := br.mark
	return &was
}

// decided adds the hops between the branch's last device record and e, both in
// one namespace.
func (b *builder) decided(br *branch, e *event) {
	prev := br.dev
	if e.rec.Mark != br.mark {
		b.lbHop(br, prev, e, false)
	}
	in := bpf.Hook(prev.rec.Hook) == bpf.HookTCIngress
	out := bpf.Hook(e.rec.Hook) == bpf.HookTCEgress
	if !in || !out || br.switched || b.wrapped(prev, e) || e.rec.IpVersion == 0 && prev.rec.IpVersion == 0 && !b.bridged(prev, e) {
		return
	}
	if b.bridged(prev, e) {
		b.inferBridge(br, prev, e)
		return
	}
	b.routeHop(br, prev, e, []string{b.w.deviceName(e.view, e.rec.Netns, e.rec.Ifindex), b.master(e)})
}

// bridged tells whether a frame went from one port of a bridge to another
// without being routed: a router would have taken one off the TTL.
func (b *builder) bridged(in, out *event) bool {
	di := b.w.device(in.view, in.rec.Netns, in.rec.Ifindex)
	do := b.w.device(out.view, out.rec.Netns, out.rec.Ifindex)
	return di != nil && do != nil && di.Master != 0 && di.Master == do.Master && in.rec.Ttl == out.rec.Ttl
}

// master is the name of the bridge e's device is a port of; empty: none.
func (b *builder) master(e *event) string {
	d := b.w.device(e.view, e.rec.Netns, e.rec.Ifindex)
	if d == nil || d.Master == 0 {
		return ""
	}
	return b.w.deviceName(e.view, e.rec.Netns, d.Master)
}

// copied starts the branch of a copy where its parent is.
func (b *builder) copied(br *branch, e *event) {
	if p := b.branch(br.parent); p != br && p.trail == br.parent && !br.own {
		br.dev, br.last, br.seen, br.tunnel, br.mark = p.dev, p.last, p.seen, p.tunnel, p.mark
		br.switched, br.flood = p.switched, p.flood
	}
	if !b.hasDeviceRecords(br.trail) {
		return // a tap or a socket queue: it ends where it was made
	}
	h := b.hop(br, e, GroupFree, "clone")
	h.Dev = b.w.deviceName(e.view, e.rec.Netns, e.rec.Ifindex)
	h.Trail, h.Detail = 0, &CopyDetail{Copy: br.trail}
	b.j.Hops = append(b.j.Hops, h)
}

// cut starts the branch of a segment where the packet is that it was cut from,
// which is told once.
func (b *builder) cut(br *branch, e *event) {
	p := b.branch(br.parent)
	if p == br || p.trail != br.parent {
		return
	}
	if !br.own {
		br.dev, br.last, br.seen, br.tunnel, br.mark = p.dev, p.last, p.seen, p.tunnel, p.mark
	}
	p.segments++
	if p.segments > 1 {
		b.j.Hops[p.cutHop].Detail.(*SegmentDetail).Segments = p.segments
		return
	}
	h := b.hop(p, e, GroupFree, "segment")
	h.Dev = b.w.deviceName(e.view, e.rec.Netns, e.rec.Ifindex)
	h.Detail = &SegmentDetail{Segments: 1}
	p.cutHop = len(b.j.Hops)
	b.j.Hops = append(b.j.Hops, h)
}

func (b *builder) hasDeviceRecords(trail uint64) bool {
	for i := range b.o.events {
		r := &b.o.events[i].rec
		if r.Trail == trail && (r.Hook == uint16(bpf.HookTCIngress) || r.Hook == uint16(bpf.HookTCEgress)) {
			return true
		}
	}
	return false
}

// dropped walks a HOOK_KFREE_SKB record: usually a loss, at times not.
func (b *builder) dropped(br *branch, e *event) {
	d := b.w.dropOf(e, br.dev)
	f := b.facts(br, e, &d)
	n := len(b.j.Hops)
	if row := fateOf(f); row != nil {
		br.fate, br.freed, br.freedT = row, d.At, e.rec.TimeNs-b.j.seq.start
		b.natHops(br, n)
		if b.s.opt.EmitNormal != nil {
			normal := d
			normal.Time, normal.Normal = b.s.wall(e.rec.TimeNs), row.why
			b.j.normal = append(b.j.normal, normal)
		}
		if row.hide {
			return
		}
		b.dropHop(br, e, &d, row.why)
		return
	}
	if br.dev != nil && f.sameNetns {
		if br.judged || br.lb != nil {
			f.lb = br.lb
		} else if e.rec.Mark != br.mark || f.inQueue() {
			f.lb = b.lbHop(br, br.dev, e, f.inQueue())
		}
		if f.routed() {
			b.routeHop(br, br.dev, e, f.leavesBy())
		}
	} else if f.inQueue() {
		f.lb = b.refusal(e)
	}
	b.natHops(br, n)
	b.s.why.explain(f, &d)
	d.Stack = b.stack(e)
	d.Time = b.s.wall(e.rec.TimeNs)
	b.dropHop(br, e, &d, "")
	br.drop = &d
}

// stack names the functions that led to the free, from the one that freed: above
// that are only those of the tracepoint.
func (b *builder) stack(e *event) (names []string) {
	addrs := bpf.Stack(b.o.ext(e))
	if i := slices.Index(addrs, e.rec.Location); i >= 0 {
		addrs = addrs[i:]
	}
	for _, a := range addrs[:min(len(addrs), maxStack)] {
		names = append(names, b.w.symbol(a))
	}
	return names
}

// maxStack bounds the functions of a stack; the kernel's side records fewer.
const maxStack = 64

func (b *builder) dropHop(br *branch, e *event, d *Drop, normal string) {
	h := b.hop(br, e, GroupDrop, "kfree_skb")
	h.Netns, h.Pod, h.Dev = d.Netns, d.Pod, d.Dev
	h.Verdict = "drop"
	if normal != "" {
		h.Verdict = ""
	}
	mark := e.rec.Mark
	h.Mark, h.Detail = &mark, &DropDetail{Reason: d.Reason, At: d.At, Normal: normal}
	b.j.Hops = append(b.j.Hops, h)
}

// dropOf is place and reason of a HOOK_KFREE_SKB record. The skb may have lost
// its device by then: it is where it was last.
func (w *world) dropOf(e, prev *event) Drop {
	d := Drop{Reason: w.reason(e.rec.Reason), At: w.symbol(e.rec.Location), more: uint64(e.rec.Equal)}
	netns, ifindex, v := e.rec.Netns, e.rec.Ifindex, e.view
	if prev != nil && (netns == 0 || netns == prev.rec.Netns && ifindex == 0) {
		netns, ifindex, v = prev.rec.Netns, prev.rec.Ifindex, prev.view
	}
	d.Netns, d.Pod = w.netns(netns)
	d.Dev = w.deviceName(v, netns, ifindex)
	return d
}
