// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"waymark/bpf"
	. "waymark/decoder"
	"waymark/decoder/pcapng"
)

// enqueue lets p wait in NFQUEUE 2 at lb's PREROUTING, as packet id.
func (p *packet) enqueue(id, depth uint32) *packet {
	q := bpf.QueueExt{PacketId: id, Depth: depth, Maxlen: 1024, Queue: 2, Pf: 2}
	p.ext = bpf.EncodeExt(q)
	p.after(3*us).write(bpf.HookQueueEnter, nsLB, nsm1)
	p.ext = nil
	return p
}

// verdict gives p back: 0 drop, 1 accept.
func (p *packet) verdict(id uint32, v int32) *packet {
	q := bpf.QueueExt{PacketId: id, Pf: 2}
	p.ext, p.rec.Verdict = bpf.EncodeExt(q), v
	p.after(190*us).write(bpf.HookQueueVerdict, nsLB, nsm1)
	p.ext, p.rec.Verdict = nil, 0
	return p
}

// TestQueue: a packet is balanced behind a queue, another dropped by its
// listener, a third never comes out.
func TestQueue(t *testing.T) {
	s := newStream(t, newTrench())
	s.tcp(1, 0, client4, 40000, vip4, 5000, syn).requestToLB().enqueue(7, 3).mark(markT1).verdict(7, 1).balanced().toTarget()
	s.tcp(2, 1_000_000, client4, 40001, vip4, 6000, syn).requestToLB().enqueue(8, 0).verdict(8, 0).drop(nsLB, nsm1, us, rNotSpecified, atReinject)
	s.tcp(3, 2_000_000, client4, 40002, vip4, 5000, syn).requestToLB().enqueue(9, 1023)
	s.tcp(4, 3_000_000, client4, 40003, "10.0.0.9", 5000, syn).requestToLB().enqueue(10, 0).verdict(10, 4).out(nsLB, lbToPX, us)
	golden(t, "queue", s.run(Options{}))
}

// TestQueueOfAPacket: the NFQUEUE's number is where programs look for a queue's.
func TestQueueOfAPacket(t *testing.T) {
	s := newStream(t, newTrench())
	s.tcp(1, 0, client4, 40000, vip4, 5000, syn).requestToLB().enqueue(7, 3).mark(markT1).verdict(7, 1).balanced().toTarget()
	r := pcapng.NewReader(bytes.NewReader(recordedStream(t, s)))
	queues := 0
	for {
		b, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if p := b.Packet; p != nil && p.HasQueue {
			queues++
			if p.Queue != 2 || !strings.HasPrefix(string(p.Comments[0]), "enters queue 2, ") || len(p.Verdicts) > 0 {
				t.Errorf("queue %d of %q, verdicts %v", p.Queue, p.Comments[0], p.Verdicts)
			}
		}
	}
	if queues != 1 {
		t.Errorf("%d packets have a queue", queues)
	}
}
