// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"math/bits"
	"net/netip"
	"testing"

	"waymark/bpf"
	. "waymark/decoder"
)

// ipvs notes that a director at lb sends p on, or that it is a reply.
func (p *packet) ipvs(hook bpf.Hook, x bpf.IPVSExt) *packet {
	p.ext = bpf.EncodeExt(x)
	p.after(4*us).write(hook, nsLB, nsm1)
	p.ext = nil
	return p
}

// connection is one of client4 to the service at vip4, as the kernel keeps it.
func connection(method, flags uint8, state uint16) bpf.IPVSExt {
	x := bpf.IPVSExt{
		Cport: bits.ReverseBytes16(40000), Vport: bits.ReverseBytes16(5000), Dport: bits.ReverseBytes16(8080),
		Protocol: 6, Weight: 3, State: state, Af: 2, Daf: 2, Method: method, Flags: flags,
	}
	copy(x.Scheduler[:], "rr")
	for _, a := range []struct {
		to   []uint8
		addr string
	}{{x.Caddr[:], client4}, {x.Vaddr[:], vip4}, {x.Daddr[:], "172.16.1.6"}} {
		copy(a.to, netip.MustParseAddr(a.addr).AsSlice())
	}
	return x
}

// TestIPVS: a new connection is scheduled, a packet of it follows, the reply
// gets the service's address back; one that lost its destination.
func TestIPVS(t *testing.T) {
	s := newStream(t, newTrench())
	ipvsPackets(s)
	golden(t, "ipvs", s.run(Options{}))
}

func ipvsPackets(s *stream) {
	const masq, direct = 0, 3
	p := s.tcp(1, 0, client4, 40000, vip4, 5000, syn).requestToLB().ipvs(bpf.HookIPVSForward, connection(masq, bpf.IPVSNew|bpf.IPVSDest, 0))
	p.addrs(client4, "172.16.1.6").rec.Dport = bits.ReverseBytes16(8080)
	p.rec.Ttl--
	p.out(nsLB, lbToPX, 2*us)
	r := s.tcp(2, 1_000_000, "172.16.1.6", 8080, client4, 40000, synAck)
	r.in(nsLB, lbToPX, 0).ipvs(bpf.HookIPVSReply, connection(masq, bpf.IPVSDest, 3))
	r.addrs(vip4, client4).rec.Sport = bits.ReverseBytes16(5000)
	r.rec.Ttl--
	r.out(nsLB, nsm1, 2*us)
	p = s.tcp(3, 2_000_000, client4, 40000, vip4, 5000, ack).requestToLB().ipvs(bpf.HookIPVSForward, connection(direct, bpf.IPVSDest, 1))
	p.rec.Ttl--
	p.out(nsLB, lbToPX, 2*us)
	s.tcp(4, 3_000_000, client4, 40000, vip4, 5000, ack).requestToLB().ipvs(bpf.HookIPVSForward, connection(masq, 0, 1))
}
