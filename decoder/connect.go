// SPDX-License-Identifier: Apache-2.0

package decoder

// noPortLeft is the errno of connect(2).
const noPortLeft = "EADDRNOTAVAIL"

// unconnected is the hop of a connection that could not begin, for want of a port:
// the packet is the SYN that was not sent.
func (b *builder) unconnected(br *branch, e *event) {
	h := b.hop(br, e, GroupDrop, "connect")
	h.Verdict = "drop"
	d := Drop{Time: b.s.wall(e.rec.TimeNs), Netns: h.Netns, Pod: h.Pod, Reason: noPortLeft, At: "inet_hash_connect"}
	if e.rec.IpVersion == 6 {
		d.At = "inet6_hash_connect"
	}
	explainDrop(b.facts(br, e, &d), &d)
	mark := e.rec.Mark
	h.Mark, h.Detail, br.drop = &mark, &DropDetail{Reason: d.Reason, At: d.At}, &d
	b.j.Hops = append(b.j.Hops, h)
}
