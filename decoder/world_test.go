// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"fmt"
	"net/netip"

	. "waymark/decoder"
)

// The namespaces, kernel addresses and reasons of the synthetic world: a
// Meridio trench as package scenarios builds it, on a 6.12 kernel.
const (
	nsGW uint32 = 4026530001 + iota
	nsLB
	nsPX
	nsT1
	nsT2
)

const (
	atNFQueue = 0xffffffff81000100 + iota*0x100
	atReinject
	atIPError
	atRcvFinish
	atPktDiscard
	atDstDiscard
	atRcvCore
	atNeigh
	atTCPRcv
	atConsume
	atICMP6Rcv
	atEnqueue
	atNFTChain
	atUDPQueue
	atHook
	atBridge
	atForward
	atBridgePush
)

var symbols = map[uint64]string{
	atNFQueue: "nf_queue+0x21c", atReinject: "nfqnl_reinject+0x5b [nfnetlink_queue]", atIPError: "ip_error+0x11a",
	atRcvFinish: "ip_rcv_finish_core.constprop.0+0x1a4", atPktDiscard: "ip6_pkt_drop+0x8a", atDstDiscard: "dst_discard+0x12",
	atRcvCore: "ip_rcv_core+0x33", atNeigh: "neigh_invalidate+0x9a", atTCPRcv: "tcp_v4_rcv+0x77", atConsume: "skb_free_datagram+0x11",
	atICMP6Rcv: "icmpv6_rcv+0x31", atEnqueue: "nfqnl_enqueue_packet+0x2b3 [nfnetlink_queue]",
	atNFTChain: "nft_do_chain+0x4d8 [nf_tables]",
	atUDPQueue: "udp_queue_rcv_one_skb+0x3f1", atHook: "nf_hook_slow+0xf1",
	atBridge: "br_handle_frame+0x1e2", atForward: "ip_forward+0x4a", atBridgePush: "br_dev_queue_push_xmit+0x70",
}

// Numbers as on 6.12, except that only names count.
const (
	rNotSpecified = 2 + iota
	rNoSocket
	rSocketClose
	rRPFilter
	rInAddr
	rInNoRoutes
	rOtherHost
	rOldAck
	rNeighFailed
	rRcvBuff
	rNetfilter
	rQueuePurge
	rInvalidSYN
	rTooBig
)

var reasons = map[uint32]string{
	rNotSpecified: "NOT_SPECIFIED", rNoSocket: "NO_SOCKET", rSocketClose: "SOCKET_CLOSE", rRPFilter: "IP_RPFILTER", rInAddr: "IP_INADDRERRORS",
	rInNoRoutes: "IP_INNOROUTES", rOtherHost: "OTHERHOST", rOldAck: "TCP_OLD_ACK", rNeighFailed: "NEIGH_FAILED",
	rRcvBuff: "SOCKET_RCVBUFF", rNetfilter: "NETFILTER_DROP", rQueuePurge: "QUEUE_PURGE", rInvalidSYN: "TCP_INVALID_SYN", rTooBig: "PKT_TOO_BIG",
}

// Device indexes; each is also the last byte of the device's MAC address.
const (
	ext0 uint32 = 11 + iota
	nsm1
	lbToPX // load-balan-274a
	pxToLB // load-balan-b0ef
	bridge0
	pxToT1 // proxy.load-0001
	nscT1
	loGW
	pxToT2
	nscT2
)

const (
	client4, client6 = "200.100.0.1", "200:100::1"
	vip4, vip6       = "10.0.0.1", "1000::1:a00:1"
	markT1           = 5048
)

func mac(index uint32) string { return fmt.Sprintf("02:00:00:00:00:%02x", index) }

func prefixes(s ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, p := range s {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	return ps
}

func device(ns, index uint32, name string, master uint32, addrs ...string) *Context {
	return &Context{Device: &Device{Netns: ns, Index: index, Name: name, MAC: mac(index), MTU: 1500, Up: true, Master: master, Addrs: prefixes(addrs...)}}
}

func lookup(family, prio, table int, f func(*Rule)) Rule {
	r := Rule{Family: family, Priority: prio, Table: table, Action: "lookup"}
	if f != nil {
		f(&r)
	}
	return r
}

func standardRules(family int, between ...Rule) []Rule {
	rules := append([]Rule{lookup(family, 0, 255, nil)}, between...)
	return append(rules, lookup(family, 32766, 254, nil), lookup(family, 32767, 253, nil))
}

func fwmark(family, prio int, mark uint32) Rule {
	return lookup(family, prio, int(mark), func(r *Rule) { r.Mark, r.MarkMask = mark, ^uint32(0) })
}

func from(family, prio, table int, src string) Rule {
	return lookup(family, prio, table, func(r *Rule) { r.Src = netip.MustParsePrefix(src) })
}

func route(table int, dst, typ, via, dev string) Route {
	r := Route{Table: table, Dst: netip.MustParsePrefix(dst), Type: typ, Family: 4}
	if r.Dst.Addr().Is6() {
		r.Family = 6
	}
	if dev != "" {
		nh := Nexthop{Dev: dev}
		if via != "" {
			nh.Via = netip.MustParseAddr(via)
		}
		r.Nexthops = []Nexthop{nh}
	}
	return r
}

// trench is the world's contexts, for tests to change before they are fed.
type trench struct {
	session  *Session
	routing  map[uint32]*Routing
	devices  []*Context
	names    []*Context
	balancer *Balancer
	queues   *Queues
}

func newTrench() *trench {
	ns := func(inode uint32, name, pod string) *Context {
		return &Context{Namespace: &Namespace{Inode: inode, Name: name, Pod: pod}}
	}
	return &trench{
		session: &Session{Version: "test", Format: 1, Node: "n1", Kernel: "6.12.117+deb12-amd64", WallOffset: 1795188131_000000000, SnapLen: 96},
		names:   []*Context{ns(nsGW, "wm-meridio-gw", ""), ns(nsLB, "wm-meridio-lb", ""), ns(nsPX, "wm-meridio-px", ""), ns(nsT1, "wm-meridio-t1", "red/target-a"), ns(nsT2, "wm-meridio-t2", "")},
		devices: []*Context{
			device(nsGW, loGW, "lo", 0, "127.0.0.1/8", client4+"/32", client6+"/128"),
			device(nsGW, ext0, "ext0", 0, "169.254.100.150/24", "100:100::150/64"),
			device(nsLB, nsm1, "nsm-1", 0, "169.254.100.2/24", "100:100::2/64"),
			device(nsLB, lbToPX, "load-balan-274a", 0, "172.16.1.2/24", "fd00::ac10:102/120"),
			device(nsPX, pxToLB, "load-balan-b0ef", bridge0, "172.16.1.3/24"),
			device(nsPX, pxToT1, "proxy.load-0001", bridge0, "172.16.1.7/24"),
			device(nsPX, bridge0, "bridge0", 0, "172.16.1.1/24", "fd00::ac10:101/120"),
			device(nsT1, nscT1, "nsc", 0, "172.16.1.6/24", vip4+"/32", "fd00::ac10:106/120", vip6+"/128"),
			device(nsT2, nscT2, "nsc", 0, "172.16.1.8/24", vip4+"/32", "fd00::ac10:108/120", vip6+"/128"),
			device(nsPX, pxToT2, "proxy.load-0002", bridge0, "172.16.1.9/24"),
		},
		routing: map[uint32]*Routing{
			nsLB: {
				Netns: nsLB,
				Rules: append(standardRules(4, fwmark(4, 99, markT1), from(4, 100, 4096, vip4+"/32"), from(4, 101, 4097, vip4+"/32")),
					standardRules(6, fwmark(6, 99, markT1), from(6, 100, 4096, vip6+"/128"), from(6, 101, 4097, vip6+"/128"))...),
				Routes: []Route{
					route(markT1, "0.0.0.0/0", "unicast", "172.16.1.6", "load-balan-274a"),
					route(markT1, "::/0", "unicast", "fd00::ac10:106", "load-balan-274a"),
					route(4096, "0.0.0.0/0", "unicast", "169.254.100.150", "nsm-1"),
					route(4096, "::/0", "unicast", "100:100::150", "nsm-1"),
					route(4097, "0.0.0.0/0", "blackhole", "", ""),
					route(4097, "::/0", "blackhole", "", "lo"),
					route(254, "169.254.100.0/24", "unicast", "", "nsm-1"),
					route(254, "172.16.1.0/24", "unicast", "", "load-balan-274a"),
					route(255, "169.254.100.2/32", "local", "", "nsm-1"),
				},
				Sysctl: map[string]string{"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/nsm-1/rp_filter": "0", "net/ipv4/conf/all/forwarding": "1", "net/ipv6/conf/all/forwarding": "1"},
			},
			nsPX: {
				Netns: nsPX,
				Rules: append(standardRules(4, from(4, 32765, 1, vip4+"/32")), standardRules(6, from(6, 32765, 1, vip6+"/128"))...),
				Routes: []Route{
					route(1, "0.0.0.0/0", "unicast", "172.16.1.2", "bridge0"),
					route(1, "::/0", "unicast", "fd00::ac10:102", "bridge0"),
					route(254, "172.16.1.0/24", "unicast", "", "bridge0"),
				},
				Sysctl: map[string]string{"net/ipv4/conf/all/forwarding": "1", "net/ipv6/conf/all/forwarding": "1"},
			},
			nsT1: {
				Netns: nsT1,
				Rules: append(standardRules(4, from(4, 32765, 1, vip4+"/32")), standardRules(6, from(6, 32765, 2, vip6+"/128"))...),
				Routes: []Route{
					route(1, "0.0.0.0/0", "unicast", "172.16.1.1", "nsc"),
					route(2, "::/0", "unicast", "fd00::ac10:101", "nsc"),
					route(254, "172.16.1.0/24", "unicast", "", "nsc"),
				},
				Sysctl: map[string]string{"net/ipv4/conf/all/forwarding": "0", "net/ipv6/conf/all/forwarding": "0"},
			},
		},
		balancer: &Balancer{
			Netns: nsLB, Name: "waymark",
			Flows:  []BalancerFlow{{Name: "tshm-stream-a-flow-a", Protocols: []string{"tcp", "udp"}, Dests: []string{"::ffff:" + vip4 + "/128", vip6 + "/128"}, DPorts: []string{"5000-5003"}, Target: "tshm-stream-a"}},
			Tables: []BalancerTable{{Name: "tshm-stream-a", M: 9973, N: 100}},
		},
		queues: &Queues{Netns: nsLB, Queues: []Queue{{Number: 0}, {Number: 1}, {Number: 2}, {Number: 3}}},
	}
}

// contexts are what the tracer writes before the first record.
func (t *trench) contexts() []*Context {
	cs := append([]*Context{{Session: t.session}}, t.names...)
	cs = append(cs, t.devices...)
	for _, ns := range []uint32{nsLB, nsPX, nsT1} {
		if r := t.routing[ns]; r != nil {
			cs = append(cs, &Context{Routing: r})
		}
	}
	if t.balancer != nil {
		cs = append(cs, &Context{Balancer: t.balancer})
	}
	if t.queues != nil {
		cs = append(cs, &Context{Queues: t.queues})
	}
	for a := range uint64(32) {
		if name, ok := symbols[atNFQueue+a*0x100]; ok {
			cs = append(cs, &Context{Symbol: &Symbol{Addr: atNFQueue + a*0x100, Name: name}})
		}
	}
	for n := range uint32(32) {
		if name, ok := reasons[n]; ok {
			cs = append(cs, &Context{Reason: &Reason{Number: n, Name: name}})
		}
	}
	return cs
}

// trenchLB decides as a balancer with one target does: whatever matches the
// flow gets markT1.
type trenchLB struct{ noTarget bool }

func (l trenchLB) Decide(b *Balancer, p *LBPacket) LBDecision {
	d := LBDecision{Mark: -1}
	ping := p.Proto == 1 || p.Proto == 58
	if len(b.Flows) == 0 || !ping && (p.DPort < 5000 || p.DPort > 5003) {
		d.Why = "no flow matches"
		return d
	}
	d.Flow, d.Hash, d.Index = b.Flows[0].Name, 2882910532, 5449
	if l.noTarget {
		d.Why = "no active target"
		return d
	}
	d.Target, d.Mark, d.Accept = 48, markT1, true
	return d
}
