// SPDX-License-Identifier: Apache-2.0

// The hops of a packet that waits in an NFQUEUE.

package decoder

import (
	"fmt"
	"strconv"

	"waymark/bpf"
)

// QueueDetail tells of an NFQUEUE (queue/enqueue, queue/verdict).
type QueueDetail struct {
	Queue  *int    `json:"queue,omitempty"`     // number; omitted if the packet was not seen going in
	Packet uint32  `json:"packet_id,omitempty"` // nfnetlink_queue's
	Hook   string  `json:"nf_hook,omitempty"`   // netfilter hook: prerouting, ...
	Depth  *uint32 `json:"depth,omitempty"`     // packets that waited before this one (enqueue)
	MaxLen uint32  `json:"maxlen,omitempty"`    // and how many may (enqueue)
	WaitNs *uint64 `json:"wait_ns,omitempty"`   // from going in to the verdict (verdict)
}

func (*QueueDetail) detail() {}

// queueWait is a packet's stay in a queue.
type queueWait struct {
	number int
	since  uint64 // boot clock ns
}

// nfHooks are the names of enum nf_inet_hooks (include/uapi/linux/netfilter.h).
var nfHooks = []string{"prerouting", "input", "forward", "output", "postrouting"}

// nfVerdicts are the names of NF_DROP to NF_STOP, from the same header.
var nfVerdicts = []string{"drop", "accept", "stolen", "queue", "repeat", "stop"}

func nameAt(names []string, i int) string {
	if i >= 0 && i < len(names) {
		return names[i]
	}
	return strconv.Itoa(i)
}

// nfVerdict names a verdict; what is above its low byte (NF_VERDICT_MASK) is a
// queue's number or an errno.
func nfVerdict(v int32) string { return nameAt(nfVerdicts, int(v&0xff)) }

// enqueued is the hop of a packet that begins to wait.
func (b *builder) enqueued(br *branch, e *event) {
	q, err := bpf.DecodeExt[bpf.QueueExt](b.o.ext(e))
	if err != nil {
		return // of a recording that is damaged there
	}
	number := int(q.Queue)
	br.wait = &queueWait{number: number, since: e.rec.TimeNs}
	h := b.hop(br, e, GroupQueue, "enqueue")
	h.Detail = &QueueDetail{Queue: &number, Packet: q.PacketId, Hook: nameAt(nfHooks, int(q.NfHook)), Depth: &q.Depth, MaxLen: q.Maxlen}
	b.j.Hops = append(b.j.Hops, h)
}

// returned is the hop of the listener's verdict, and before it, if the listener
// is a balancer that is known, what that decided.
func (b *builder) returned(br *branch, e *event) {
	q, err := bpf.DecodeExt[bpf.QueueExt](b.o.ext(e))
	if err != nil {
		return
	}
	verdict := nfVerdict(e.rec.Verdict)
	dropped := verdict == "drop"
	was, decided := br.mark, false
	if br.dev != nil && br.dev.rec.Netns == e.rec.Netns && (dropped || e.rec.Mark != br.mark) {
		br.lb = b.lbHop(br, br.dev, e, dropped)
		decided = br.lb != nil
	}
	h := b.hop(br, e, GroupQueue, "verdict")
	h.Verdict = verdict
	mark := e.rec.Mark
	h.Mark = &mark
	if !decided && mark != was {
		h.markWas = &was
	}
	br.mark = mark
	d := &QueueDetail{Packet: q.PacketId, Hook: nameAt(nfHooks, int(q.NfHook))}
	if w := br.wait; w != nil {
		wait := e.rec.TimeNs - w.since
		d.Queue, d.WaitNs = &w.number, &wait
	}
	br.wait, br.judged = nil, dropped
	h.Detail = d
	b.j.Hops = append(b.j.Hops, h)
}

func (d *QueueDetail) text(verdict string) string {
	s := "queue"
	if d.Queue != nil {
		s += " " + strconv.Itoa(*d.Queue)
	}
	switch {
	case verdict == "":
		s += " at " + d.Hook
		if d.Depth != nil {
			s += fmt.Sprintf(": %d of %d wait before it", *d.Depth, d.MaxLen)
		}
	case d.WaitNs != nil:
		s += ": " + verdict + " after " + micros(*d.WaitNs)
	default:
		s += ": " + verdict
	}
	return s
}
