// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// Faults of the node and of the network around it.

import (
	"context"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// cbr0AllPods are the addresses of all nodes' pods.
var (
	cbr0AllPods4 = netip.MustParsePrefix("10.4.0.0/16")
	cbr0AllPods6 = netip.MustParsePrefix("fd00:10:4::/48")
)

func cbr0NodeFaults() []Fault {
	node := cbr0.namespace(cbr0Node)
	return []Fault{
		{
			Name:     "conntrack-full",
			Question: "G9",
			Brief:    "the node tracks as many connections as the machine lets it",
			Traffic:  []string{"--to", "inbound", "-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: node, Dev: "eth0",
				Drops:   slices.Concat(measured(4, "NETFILTER_DROP", "nf_hook_slow"), measured(6, "NETFILTER_DROP", "nf_hook_slow")),
				Advice:  "the conntrack table is full: raise net.netfilter.nf_conntrack_max on the machine, or find who has so many connections",
				Because: "the conntrack table of wm-cbr0-node is full",
				Fix:     "raise net.netfilter.nf_conntrack_max",
			},
			break_: func(_ context.Context, w *World) error { return w.fillConnections(cbr0Node) },
			fix:    func(_ context.Context, w *World) error { return w.freeConnections(cbr0Node) },
		},
		{
			Name:     "routing-loop",
			Question: "K16",
			Brief:    "the other node is gone, and the network's router sends what is for its pods back to this one",
			Traffic:  []string{"--to", "remote", "-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: cbr0.namespace(cbr0Ext), Dev: "eth0",
				Drops:   slices.Concat(measured(4, "IP_INHDR", "ip_forward"), measured(6, "IP_INHDR", "ip6_forward")),
				Advice:  "the packet goes to and fro between the node and the router until its TTL is used up: give one of the two a route that leads on",
				Because: "so they go to and fro",
				Fix:     "one of the two needs a route that leads on",
			},
			break_: func(_ context.Context, w *World) error { return w.loop() },
			fix:    func(_ context.Context, w *World) error { return w.unloop() },
		},
		{
			Name:     "ptb-filtered",
			Question: "G7",
			Brief:    "the way out of the node has a smaller MTU than the pods, and a rule of the node drops its messages about that",
			Traffic:  []string{"--to", "vpc", "-c", "4", "--size", cbr0LargeSize},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: node, Dev: cbr0Bridge.dev,
				Drops: slices.Concat(measured(4, "PKT_TOO_BIG", "ip_forward"),
					// Which has given it to the device already.
					at("eth0", measured(6, "PKT_TOO_BIG", "ip6_forward"))),
				Advice:  "the node cannot send the packet on and its message about that is filtered, so the pod goes on sending as much: accept these messages, or give the pods the MTU of the way out",
				Because: "is not told: chain inet filter node-errors in wm-cbr0-node drops the ICMP message",
				Fix:     "accept ICMP",
			},
			break_: func(_ context.Context, w *World) error { return w.narrowQuietly(cbr0SmallMTU, w.addFilter) },
			fix:    func(_ context.Context, w *World) error { return w.narrowQuietly(cbr0MTU, w.removeFilter) },
		},
	}
}

// narrowQuietly sets the MTU of the node's way out, and the filter of messages about
// it. The other end keeps its MTU, for it would ask for smaller segments.
func (w *World) narrowQuietly(mtu int, filter func(filterRule) error) error {
	if err := w.setMTU(port{cbr0Node, "eth0"}, mtu); err != nil {
		return err
	}
	return filter(filterRule{"node-errors", nftables.ChainHookOutput, dropTooBig()})
}

// dropTooBig matches ICMP "fragmentation needed" and ICMPv6 "packet too big".
func dropTooBig() (rules [][]expr.Any) {
	for _, f := range meridioFamilies() {
		rules = append(rules, concat(f.is(), meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{f.icmp}),
			payload(expr.PayloadBaseTransportHeader, 0, f.tooBig)))
	}
	return rules
}

func cbr0LoopRoutes() []route {
	return []route{
		{node: cbr0Ext, dst: cbr0AllPods4, via: cbr0NodeAddr4.Addr(), dev: "eth0"},
		{node: cbr0Ext, dst: cbr0AllPods6, via: cbr0NodeAddr6.Addr(), dev: "eth0"},
	}
}

func cbr0RemoteAddresses() []address {
	lo := port{cbr0Ext, "lo"}
	return []address{{lo, host(cbr0Remote4)}, {lo, host(cbr0Remote6)}}
}

// loop takes the other node's pods from ext, which is the network's router now and
// sends all pods' packets to the node.
func (w *World) loop() error {
	if err := eachOf(cbr0RemoteAddresses(), w.removeAddress); err != nil {
		return err
	}
	if err := w.setForwarding(cbr0Ext, "1"); err != nil {
		return err
	}
	return eachOf(cbr0LoopRoutes(), w.addRoute)
}

func (w *World) unloop() error {
	if err := eachOf(cbr0LoopRoutes(), w.removeRoute); err != nil {
		return err
	}
	if err := w.setForwarding(cbr0Ext, "0"); err != nil {
		return err
	}
	return eachOf(cbr0RemoteAddresses(), w.addAddress)
}
