// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"net/netip"
	"testing"

	"waymark/bpf"
	. "waymark/decoder"
)

const (
	syn    = 0x02
	synAck = 0x12
	ack    = 0x10
)

// scene is a stream with an expected end; its golden shows the rest.
type scene struct {
	name     string
	world    func(*trench)
	packets  func(*stream)
	lb       LBDecider
	outcomes []Outcome
	question string // of the first dropped journey
	reason   string
	netns    string
}

func scenes() []scene {
	request := func(s *stream, trail uint64) *packet { return s.tcp(trail, 0, client4, 40000, vip4, 5000, syn) }
	reply := func(s *stream, trail uint64) *packet { return s.tcp(trail, 0, vip4, 5000, client4, 40000, synAck) }
	request6 := func(s *stream, trail uint64) *packet { return s.tcp(trail, 0, client6, 40000, vip6, 5000, syn) }
	reply6 := func(s *stream, trail uint64) *packet { return s.tcp(trail, 0, vip6, 5000, client6, 40000, synAck) }
	noMarkRules := func(w *trench) {
		w.routing[nsLB].Rules = append(standardRules(4, from(4, 100, 4096, vip4+"/32")), standardRules(6, from(6, 100, 4096, vip6+"/128"))...)
	}
	noDefault := func(w *trench) {
		w.routing[nsLB].Routes = append(w.routing[nsLB].Routes[:2:2], w.routing[nsLB].Routes[4:]...)
	}
	return append(socketScenes(), []scene{
		{
			name: "there-and-back", outcomes: []Outcome{Delivered, Delivered},
			packets: func(s *stream) {
				request(s, 42).request()
				s.tcp(43, 200_000, vip4, 5000, client4, 40000, synAck).reply()
			},
		},
		{
			name: "there-and-back-6", outcomes: []Outcome{Delivered, Delivered},
			packets: func(s *stream) {
				request6(s, 42).request()
				s.tcp(43, 200_000, vip6, 5000, client6, 40000, synAck).reply()
			},
		},
		{
			name: "ping", outcomes: []Outcome{Delivered, Delivered},
			packets: func(s *stream) {
				s.packet(1, 0, client4, vip4, 1).echo(8, 0x1234, 1).request()
				s.packet(2, 300_000, vip4, client4, 1).echo(0, 0x1234, 1).reply()
			},
		},
		{
			name: "no-listener", outcomes: []Outcome{Dropped}, question: "M30", reason: "NOT_SPECIFIED", netns: "wm-meridio-lb",
			world:   func(w *trench) { w.queues.Queues = nil },
			packets: func(s *stream) { request(s, 1).requestToLB().drop(nsLB, nsm1, 9*us, rNotSpecified, atNFQueue) },
		},
		{
			name: "no-flow", outcomes: []Outcome{Dropped}, question: "M13", reason: "NOT_SPECIFIED", netns: "wm-meridio-lb",
			packets: func(s *stream) {
				s.tcp(1, 0, client4, 40000, vip4, 6000, syn).requestToLB().drop(nsLB, nsm1, 30*us, rNotSpecified, atReinject)
			},
		},
		{
			name: "no-target", outcomes: []Outcome{Dropped}, question: "M15", lb: trenchLB{noTarget: true}, netns: "wm-meridio-lb",
			packets: func(s *stream) { request(s, 1).requestToLB().drop(nsLB, nsm1, 30*us, rNotSpecified, atReinject) },
		},
		{
			// As drops sees it, without the hooks on devices.
			name: "no-target-alone", outcomes: []Outcome{Dropped}, question: "M15", lb: trenchLB{noTarget: true}, netns: "wm-meridio-lb",
			packets: func(s *stream) { request(s, 1).drop(nsLB, nsm1, 0, rNotSpecified, atReinject) },
		},
		{
			name: "vip-missing", outcomes: []Outcome{Dropped}, question: "M25", reason: "IP_INADDRERRORS", netns: "wm-meridio-t1",
			world:   func(w *trench) { w.devices[7] = device(nsT1, nscT1, "nsc", 0, "172.16.1.6/24", "fd00::ac10:106/120") },
			packets: func(s *stream) { request(s, 1).request().drop(nsT1, nscT1, 4*us, rInAddr, atIPError) },
		},
		{
			name: "vip-missing-6", outcomes: []Outcome{Dropped}, question: "M25", reason: "IP_INNOROUTES", netns: "wm-meridio-t1",
			world:   func(w *trench) { w.devices[7] = device(nsT1, nscT1, "nsc", 0, "172.16.1.6/24", "fd00::ac10:106/120") },
			packets: func(s *stream) { request6(s, 1).request().drop(nsT1, nscT1, 4*us, rInNoRoutes, atPktDiscard) },
		},
		{
			name: "rp-filter", outcomes: []Outcome{Dropped}, question: "M32", reason: "IP_RPFILTER", netns: "wm-meridio-lb",
			world: func(w *trench) { rpFilter(w) },
			packets: func(s *stream) {
				request(s, 1).requestToLB().mark(markT1).drop(nsLB, nsm1, 40*us, rRPFilter, atRcvFinish)
			},
		},
		{
			name: "rp-filter-unnamed", outcomes: []Outcome{Dropped}, question: "M32", reason: "NOT_SPECIFIED", netns: "wm-meridio-lb",
			world: func(w *trench) { rpFilter(w) },
			packets: func(s *stream) {
				request(s, 1).requestToLB().mark(markT1).drop(nsLB, nsm1, 40*us, rNotSpecified, atRcvFinish)
			},
		},
		{
			name: "forwarding-off", outcomes: []Outcome{Dropped}, question: "M32", reason: "IP_INADDRERRORS", netns: "wm-meridio-lb",
			world:   func(w *trench) { w.routing[nsLB].Sysctl["net/ipv4/conf/all/forwarding"] = "0" },
			packets: func(s *stream) { request(s, 1).requestToLB().mark(markT1).drop(nsLB, nsm1, 40*us, rInAddr, atIPError) },
		},
		{
			name: "no-fwmark-rule", outcomes: []Outcome{Dropped}, question: "M17", reason: "IP_INNOROUTES", netns: "wm-meridio-lb",
			world: noMarkRules,
			packets: func(s *stream) {
				request(s, 1).requestToLB().mark(markT1).drop(nsLB, nsm1, 40*us, rInNoRoutes, atIPError)
			},
		},
		{
			name: "no-fwmark-rule-6", outcomes: []Outcome{Dropped}, question: "M17", reason: "IP_INNOROUTES", netns: "wm-meridio-lb",
			world: noMarkRules,
			packets: func(s *stream) {
				request6(s, 1).requestToLB().mark(markT1).drop(nsLB, nsm1, 40*us, rInNoRoutes, atPktDiscard)
			},
		},
		{
			name: "mark-table-empty", outcomes: []Outcome{Dropped}, question: "M17", netns: "wm-meridio-lb",
			world: func(w *trench) { w.routing[nsLB].Routes = w.routing[nsLB].Routes[2:] },
			packets: func(s *stream) {
				request(s, 1).requestToLB().mark(markT1).drop(nsLB, nsm1, 40*us, rInNoRoutes, atIPError)
			},
		},
		{
			name: "not-queued", outcomes: []Outcome{Dropped}, question: "M31", netns: "wm-meridio-lb",
			packets: func(s *stream) { request(s, 1).requestToLB().drop(nsLB, nsm1, 10*us, rInNoRoutes, atIPError) },
		},
		{
			name: "blackhole-4097", outcomes: []Outcome{Dropped}, question: "M20", reason: "NOT_SPECIFIED", netns: "wm-meridio-lb",
			world:   noDefault,
			packets: func(s *stream) { reply(s, 1).replyToLB().drop(nsLB, lbToPX, 5*us, rNotSpecified, atIPError) },
		},
		{
			name: "blackhole-4097-6", outcomes: []Outcome{Dropped}, question: "M20", reason: "NOT_SPECIFIED", netns: "wm-meridio-lb",
			world:   noDefault,
			packets: func(s *stream) { reply6(s, 1).replyToLB().drop(nsLB, lbToPX, 5*us, rNotSpecified, atDstDiscard) },
		},
		{
			name: "no-egress-rule", outcomes: []Outcome{Dropped}, question: "M19", netns: "wm-meridio-lb",
			world: func(w *trench) {
				w.routing[nsLB].Rules = standardRules(4, fwmark(4, 99, markT1), from(4, 101, 4097, vip4+"/32"))
			},
			packets: func(s *stream) { reply(s, 1).replyToLB().drop(nsLB, lbToPX, 5*us, rNotSpecified, atIPError) },
		},
		{
			name: "no-proxy-rule", outcomes: []Outcome{Dropped}, question: "M23", reason: "IP_INNOROUTES", netns: "wm-meridio-px",
			world: func(w *trench) { w.routing[nsPX].Rules = standardRules(4) },
			packets: func(s *stream) {
				replyInProxy(reply(s, 1)).drop(nsPX, bridge0, 3*us, rInNoRoutes, atIPError)
			},
		},
		{
			name: "stale-neighbour", outcomes: []Outcome{Dropped}, question: "M35", reason: "OTHERHOST", netns: "wm-meridio-t1",
			packets: func(s *stream) { request(s, 1).request().drop(nsT1, nscT1, 3*us, rOtherHost, atRcvCore) },
		},
		{
			name: "neighbour-dead", outcomes: []Outcome{Dropped}, question: "M18", reason: "NEIGH_FAILED", netns: "wm-meridio-lb",
			packets: func(s *stream) {
				request(s, 1).requestToLB().mark(markT1).drop(nsLB, lbToPX, 9*us, rNeighFailed, atNeigh)
			},
		},
		{
			// IPv6 gives no reason.
			name: "neighbour-dead-6", outcomes: []Outcome{Dropped}, question: "M18", reason: "NOT_SPECIFIED", netns: "wm-meridio-lb",
			packets: func(s *stream) {
				request6(s, 1).requestToLB().mark(markT1).drop(nsLB, lbToPX, 9*us, rNotSpecified, atNeigh)
			},
		},
		{
			// What waited behind it; its header is still that of the device it came in by.
			name: "neighbour-dead-purged", outcomes: []Outcome{Dropped}, question: "M18", reason: "QUEUE_PURGE", netns: "wm-meridio-lb",
			packets: func(s *stream) {
				request(s, 1).requestToLB().mark(markT1).drop(nsLB, lbToPX, 9*us, rQueuePurge, atNeigh)
			},
		},
		{
			name: "no-carrier", outcomes: []Outcome{Dropped}, question: "M7", reason: "NEIGH_FAILED", netns: "wm-meridio-gw",
			world:   func(w *trench) { w.devices[1].Device.NoCarrier = true },
			packets: func(s *stream) { request(s, 1).drop(nsGW, ext0, 9*us, rNeighFailed, atNeigh) },
		},
		{
			// The state before the present one had no rule for the reply.
			name: "dead-nexthop", outcomes: []Outcome{Dropped}, question: "M24", reason: "NEIGH_FAILED", netns: "wm-meridio-px",
			world: func(w *trench) { w.routing[nsPX].Rules = standardRules(4) },
			packets: func(s *stream) {
				r := newTrench().routing[nsPX]
				r.Routes[0] = route(1, "0.0.0.0/0", "unicast", "172.16.1.4", "bridge0")
				s.contexts(&Context{Routing: r})
				replyInProxy(reply(s, 1)).drop(nsPX, bridge0, 9*us, rNeighFailed, atNeigh)
			},
		},
		{
			name: "one-dead-nexthop", outcomes: []Outcome{Dropped}, question: "M24", reason: "NEIGH_FAILED", netns: "wm-meridio-px",
			world: func(w *trench) {
				r := &w.routing[nsPX].Routes[0]
				r.Nexthops = append(r.Nexthops, Nexthop{Via: netip.MustParseAddr("172.16.1.4"), Dev: "bridge0"})
			},
			packets: func(s *stream) { replyInProxy(reply(s, 1)).drop(nsPX, bridge0, 9*us, rNeighFailed, atNeigh) },
		},
		{
			name: "bridge-down", outcomes: []Outcome{Dropped}, question: "M22", reason: "NOT_SPECIFIED", netns: "wm-meridio-px",
			world: func(w *trench) { w.devices[6].Device.Up = false },
			packets: func(s *stream) {
				request(s, 1).requestToLB().balanced().mark(0).in(nsPX, pxToLB, 9*us).drop(nsPX, pxToLB, us, rNotSpecified, atBridge)
			},
		},
		{
			// Where copies are not seen each is a packet of its own; the address in
			// the frame says whose the packet is.
			name: "flooded-unseen", outcomes: []Outcome{Open, Delivered},
			packets: func(s *stream) {
				p := request(s, 1)
				p.from, p.to = lbToPX, nscT1
				p.out(nsPX, pxToT2, 0).in(nsT2, nscT2, 5*us).drop(nsT2, nscT2, 1*us, rOtherHost, atRcvCore)
				s.tcp(2, 100_000, client4, 40000, vip4, 5000, syn).request()
			},
		},
		{
			// The answer to a repeated SYN comes after that to the first.
			name: "syn-ack-again", outcomes: []Outcome{Delivered},
			packets: func(s *stream) { reply(s, 1).reply().drop(nsGW, ext0, 3*us, rInvalidSYN, atTCPRcv) },
		},
		{
			name: "no-socket", outcomes: []Outcome{Dropped}, reason: "NO_SOCKET", netns: "wm-meridio-t1",
			packets: func(s *stream) { request(s, 1).request().drop(nsT1, nscT1, 3*us, rNoSocket, atTCPRcv) },
		},
		{
			name: "not-a-loss", outcomes: []Outcome{Delivered, Delivered, Delivered, Delivered},
			packets: func(s *stream) {
				s.tcp(1, 0, client4, 40000, vip4, 5000, ack).request().drop(0, 0, 3*us, rOldAck, atTCPRcv)
				s.tcp(2, 1000, client4, 40000, vip4, 5000, ack).request().drop(0, 0, 3*us, rSocketClose, atTCPRcv)
				s.packet(3, 2000, client6, vip6, 58).echo(128, 7, 1).request().drop(nsT1, nscT1, 3*us, rNotSpecified, atICMP6Rcv)
				s.tcp(4, 3000, client4, 40000, vip4, 5000, ack).request().consumed(3*us, atConsume)
			},
		},
		{
			name: "flooded", outcomes: []Outcome{Delivered},
			packets: func(s *stream) {
				p := request(s, 1).requestToLB().balanced().mark(0).in(nsPX, pxToLB, 9*us)
				c := p.clone(2, nsPX, pxToLB, 1*us)
				c.out(nsPX, pxToT1, 2*us).in(nsT1, nscT1, 2*us)
				p.out(nsPX, pxToT2, 6*us).in(nsT2, nscT2, 5*us).drop(nsT2, nscT2, 1*us, rOtherHost, atRcvCore)
			},
		},
		{
			name: "nat", outcomes: []Outcome{Delivered, Delivered},
			packets: func(s *stream) {
				p := s.tcp(1, 0, client4, 40000, "10.9.0.1", 80, syn)
				p.in(nsLB, nsm1, 0).addrs(client4, "172.16.1.6")
				p.rec.Ttl, p.rec.Dport = p.rec.Ttl-1, bits16(8080)
				p.out(nsLB, lbToPX, 9*us).in(nsT1, nscT1, 9*us)
				r := s.tcp(2, 100_000, "172.16.1.6", 8080, client4, 40000, synAck)
				r.out(nsT1, nscT1, 0).in(nsLB, lbToPX, 5*us).addrs("10.9.0.1", client4)
				r.rec.Ttl, r.rec.Sport = r.rec.Ttl-1, bits16(80)
				r.out(nsLB, nsm1, 9*us).in(nsGW, ext0, 5*us)
			},
			world: func(w *trench) { w.balancer, w.routing[nsLB] = nil, nil },
		},
		{
			name: "contradiction", outcomes: []Outcome{Delivered},
			packets: func(s *stream) {
				p := request(s, 1).requestToLB()
				p.rec.Ttl--
				p.mark(markT1+10).out(nsLB, lbToPX, 20*us).toTarget()
			},
		},
		{
			name: "icmp-error", outcomes: []Outcome{Delivered, Forwarded},
			packets: func(s *stream) {
				request(s, 1).request()
				inner := s.tcp(9, 0, vip4, 5000, client4, 40000, ack).frame()[14:]
				p := s.packet(2, 200_000, "169.254.100.150", vip4, 1)
				p.rec.IcmpType, p.rec.IcmpCode, p.app = 3, 4, inner
				p.out(nsGW, ext0, 0)
			},
		},
		{
			// The kernel puts fragments together before the queue; the whole
			// lives on in the skb of the last one.
			name: "defragmented", outcomes: []Outcome{Consumed, Delivered},
			packets: func(s *stream) {
				first := s.packet(1, 0, client4, vip4, 17)
				first.rec.Sport, first.rec.Dport, first.rec.FragOff, first.rec.IpId = bits16(40000), bits16(5000), 1, 77
				first.requestToLB().consumed(5*us, atConsume)
				last := s.packet(2, 1000, client4, vip4, 17)
				last.rec.FragOff, last.rec.IpId = 1480, 77
				last.request()
			},
		},
		{
			name: "forward-drop", outcomes: []Outcome{Dropped}, question: "C9", reason: "NETFILTER_DROP", netns: "wm-meridio-lb",
			packets: func(s *stream) {
				request(s, 1).requestToLB().chain(chainExt("nfqlb", prerouting), nfAccept).
					dropping(chainExt("forward", forward), 3*us).drop(nsLB, nsm1, us, rNetfilter, atNFTChain)
			},
		},
		{
			name: "rule-drop", outcomes: []Outcome{Dropped}, reason: "NETFILTER_DROP", netns: "wm-meridio-lb",
			packets: func(s *stream) {
				x := byRule(chainExt("forward", forward), "no-telnet", 12)
				s.contexts(&Context{NetfilterRule: &NetfilterRule{
					Netns: nsLB, TableHandle: tableHandle, Handle: 12, Table: "node", Chain: "no-telnet", Text: `tcp dport 23 counter drop comment "closed"`,
				}})
				x.Policy = nfAccept
				request(s, 1).requestToLB().dropping(x, 3*us).drop(nsLB, nsm1, us, rNetfilter, atNFTChain)
			},
		},
		{
			name: "gso-cut", outcomes: []Outcome{Delivered},
			packets: func(s *stream) {
				p := s.tcp(1, 0, client4, 40000, vip4, 5000, ack)
				p.app = make([]byte, 2800)
				p.requestToLB()
				a, b := p.segment(2, nsLB, nsm1, 4*us), p.segment(3, nsLB, nsm1, 5*us)
				p.drop(nsLB, nsm1, 9*us, rNotSpecified, atEnqueue)
				a.balanced().toTarget()
				b.balanced().toTarget()
			},
		},
		{
			name: "gso-cut-for-queue", outcomes: []Outcome{Consumed},
			packets: func(s *stream) {
				p := s.tcp(1, 0, client4, 40000, vip4, 5000, ack)
				p.app = make([]byte, 4000)
				p.requestToLB().drop(nsLB, nsm1, 9*us, rNotSpecified, atEnqueue)
			},
		},
	}...)
}

// replyInProxy sends p from the target to where the proxy routes it.
func replyInProxy(p *packet) *packet {
	p.from, p.to = nscT1, bridge0
	return p.out(nsT1, nscT1, 0).in(nsPX, pxToT1, 5*us).in(nsPX, bridge0, 3*us)
}

func rpFilter(w *trench) {
	s := w.routing[nsLB].Sysctl
	s["net/ipv4/conf/all/rp_filter"], s["net/ipv4/conf/nsm-1/rp_filter"] = "1", "1"
	w.routing[nsLB].Rules = standardRules(4, fwmark(4, 99, markT1))
}

// TestScenes runs every scene and compares what a user would read.
func TestScenes(t *testing.T) { runScenes(t, scenes()) }

func runScenes(t *testing.T, all []scene) {
	for _, sc := range all {
		t.Run(sc.name, func(t *testing.T) {
			w := newTrench()
			if sc.world != nil {
				sc.world(w)
			}
			s := &stream{t: t}
			s.contexts(w.contexts()...)
			sc.packets(s)
			s.contexts(&Context{Time: base + 1e9, Clock: &Clock{}})
			js := s.run(Options{LB: sc.lb})
			golden(t, sc.name, js)
			var got []Outcome
			for _, j := range js {
				got = append(got, j.Outcome)
				if !j.Complete {
					t.Errorf("%s is not complete: %v", j.ID, j.Notes)
				}
			}
			if len(got) != len(sc.outcomes) {
				t.Fatalf("outcomes %v, want %v", got, sc.outcomes)
			}
			for i := range got {
				if got[i] != sc.outcomes[i] {
					t.Fatalf("outcomes %v, want %v", got, sc.outcomes)
				}
			}
			if got[0] != Dropped {
				return
			}
			d := js[0].Drop
			if d == nil || d.Question != sc.question || sc.reason != "" && d.Reason != sc.reason || d.Netns != sc.netns {
				t.Errorf("drop %+v, want question %s, reason %s in %s", d, sc.question, sc.reason, sc.netns)
			}
			if d != nil && (d.Because == "" || d.Advice == "") {
				t.Errorf("%s has no explanation", d.Reason)
			}
		})
	}
}

func bits16(port uint16) uint16 {
	r := bpf.Record{Sport: port}
	return r.SrcPort()
}
