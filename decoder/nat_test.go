// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"net/netip"
	"testing"

	"waymark/bpf"
	. "waymark/decoder"
)

// Values of the kernel's enums, see nat.go.
const (
	manipSrc, manipDst            = 0, 1
	original, inReply             = 0, 1
	ctEstablished, ctNew          = 0, 2
	ctEstablishedReply            = 3
	tcpSynSent, tcpSynRecv        = 1, 2
	atHookSlow             uint64 = 0xffffffff82000100
	rNetfilterDrop                = 40
	px4                           = "172.16.1.3" // what the translating namespace calls itself
)

// conntrack notes what conntrack says of p at lb.
func (p *packet) conntrack(verdict int32, x bpf.ConntrackExt) *packet {
	p.ext, p.rec.Verdict = bpf.EncodeExt(x), verdict
	p.after(2*us).write(bpf.HookConntrack, nsLB, nsm1)
	p.ext, p.rec.Verdict = nil, 0
	return p
}

// manip translates one end of p at lb.
func (p *packet) manip(manip, dir, flags uint8, addr string, port uint16) *packet {
	a := netip.MustParseAddr(addr)
	p.ext = bpf.EncodeExt(bpf.NATExt{Addr: a.As16(), Port: bits16(port), Manip: manip, Dir: dir, Flags: flags})
	p.after(2*us).write(bpf.HookNAT, nsLB, nsm1)
	p.ext = nil
	if echo := p.rec.Proto == 1; echo {
		p.rec.Seq = p.rec.Seq&0xffff | uint32(port)<<16
	}
	if manip == manipSrc {
		p.rec.Src, p.rec.Sport = a.As16(), bits16(port)
	} else {
		p.rec.Dst, p.rec.Dport = a.As16(), bits16(port)
	}
	return p
}

func found(info, tcpState uint8) bpf.ConntrackExt {
	return bpf.ConntrackExt{Info: info, TcpState: tcpState, Flags: bpf.ConntrackFound}
}

func netfilterDrop(s *stream) {
	s.contexts(
		&Context{Symbol: &Symbol{Addr: atHookSlow, Name: "nf_hook_slow+0xa3"}},
		&Context{Reason: &Reason{Number: rNetfilterDrop, Name: "NETFILTER_DROP"}})
}

// noBalancer makes of lb a router with a default route.
func noBalancer(w *trench) {
	w.balancer, w.queues = nil, nil
	r := w.routing[nsLB]
	r.Rules = standardRules(4)
	r.Routes = append(r.Routes, route(254, "0.0.0.0/0", "unicast", "169.254.100.150", "nsm-1"))
}

func natScenes() []scene {
	return []scene{
		{
			// A service's address becomes a pod's, the client's the node's, and back.
			name: "nat-service", outcomes: []Outcome{Delivered, Delivered}, world: noBalancer,
			packets: func(s *stream) {
				p := s.tcp(1, 0, client4, 40000, "10.9.0.1", 80, syn)
				p.in(nsLB, nsm1, 0).conntrack(nfAccept, found(ctNew, tcpSynSent)).manip(manipDst, original, bpf.NATMasquerade, "172.16.1.6", 8080)
				p.rec.Ttl--
				p.manip(manipSrc, original, bpf.NATMasquerade, px4, 50001).out(nsLB, lbToPX, 3*us).in(nsT1, nscT1, 9*us)
				r := s.tcp(2, 100_000, "172.16.1.6", 8080, px4, 50001, synAck)
				r.out(nsT1, nscT1, 0).in(nsLB, lbToPX, 5*us).conntrack(nfAccept, found(ctEstablishedReply, tcpSynRecv))
				r.manip(manipDst, inReply, bpf.NATMasquerade, client4, 40000)
				r.rec.Ttl--
				r.manip(manipSrc, inReply, bpf.NATMasquerade, "10.9.0.1", 80).out(nsLB, nsm1, 3*us).in(nsGW, ext0, 5*us)
			},
		},
		{
			name: "nat-echo", outcomes: []Outcome{Forwarded}, world: noBalancer,
			packets: func(s *stream) {
				p := s.packet(1, 0, vip4, "172.16.1.6", 1).echo(8, 0x1234, 1)
				x := found(ctNew, 0)
				x.Mark = 0x4000
				p.in(nsLB, nsm1, 0).conntrack(nfAccept, x)
				p.rec.Ttl--
				p.manip(manipSrc, original, 0, px4, 0x1234).out(nsLB, lbToPX, 3*us)
			},
		},
		{
			// Where NAT itself cannot be seen.
			name: "nat-inferred", outcomes: []Outcome{Delivered}, world: noBalancer,
			packets: func(s *stream) {
				p := s.tcp(1, 0, client4, 40000, "10.9.0.1", 80, syn).in(nsLB, nsm1, 0)
				p.addrs(client4, "172.16.1.6").rec.Dport = bits16(8080)
				p.in(nsLB, lbToPX, us) // say, a bridge's own device
				p.addrs(px4, "172.16.1.6").rec.Sport = bits16(50001)
				p.rec.Ttl--
				p.out(nsLB, lbToPX, 9*us).in(nsT1, nscT1, 9*us)
			},
		},
		{
			// The route is looked up for what the destination has become.
			name: "nat-unroutable", outcomes: []Outcome{Dropped}, reason: "IP_INNOROUTES", netns: "wm-meridio-lb",
			world: func(w *trench) {
				noBalancer(w)
				r := w.routing[nsLB]
				r.Routes = append(r.Routes, route(254, "172.16.9.0/24", "blackhole", "", ""))
			},
			question: "M19",
			packets: func(s *stream) {
				p := s.tcp(1, 0, client4, 40000, "10.9.0.1", 80, syn).in(nsLB, nsm1, 0)
				p.manip(manipDst, original, 0, "172.16.9.6", 8080).drop(nsLB, nsm1, 2*us, rInNoRoutes, atIPError)
			},
		},
		{
			name: "conntrack-full", outcomes: []Outcome{Dropped}, reason: "NETFILTER_DROP", netns: "wm-meridio-lb", world: noBalancer,
			packets: func(s *stream) {
				netfilterDrop(s)
				s.tcp(1, 0, client4, 40000, vip4, 5000, syn).requestToLB().conntrack(nfDrop, bpf.ConntrackExt{}).drop(nsLB, nsm1, 2*us, rNetfilterDrop, atHookSlow)
			},
		},
		{
			name: "conntrack-states", outcomes: []Outcome{Open, Open, Open, Open}, world: noBalancer,
			packets: func(s *stream) {
				for i, x := range []bpf.ConntrackExt{{}, {Info: 7}, found(ctEstablished, 99), found(6, 3)} {
					s.tcp(uint64(i+1), uint64(i)*1000, client4, 40000, vip4, 5000, ack).requestToLB().conntrack(nfAccept, x)
				}
			},
		},
		{
			// As conntrack refuses an invalid packet by a rule of its own; then damage.
			name: "nat-odd", outcomes: []Outcome{Dropped, Open}, reason: "NETFILTER_DROP", netns: "wm-meridio-lb", world: noBalancer,
			packets: func(s *stream) {
				netfilterDrop(s)
				s.tcp(1, 0, client4, 40000, vip4, 5000, syn).requestToLB().manip(manipSrc, original, 0, px4, 50001).drop(nsLB, nsm1, 2*us, rNetfilterDrop, atHookSlow)
				p := s.tcp(2, 1000, client4, 40000, vip4, 5000, syn).requestToLB()
				for _, h := range []bpf.Hook{bpf.HookNAT, bpf.HookConntrack, bpf.HookBridgeForward, bpf.HookBridgeFlood} {
					p.ext = []byte{1, 2, 3}
					p.after(us).write(h, nsLB, nsm1)
				}
			},
		},
	}
}

func TestNAT(t *testing.T) { runScenes(t, natScenes()) }
