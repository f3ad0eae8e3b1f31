// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"net/netip"
	"testing"

	. "waymark/decoder"
)

// flowLB takes what the balancer's own flow names, of which it looks at the ports.
type flowLB struct{ trenchLB }

func (l flowLB) Decide(b *Balancer, p *LBPacket) LBDecision {
	if b.Flows[0].DPorts[0] != "5000-5003" {
		return LBDecision{Mark: -1, Why: "no flow matches"}
	}
	return l.trenchLB.Decide(b, p)
}

// TestStateTellsDropsApart: drops that look the same to the kernel are told apart
// by what is known of the namespaces.
func TestStateTellsDropsApart(t *testing.T) {
	request := func(s *stream) *packet { return s.tcp(1, 0, client4, 40000, vip4, 5000, syn) }
	reply := func(s *stream) *packet { return s.tcp(1, 0, vip4, 5000, client4, 40000, synAck) }
	big := func(s *stream) *packet {
		p := s.packet(1, 0, client4, vip4, 17)
		p.rec.Sport, p.rec.Dport, p.app = bits16(40000), bits16(5000), make([]byte, 1400)
		return p
	}
	dropped := []Outcome{Dropped}
	runScenes(t, []scene{
		{
			name: "old-flow", outcomes: dropped, question: "M12", netns: "wm-meridio-lb", lb: flowLB{},
			packets: func(s *stream) {
				b := *newTrench().balancer
				b.Flows = []BalancerFlow{{Name: b.Flows[0].Name, Dests: b.Flows[0].Dests, DPorts: []string{"6000-6003"}, Target: b.Flows[0].Target}}
				s.contexts(&Context{Balancer: &b})
				request(s).requestToLB().drop(nsLB, nsm1, 30*us, rNotSpecified, atReinject)
			},
		},
		{
			name: "no-flow-for-address", outcomes: dropped, question: "M13", netns: "wm-meridio-lb", lb: flowLB{},
			world: func(w *trench) {
				w.balancer.Flows[0].Dests, w.balancer.Flows[0].DPorts = []string{"10.0.0.2/32"}, []string{"6000"}
			},
			packets: func(s *stream) { request(s).requestToLB().drop(nsLB, nsm1, 30*us, rNotSpecified, atReinject) },
		},
		{
			name: "wrong-mark", outcomes: dropped, question: "M16", netns: "wm-meridio-lb",
			packets: func(s *stream) { request(s).requestToLB().mark(9999).drop(nsLB, nsm1, 40*us, rInNoRoutes, atIPError) },
		},
		{
			// Where the verdict is seen, the decision is told once.
			name: "wrong-mark-after-queue", outcomes: dropped, question: "M16", netns: "wm-meridio-lb",
			packets: func(s *stream) {
				request(s).requestToLB().enqueue(7, 0).mark(markT1).verdict(7, 1).mark(9999).drop(nsLB, nsm1, 40*us, rInNoRoutes, atIPError)
			},
		},
		{
			name: "proxy-link-down", outcomes: dropped, question: "M8", netns: "wm-meridio-lb",
			world: func(w *trench) {
				w.devices[3].Device.Up = false
				w.routing[nsLB].Routes = w.routing[nsLB].Routes[2:]
			},
			packets: func(s *stream) { request(s).requestToLB().mark(markT1).drop(nsLB, nsm1, 40*us, rInNoRoutes, atIPError) },
		},
		{
			name: "no-address", outcomes: dropped, question: "M6", reason: "NEIGH_FAILED", netns: "wm-meridio-px",
			world:   func(w *trench) { w.devices[3].Device.Addrs = prefixes("fe80::1/64") },
			packets: func(s *stream) { replyInProxy(reply(s)).drop(nsPX, bridge0, 9*us, rNeighFailed, atNeigh) },
		},
		{
			name: "vip-unannounced", outcomes: dropped, question: "M9", reason: "NEIGH_FAILED", netns: "wm-meridio-gw",
			packets: func(s *stream) {
				s.contexts(&Context{Routing: &Routing{Netns: nsGW, Rules: standardRules(4), Routes: []Route{route(254, "0.0.0.0/0", "unicast", "169.254.100.1", "ext0")}}})
				request(s).drop(nsGW, ext0, 9*us, rNeighFailed, atNeigh)
			},
		},
		{
			name: "no-ptb", outcomes: dropped, question: "M34", reason: "PKT_TOO_BIG", netns: "wm-meridio-lb",
			world:   func(w *trench) { w.routing[nsLB].Sysctl["net.ipv4.fwmark_reflect"] = "0" },
			packets: func(s *stream) { big(s).requestToLB().mark(markT1).drop(nsLB, nsm1, 40*us, rTooBig, atForward) },
		},
		{
			name: "no-gateway", outcomes: dropped, question: "M39", reason: "NOT_SPECIFIED", netns: "wm-meridio-lb2",
			packets: func(s *stream) {
				secondBalancer(s)
				p := replyInProxy(reply(s))
				p.rec.Ttl--
				p.out(nsPX, bridge0, 6*us).out(nsPX, pxToLB2, 2*us).in(nsLB2, lb2ToPX, 4*us).drop(nsLB2, lb2ToPX, 5*us, rNotSpecified, atIPError)
			},
		},
		{
			name: "no-defrag", outcomes: dropped, question: "M33", reason: "NOT_SPECIFIED", netns: "wm-meridio-lb",
			packets: func(s *stream) {
				p := big(s)
				p.rec.FragOff = 1400
				p.requestToLB().drop(nsLB, nsm1, 30*us, rNotSpecified, atReinject)
			},
		},
		{
			name: "small-mtu", outcomes: dropped, question: "M29", netns: "wm-meridio-px",
			world: func(w *trench) { w.devices[5].Device.MTU = 1300 },
			packets: func(s *stream) {
				big(s).requestToLB().balanced().mark(0).in(nsPX, pxToLB, 9*us).drop(nsPX, pxToT1, 4*us, rNotSpecified, atBridgePush)
			},
		},
	})
}

// A second load balancer, which has no gateway.
const (
	nsLB2   uint32 = 4026530101
	pxToLB2 uint32 = 31
	lb2ToPX uint32 = 32
)

// secondBalancer has the proxy divide replies between it and the first.
func secondBalancer(s *stream) {
	px := *newTrench().routing[nsPX]
	px.Routes[0].Nexthops = append(px.Routes[0].Nexthops, Nexthop{Via: netip.MustParseAddr("172.16.1.12"), Dev: "bridge0"})
	s.contexts(
		&Context{Namespace: &Namespace{Inode: nsLB2, Name: "wm-meridio-lb2"}},
		device(nsPX, pxToLB2, "load-balan-b1ef", bridge0),
		device(nsLB2, lb2ToPX, "load-balan-274b", 0, "172.16.1.12/24"),
		&Context{Routing: &px},
		&Context{Routing: &Routing{
			Netns: nsLB2, Rules: standardRules(4, from(4, 100, 4096, vip4+"/32"), from(4, 101, 4097, vip4+"/32")),
			Routes: []Route{route(4097, "0.0.0.0/0", "blackhole", "", "")},
		}})
}
