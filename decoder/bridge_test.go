// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"testing"

	"waymark/bpf"
	. "waymark/decoder"
)

// Values of net/bridge, see bridge.go.
const (
	hairpin               = 1
	portBlocking          = 4
	portForwarding        = 3
	atFinish       uint64 = 0xffffffff82000200
	atPush         uint64 = 0xffffffff82000300
)

// bridge notes a decision of px's bridge about p, which is at dev.
func (p *packet) bridge(hook bpf.Hook, dev uint32, x bpf.BridgeExt) *packet {
	x.Bridge = bridge0
	p.ext = bpf.EncodeExt(x)
	p.after(us).write(hook, nsPX, dev)
	p.ext = nil
	return p
}

// to is a port that may send.
func to(port uint32) bpf.BridgeExt { return bpf.BridgeExt{Out: port, PortState: portForwarding} }

func bridgeScenes() []scene {
	drops := func(s *stream, x bpf.BridgeExt) {
		s.contexts(&Context{Symbol: &Symbol{Addr: atFinish, Name: "br_handle_frame_finish+0x1c2 [bridge]"}})
		s.tcp(1, 0, vip4, 5000, client4, 40000, ack).in(nsPX, pxToT1, 0).
			bridge(bpf.HookBridgeForward, pxToT1, x).drop(nsPX, pxToT1, us, rNotSpecified, atFinish)
	}
	const netns = "wm-meridio-px"
	return []scene{
		{
			name: "bridge-forward", outcomes: []Outcome{Delivered},
			packets: func(s *stream) {
				x := to(pxToT1)
				x.Flags = bpf.BridgeNetfilter
				s.tcp(1, 0, client4, 40000, vip4, 5000, syn).in(nsPX, pxToLB, 0).bridge(bpf.HookBridgeForward, pxToLB, x).
					out(nsPX, pxToT1, us).in(nsT1, nscT1, us)
			},
		},
		{
			// Up, routed, and down again.
			name: "bridge-up", outcomes: []Outcome{Forwarded},
			packets: func(s *stream) {
				p := s.tcp(1, 0, vip4, 5000, client4, 40000, ack).in(nsPX, pxToT1, 0).bridge(bpf.HookBridgeForward, pxToT1, bpf.BridgeExt{Out: bridge0})
				p.in(nsPX, bridge0, us)
				p.rec.Ttl--
				p.out(nsPX, bridge0, us).bridge(bpf.HookBridgeForward, bridge0, to(pxToLB)).out(nsPX, pxToLB, us)
			},
		},
		{
			name: "bridge-flood", outcomes: []Outcome{Delivered},
			packets: func(s *stream) {
				p := s.tcp(1, 0, client4, 40000, vip4, 5000, syn).in(nsPX, pxToLB, 0).bridge(bpf.HookBridgeFlood, pxToLB, bpf.BridgeExt{})
				p.clone(2, nsPX, pxToLB, us).out(nsPX, pxToT1, 2*us).in(nsT1, nscT1, 2*us)
				p.out(nsPX, pxToT2, 6*us).in(nsT2, nscT2, 5*us).drop(nsT2, nscT2, us, rOtherHost, atRcvCore)
			},
		},
		{
			name: "bridge-hairpin", outcomes: []Outcome{Delivered},
			packets: func(s *stream) {
				x := to(pxToT1)
				x.PortFlags = hairpin
				s.tcp(1, 0, client4, 40000, vip4, 5000, syn).in(nsPX, pxToT1, 0).bridge(bpf.HookBridgeForward, pxToT1, x).
					out(nsPX, pxToT1, us).in(nsT1, nscT1, us)
			},
		},
		{
			name: "bridge-hairpin-off", outcomes: []Outcome{Dropped}, question: "G6", netns: netns,
			packets: func(s *stream) { drops(s, to(pxToT1)) },
		},
		{
			name: "bridge-blocking", outcomes: []Outcome{Dropped}, question: "M22", netns: netns,
			packets: func(s *stream) { drops(s, bpf.BridgeExt{Out: pxToLB, PortState: portBlocking}) },
		},
		{
			name: "bridge-mtu", outcomes: []Outcome{Dropped}, question: "G7", netns: netns,
			// Where no balancer is known: on the way to a virtual address it is M29.
			world: func(w *trench) { w.devices[9].Device.MTU, w.balancer = 1400, nil },
			packets: func(s *stream) {
				s.contexts(&Context{Symbol: &Symbol{Addr: atPush, Name: "br_dev_queue_push_xmit+0x11 [bridge]"}})
				p := s.tcp(1, 0, client4, 40000, vip4, 5000, ack)
				p.app = make([]byte, 1361) // one more than fits behind 40 bytes of headers
				p.in(nsPX, pxToLB, 0).bridge(bpf.HookBridgeForward, pxToLB, to(pxToT2)).drop(nsPX, pxToT2, us, rNotSpecified, atPush)
			},
		},
		{
			name: "bridge-vlan", outcomes: []Outcome{Dropped}, question: "M22", netns: netns,
			packets: func(s *stream) { drops(s, to(pxToLB)) },
		},
	}
}

func TestBridge(t *testing.T) { runScenes(t, bridgeScenes()) }
