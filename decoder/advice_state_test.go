// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"cmp"
	"net/netip"
	"strings"
	"testing"

	"waymark/bpf"
	. "waymark/decoder"
)

// A director and a node with a pod, as far as explanations look at them.
const (
	nsDirector, nsOther, nsNode, nsPod = 301, 302, 303, 304
	uplink, bridgeCBR0, portPod, inPod = 2, 3, 4, 5

	nodeVIP = "10.54.213.148"
	podAddr = "10.4.0.12"

	inTCP, inFlood, inForward, inNFT, inHook, inNeigh, inFinish, inForwardSkb, inSocket = 0xa001, 0xa002, 0xa003, 0xa004, 0xa005, 0xa006, 0xa007, 0xa008, 0xa009
	noListener, noReason, badHeader, filtered, reversePath, tooBig                      = 81, 82, 83, 84, 85, 86
)

func nodeContexts() []*Context {
	device := func(ns, index uint32, name, kind string, master uint32, port *BridgePort, addrs ...string) *Context {
		d := &Device{Netns: ns, Index: index, Name: name, Kind: kind, Up: true, MTU: 1500, Master: master, Port: port}
		for _, a := range addrs {
			d.Addrs = append(d.Addrs, netip.MustParsePrefix(a))
		}
		return &Context{Device: d}
	}
	all := []*Context{
		{Session: &Session{Node: "n1", Format: 1}},
		device(nsDirector, uplink, "po0", "veth", 0, nil, "10.131.153.72/24"),
		device(nsOther, uplink, "po0", "veth", 0, nil, "10.131.153.101/24"),
		device(nsOther, 9, "10_54_213_148", "dummy", 0, nil, nodeVIP+"/32"),
		device(nsNode, uplink, "eth0", "veth", 0, nil, "10.128.0.5/24"),
		device(nsNode, bridgeCBR0, "cbr0", "bridge", 0, nil, "10.4.0.1/24"),
		device(nsNode, portPod, "veth0002", "veth", bridgeCBR0, &BridgePort{}),
		device(nsPod, inPod, "eth0", "veth", 0, nil, podAddr+"/24"),
		{Routing: &Routing{Netns: nsPod, Rules: standardRules(4), Routes: []Route{route(254, "0.0.0.0/0", "unicast", "10.4.0.1", "eth0")}}},
		{Routing: &Routing{Netns: nsNode, Rules: standardRules(4), Routes: []Route{route(254, "0.0.0.0/0", "unicast", "10.128.0.9", "eth0")}}},
	}
	for ns, name := range map[uint32]string{nsDirector: "d1", nsOther: "other", nsNode: "node", nsPod: "pod"} {
		all = append(all, &Context{Namespace: &Namespace{Inode: ns, Name: name}})
	}
	for at, name := range map[uint64]string{
		inTCP: "tcp_v4_rcv", inFlood: "br_flood", inForward: "ip_forward", inNFT: "nft_do_chain", inHook: "nf_hook_slow", inNeigh: "neigh_invalidate",
		inFinish: "ip_rcv_finish_core", inForwardSkb: "__dev_forward_skb2", inSocket: "tcp_v4_do_rcv",
	} {
		all = append(all, &Context{Symbol: &Symbol{Addr: at, Name: name + "+0x1"}})
	}
	for n, name := range map[uint32]string{noListener: "NO_SOCKET", noReason: "NOT_SPECIFIED", badHeader: "IP_INHDR", filtered: "NETFILTER_DROP", reversePath: "IP_RPFILTER", tooBig: "PKT_TOO_BIG"} {
		all = append(all, &Context{Reason: &Reason{Number: n, Name: name}})
	}
	return all
}

// directs is the table of a director for nodeVIP.
func directs(ns uint32, to string, weight int, method ...string) *Context {
	return &Context{IPVS: &IPVS{Netns: ns, Services: []IPVSService{{
		Proto: "tcp", Addr: netip.AddrPortFrom(netip.MustParseAddr(nodeVIP), 8012), Scheduler: "wrr",
		Destinations: []IPVSDestination{{Addr: netip.MustParseAddrPort(to), Method: cmp.Or(append(method, "direct")...), Weight: weight}},
	}}}}
}

// entry is what a director knows of the connection that toVIP sends.
func entry(ns uint32, to, state string, gone bool) *Context {
	return &Context{IPVSEntries: &IPVSEntries{Netns: ns, Entries: []IPVSEntry{
		{Proto: "tcp", Client: netip.MustParseAddrPort("198.51.100.2:39999"), Service: netip.MustParseAddrPort(nodeVIP + ":8012"), Destination: netip.MustParseAddrPort("10.131.153.109:8012"), State: "close", Gone: true},
		{Proto: "tcp", Client: netip.MustParseAddrPort("198.51.100.2:40000"), Service: netip.MustParseAddrPort(nodeVIP + ":8012"), Destination: netip.MustParseAddrPort(to), State: state, Gone: gone},
	}}}
}

func timeouts(c *Context, tcp int) *Context {
	c.IPVS.Timeouts = &IPVSTimeouts{TCP: tcp, TCPFIN: 120, UDP: 300}
	return c
}

func sysctls(ns uint32, pairs ...string) *Context {
	values := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		values[pairs[i]] = pairs[i+1]
	}
	return &Context{Sysctls: &Sysctls{Netns: ns, Values: values}}
}

func chains(all ...Chain) *Context { return &Context{Chains: &Chains{Netns: nsNode, Chains: all}} }

func dropRule(handle uint64, text string) NetfilterRule {
	return NetfilterRule{Handle: handle, Text: text}
}

// TestDropsExplainedByState: what the state of namespaces says of a drop that
// nothing else was seen of.
func TestDropsExplainedByState(t *testing.T) {
	const client = "198.51.100.2"
	elsewhere := directs(nsDirector, "10.131.153.102:8012", 1)
	filter := Chain{Family: "inet", Table: "filter", Name: "forward", Hook: "forward", Policy: "accept"}
	icmp, port, policy := filter, filter, filter
	icmp.Drops = []NetfilterRule{dropRule(7, "icmp type echo-request counter drop"), dropRule(8, "tcp dport 22 drop")}
	port.Drops = []NetfilterRule{dropRule(7, "udp dport 53 drop"), dropRule(8, "tcp dport 4240 counter drop")}
	policy.Policy = "drop"
	two := filter
	two.Drops = []NetfilterRule{dropRule(7, "ip saddr 198.51.100.2 drop"), dropRule(8, "drop")}

	toVIP := func(flags uint8) func(*stream) *packet {
		return func(s *stream) *packet { return s.tcp(1, 0, client, 40000, nodeVIP, 8012, flags) }
	}
	toPod := func(port uint16) func(*stream) *packet {
		return func(s *stream) *packet { return s.tcp(1, 0, client, 40000, podAddr, port, syn) }
	}
	for name, c := range map[string]struct {
		contexts []*Context
		packet   func(*stream) *packet
		ns, dev  uint32
		reason   uint32
		at       uint64
		question string
		because  string
	}{
		"no service here": {
			[]*Context{elsewhere, {IPVS: &IPVS{Netns: nsOther, Services: []IPVSService{{Proto: "fwm", Mark: 1, Scheduler: "rr"}}}}},
			toVIP(syn), nsOther, uplink, noListener, inTCP, "R6", "the IPVS of other lacks the service tcp 10.54.213.148:8012, which d1 has",
		},
		"no table here": {[]*Context{elsewhere}, toVIP(syn), nsOther, uplink, noListener, inTCP, "R5", "the IPVS table of other is empty"},
		"no rule at the realserver": {
			[]*Context{directs(nsDirector, "10.131.153.101:8012", 1), sysctls(nsOther, "net.ipv4.conf.all.arp_ignore", "0")},
			toVIP(syn), nsOther, uplink, noListener, inTCP, "R28", "d1 sends tcp 10.54.213.148:8012 here by IPVS",
		},
		"answers ARP": {
			[]*Context{elsewhere, sysctls(nsOther, "net.ipv4.conf.all.arp_ignore", "0", "net.ipv4.conf.po0.arp_ignore", "0")},
			toVIP(syn), nsOther, uplink, noListener, inTCP, "R20", "other answers ARP for 10.54.213.148",
		},
		"answers no ARP": {
			[]*Context{elsewhere, sysctls(nsOther, "net.ipv4.conf.all.arp_ignore", "0", "net.ipv4.conf.po0.arp_ignore", "1")},
			toVIP(syn), nsOther, uplink, noListener, inTCP, "R5", "",
		},
		"unknown connection": {
			[]*Context{directs(nsOther, "10.131.153.102:8012", 1), sysctls(nsOther, "net.ipv4.vs.sloppy_tcp", "0")},
			toVIP(ack), nsOther, uplink, noListener, inTCP, "R23", "by way of another director",
		},
		"forgotten connection": {
			[]*Context{timeouts(directs(nsOther, "10.131.153.102:8012", 1), 2), sysctls(nsOther, "net.ipv4.vs.sloppy_tcp", "0")},
			toVIP(ack), nsOther, uplink, noListener, inTCP, "R8", "its TCP timeout is 2 s",
		},
		"connection is kept for long": {
			[]*Context{timeouts(directs(nsOther, "10.131.153.102:8012", 1), 900), sysctls(nsOther, "net.ipv4.vs.sloppy_tcp", "0")},
			toVIP(ack), nsOther, uplink, noListener, inTCP, "R23", "by way of another director",
		},
		"destination is gone": {
			[]*Context{directs(nsOther, "10.131.153.102:8012", 1), entry(nsOther, "10.131.153.101:8012", "established", true), sysctls(nsOther, "net.ipv4.vs.expire_nodest_conn", "0")},
			toVIP(ack), nsOther, uplink, filtered, inHook, "R9", "to 10.131.153.101:8012 (established), which is no destination of the service any more",
		},
		"service is gone": {
			[]*Context{{IPVS: &IPVS{Netns: nsOther}}, entry(nsOther, "10.131.153.101:8012", "established", true), sysctls(nsOther, "net.ipv4.vs.expire_nodest_conn", "0")},
			toVIP(ack), nsOther, uplink, filtered, inHook, "R9", "to 10.131.153.101:8012 (established)",
		},
		"destination is back": {
			[]*Context{directs(nsOther, "10.131.153.101:8012", 1), entry(nsOther, "10.131.153.101:8012", "established", true), sysctls(nsOther, "net.ipv4.vs.expire_nodest_conn", "0")},
			toVIP(ack), nsOther, uplink, filtered, inHook, "", "a netfilter rule",
		},
		"connections of what is gone expire": {
			[]*Context{directs(nsOther, "10.131.153.102:8012", 1), entry(nsOther, "10.131.153.101:8012", "established", true), sysctls(nsOther, "net.ipv4.vs.expire_nodest_conn", "1")},
			toVIP(ack), nsOther, uplink, filtered, inHook, "", "a netfilter rule",
		},
		"port of an older connection": {
			[]*Context{directs(nsDirector, "10.131.153.101:8012", 0), entry(nsDirector, "10.131.153.101:8012", "fin_wait", false), sysctls(nsDirector, "net.ipv4.vs.conn_reuse_mode", "1")},
			toVIP(syn), nsOther, uplink, noListener, inTCP, "R7", "d1 sends it here by its entry of an older connection from the same port, to 10.131.153.101:8012 (its state by now: fin_wait), which has weight 0",
		},
		"that is no new connection": {
			[]*Context{directs(nsDirector, "10.131.153.101:8012", 0), entry(nsDirector, "10.131.153.101:8012", "fin_wait", false), sysctls(nsDirector, "net.ipv4.vs.conn_reuse_mode", "1")},
			toVIP(ack), nsOther, uplink, noListener, inTCP, "R28", "d1 sends tcp 10.54.213.148:8012 here by IPVS",
		},
		"ended connections make way": {
			[]*Context{directs(nsDirector, "10.131.153.101:8012", 0), entry(nsDirector, "10.131.153.101:8012", "fin_wait", false), sysctls(nsDirector, "net.ipv4.vs.conn_reuse_mode", "3")},
			toVIP(syn), nsOther, uplink, noListener, inTCP, "R28", "d1 sends tcp 10.54.213.148:8012 here by IPVS",
		},
		"taken up by a director": {
			nil, func(s *stream) *packet {
				return toVIP(ack)(s).in(nsLB, nsm1, 0).ipvs(bpf.HookIPVSForward, connection(3, bpf.IPVSNew|bpf.IPVSDest, 0))
			}, nsOther, uplink, noReason, inSocket, "R24", " took it up in the middle of its connection, which it did not know (net.ipv4.vs.sloppy_tcp is 1 there), and chose other",
		},
		"known to a director": {
			nil, func(s *stream) *packet {
				return toVIP(ack)(s).in(nsLB, nsm1, 0).ipvs(bpf.HookIPVSForward, connection(3, bpf.IPVSDest, 1))
			}, nsOther, uplink, noReason, inSocket, "", "",
		},
		"out of a tunnel": {
			[]*Context{directs(nsDirector, "10.131.153.101:8012", 1, "tunnel"), {Device: &Device{Netns: nsOther, Index: 7, Name: "tunl0", Kind: "ipip", Up: true}}},
			toPod(8080), nsOther, 7, reversePath, inFinish, "R29", "answers never go back into the tunnel",
		},
		"no weight": {
			[]*Context{directs(nsOther, "10.131.153.102:8012", 0)},
			toVIP(syn), nsOther, uplink, filtered, inHook, "R28", "10.131.153.102:8012 weight 0",
		},
		"no address": {
			[]*Context{directs(nsDirector, "10.131.153.102:8012", 1)},
			toVIP(syn), nsDirector, uplink, badHeader, inForward, "R30", "but not the address 10.54.213.148",
		},
		"conntrack full": {
			[]*Context{sysctls(nsNode, "net.netfilter.nf_conntrack_count", "512", "net.netfilter.nf_conntrack_max", "512")},
			toPod(8080), nsNode, uplink, filtered, inHook, "G9", "is full (at most 512 connections)",
		},
		"conntrack not full": {
			[]*Context{sysctls(nsNode, "net.netfilter.nf_conntrack_count", "511", "net.netfilter.nf_conntrack_max", "512")},
			toPod(8080), nsNode, uplink, filtered, inHook, "", "a netfilter rule",
		},
		"echo in the forward chain": {
			[]*Context{chains(icmp)},
			func(s *stream) *packet { return s.packet(1, 0, client, podAddr, 1).echo(8, 5, 1) },
			nsNode, uplink, filtered, inNFT, "C4", "by rule 7: icmp type echo-request",
		},
		"health in the forward chain": {[]*Context{chains(port)}, toPod(4240), nsNode, uplink, filtered, inNFT, "C5", "by rule 8: tcp dport 4240"},
		"policy":                      {[]*Context{chains(policy)}, toPod(80), nsNode, uplink, filtered, inNFT, "C9", "chain inet filter forward"},
		"policy of another hook": {
			[]*Context{chains(policy)},
			func(s *stream) *packet { return s.tcp(1, 0, client, 1, "10.128.0.5", 80, syn) },
			nsNode, uplink, filtered, inNFT, "", "a netfilter rule",
		},
		"one of two rules":          {[]*Context{chains(two)}, toPod(80), nsNode, uplink, filtered, inNFT, "", "a netfilter rule"},
		"not learnt":                {nil, toPod(80), nsNode, portPod, noReason, inFlood, "G5", "veth0002 neither learns"},
		"too big for the other end": {nil, toPod(80), nsNode, portPod, noReason, inForwardSkb, "G7", "the other end of node/veth0002, a veth pair, takes no packet of 40 bytes"},
		"not translated back": {
			[]*Context{sysctls(nsNode, "net.bridge.bridge-nf-call-iptables", "0")},
			func(s *stream) *packet { return s.tcp(1, 0, "10.4.0.13", 8080, podAddr, 40000, synAck) },
			nsPod, inPod, noListener, inTCP, "G6", "the rules of node have not translated",
		},
		"pod without a server": {nil, toPod(8080), nsPod, inPod, noListener, inTCP, "K14", "a pod behind node/cbr0"},
		"pod is gone":          {nil, toPod(8080), nsNode, bridgeCBR0, noReason, inNeigh, "K15", "the pod is gone"},
		"to and fro": {
			nil, func(s *stream) *packet {
				p := s.tcp(1, 0, "10.4.0.11", 40000, "10.4.1.5", 80, syn)
				p.rec.Ttl = 1
				return p
			}, nsNode, uplink, badHeader, inForward, "K16", "node sends packets for 10.4.1.5 back out of eth0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &stream{t: t}
			s.contexts(nodeContexts()...)
			s.contexts(c.contexts...)
			c.packet(s).drop(c.ns, c.dev, 0, c.reason, c.at)
			js := s.run(Options{})
			if len(js) != 1 || js[0].Drop == nil {
				t.Fatalf("%d journeys: %+v", len(js), js)
			}
			d := js[0].Drop
			if d.Question != c.question || !strings.Contains(d.Because, c.because) || strings.ContainsAny(d.Because+d.Advice, "{}") {
				t.Errorf("explained as %s: %q, advice %q; want %s with %q", d.Question, d.Because, d.Advice, c.question, c.because)
			}
		})
	}
}
