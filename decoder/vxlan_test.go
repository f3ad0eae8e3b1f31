// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"testing"

	"waymark/bpf"
	. "waymark/decoder"
)

// The devices under ext0 and nsm1, and the addresses of the tunnel's ends.
const (
	underGW uint32 = 201
	underLB uint32 = 202
	vtepGW         = "192.168.100.150"
	vtepLB         = "192.168.100.2"
)

func vxlanWorld(w *trench) {
	w.devices = append(w.devices, device(nsGW, underGW, "eth1", 0, vtepGW+"/24"), device(nsLB, underLB, "eth1", 0, vtepLB+"/24"))
	w.routing[nsLB].Routes = append(w.routing[nsLB].Routes, route(254, "192.168.100.0/24", "unicast", "", "eth1"))
}

// vxlan is p in a VXLAN packet of network 100 (RFC 7348): where p then is, this is.
func (p *packet) vxlan(src, dst string) *packet {
	const port = 4789
	q := *p
	q.app = append([]byte{0x08, 0, 0, 0, 0, 0, 100, 0}, p.frame()...)
	q.rec.Proto, q.rec.TcpFlags, q.rec.Ttl, q.rec.IpId = 17, 0, 64, 1
	q.rec.Sport, q.rec.Dport = bits16(50000), bits16(port)
	return q.addrs(src, dst)
}

func vxlanScenes() []scene {
	request := func(s *stream, trail, at uint64, sport uint16) *packet {
		return s.tcp(trail, at, client4, sport, vip4, 5000, syn)
	}
	// to the gateway's device below, and from there to the load balancer's
	out := func(p *packet) *packet {
		p.from, p.to = ext0, nsm1
		return p.out(nsGW, ext0, 0).vxlan(vtepGW, vtepLB).out(nsGW, underGW, us)
	}
	in := func(p, q *packet) *packet {
		p.now = q.now
		p.rec.Flags &^= bpf.FlagStart
		return p.in(nsLB, nsm1, us)
	}
	return []scene{
		{
			// Two flows share the tunnel, and a reply comes back through it.
			name: "vxlan", outcomes: []Outcome{Delivered, Delivered, Delivered}, world: vxlanWorld,
			packets: func(s *stream) {
				for i := range uint64(2) {
					p := request(s, 1+i, i*50_000, 40000+uint16(i))
					in(p, out(p).in(nsLB, underLB, 12*us)).balanced().toTarget()
				}
				p := s.tcp(3, 200_000, vip4, 5000, client4, 40000, synAck).replyToLB()
				p.rec.Ttl--
				p.from, p.to = nsm1, ext0
				p.out(nsLB, nsm1, 9*us)
				q := p.vxlan(vtepLB, vtepGW).out(nsLB, underLB, us).in(nsGW, underGW, 12*us)
				p.now = q.now
				p.in(nsGW, ext0, us)
			},
		},
		{
			// The filter knows the tunnel, and finds what was in it with it.
			name: "vxlan-from-outside", outcomes: []Outcome{Delivered}, world: vxlanWorld,
			packets: func(s *stream) {
				p := request(s, 1, 0, 40000)
				p.from, p.to = ext0, nsm1
				in(p, p.vxlan(vtepGW, vtepLB).in(nsLB, underLB, 0)).balanced().toTarget()
			},
		},
		{
			// The devices of the tunnel itself are not traced.
			name: "vxlan-underlay-only", outcomes: []Outcome{Delivered, Forwarded}, world: vxlanWorld,
			packets: func(s *stream) {
				p := request(s, 1, 0, 40000).out(nsGW, ext0, 0)
				q := p.vxlan(vtepGW, vtepLB).out(nsGW, underGW, us).in(nsLB, underLB, 12*us)
				p.now = q.now
				p.balanced().toTarget()
				p = s.tcp(2, 200_000, vip4, 5000, client4, 40000, synAck).replyToLB()
				p.rec.Ttl--
				p.vxlan(vtepLB, vtepGW).out(nsLB, underLB, us)
			},
		},
		{
			name: "vxlan-dropped", outcomes: []Outcome{Dropped}, question: "M18", reason: "NEIGH_FAILED", netns: "wm-meridio-gw", world: vxlanWorld,
			packets: func(s *stream) {
				p := request(s, 1, 0, 40000)
				out(p).drop(nsGW, underGW, 9*us, rNeighFailed, atNeigh)
			},
		},
		{
			// A router of the tunnel's packets has no way for them.
			name: "vxlan-unroutable", outcomes: []Outcome{Dropped}, question: "M19", netns: "wm-meridio-lb",
			world: func(w *trench) {
				vxlanWorld(w)
				w.routing[nsLB].Routes = append(w.routing[nsLB].Routes, route(254, "192.0.2.0/24", "blackhole", "", ""))
			},
			packets: func(s *stream) {
				p := request(s, 1, 0, 40000).out(nsGW, ext0, 0)
				p.vxlan(vtepGW, "192.0.2.9").out(nsGW, underGW, us).in(nsLB, underLB, 12*us).drop(nsLB, underLB, us, rNotSpecified, atIPError)
			},
		},
	}
}

func TestVXLAN(t *testing.T) { runScenes(t, vxlanScenes()) }
