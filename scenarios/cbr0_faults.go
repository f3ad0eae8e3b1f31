// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

const (
	cbr0MTU       = 1500
	cbr0SmallMTU  = 1400
	cbr0LargeSize = "1420" // bytes that fit into one packet, but not into one of cbr0SmallMTU
)

// cbr0Faults is the fault table of the cbr0 lab. The bridge comes first: no
// other repair works on one that is down.
func cbr0Faults() []Fault {
	node, p1, p2 := cbr0.namespace(cbr0Node), cbr0Pods[0], cbr0Pods[1]
	return slices.Concat([]Fault{
		{
			Name:     "cbr0-down",
			Question: "G4",
			Brief:    "the bridge is down",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: node, Dev: p1.port,
				// As long as the pods remember each other's hardware addresses.
				Drops: slices.Concat(
					measuredOn([]string{"6.1", "6.12"}, 4, "NOT_SPECIFIED", "br_handle_frame"),
					measuredOn([]string{"6.1", "6.12"}, 6, "NOT_SPECIFIED", "br_handle_frame"),
					measuredOn([]string{"6.18"}, 4, "BRIDGE_INGRESS_STP_STATE", "br_handle_frame"),
					measuredOn([]string{"6.18"}, 6, "BRIDGE_INGRESS_STP_STATE", "br_handle_frame")),
				Advice:  "the bridge is down, so its ports take nothing: set cbr0 up on the node",
				Because: "the bridge that wm-cbr0-node/veth0001 is a port of, is down",
				Fix:     "ip link set cbr0 up",
			},
			break_: func(ctx context.Context, w *World) error { return w.cbr0Down(ctx) },
			fix:    func(ctx context.Context, w *World) error { return w.cbr0Up(ctx) },
		},
		{
			Name:     "hairpin-off",
			Question: "G6",
			Brief:    "p1's port of the bridge is not in hairpin mode: p1 cannot reach itself through a service",
			Traffic:  []string{"--to", "hairpin", "-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: node, Dev: p1.port,
				// br_forward, which refuses, returns by way of the free.
				Drops: slices.Concat(measured(4, "NOT_SPECIFIED", "br_handle_frame_finish"),
					measured(6, "NOT_SPECIFIED", "br_handle_frame_finish")),
				Advice:  "the bridge sends nothing back through the port it came from: set hairpin mode on the pod's port",
				Because: "hairpin mode is off at wm-cbr0-node/veth0001",
				Fix:     "bridge link set dev veth0001 hairpin on",
			},
			break_: func(_ context.Context, w *World) error { return w.setHairpin(port{cbr0Node, p1.port}, false) },
			fix:    func(_ context.Context, w *World) error { return w.setHairpin(port{cbr0Node, p1.port}, true) },
			needs:  (*World).needsBridgeNetfilter,
		},
		{
			Name:     "no-bridge-nf",
			Question: "G6",
			Brief:    "bridged packets are kept from netfilter: a service's replies from pod to pod are not translated back",
			Traffic:  []string{"--to", "service", "-c", "6", "--timeout", "2s"},
			Expect: Expect{
				Outcome: "dropped", Packet: "reply", Netns: cbr0.namespace(p1.node), Dev: "eth0",
				Drops: slices.Concat(measured(4, "NO_SOCKET", "tcp_v4_rcv"),
					measured(6, "NO_SOCKET", "tcp_v6_rcv")),
				Advice:  "the reply comes from the pod and not from the service, because the bridge hides it from conntrack: set net.bridge.bridge-nf-call-iptables and -ip6tables to 1 on the node",
				Because: "have not translated the answer back",
				Fix:     "to 1 in wm-cbr0-node",
			},
			break_: func(_ context.Context, w *World) error { return w.setBridgeNetfilter(cbr0Node, "0") },
			fix:    func(_ context.Context, w *World) error { return w.setBridgeNetfilter(cbr0Node, "1") },
			needs:  (*World).needsBridgeNetfilter,
		},
		{
			Name:     "forward-drop",
			Question: "C9",
			Brief:    "the node's forward chain drops by policy",
			Traffic:  []string{"--to", "internet", "-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: node, Dev: cbr0Bridge.dev,
				Drops: slices.Concat(measured(4, "NETFILTER_DROP", "nft_do_chain"),
					measured(6, "NETFILTER_DROP", "nft_do_chain")),
				Advice:  "the policy of the node's forward chain drops what pods send: accept it there, or set the policy to accept",
				Because: "the chain's policy is drop",
				Fix:     "nft list chain inet kube forward",
			},
			break_: func(_ context.Context, w *World) error { return w.setForwardPolicy(nftables.ChainPolicyDrop) },
			fix:    func(_ context.Context, w *World) error { return w.setForwardPolicy(nftables.ChainPolicyAccept) },
		},
		{
			Name:     "small-mtu",
			Question: "G7",
			Brief:    "p2's port of the bridge has a smaller MTU than the pods: large IPv4 packets are lost without a word",
			Traffic:  []string{"-c", "4", "--size", cbr0LargeSize},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: node, Dev: p2.port,
				// With br_netfilter, and without it. For IPv6 br_netfilter tells the
				// sender, who then sends less: nothing is broken.
				Drops:   measured(4, "NOT_SPECIFIED", "br_nf_dev_queue_xmit", "br_dev_queue_push_xmit"),
				Advice:  "the packet is larger than the MTU of the bridge's port, and the bridge tells nobody: give the pods' devices, their ports and cbr0 the same MTU",
				Because: "bigger than wm-cbr0-node/veth0002 takes (MTU 1400)",
				Fix:     "the same MTU",
			},
			break_: func(_ context.Context, w *World) error { return w.setMTU(port{cbr0Node, p2.port}, cbr0SmallMTU) },
			fix:    func(_ context.Context, w *World) error { return w.setMTU(port{cbr0Node, p2.port}, cbr0MTU) },
		},
	}, cbr0PodFaults(), cbr0HealthFaults(), cbr0NodeFaults())
}

// needsBridgeNetfilter refuses faults that are none without br_netfilter: packets
// of services are routed then, and those from pod to pod never answered.
func (w *World) needsBridgeNetfilter() error {
	if w.record.NoBridgeNetfilter {
		return errors.New("it shows only with br_netfilter; take the lab down and up again without --no-br-netfilter")
	}
	return nil
}

// cbr0Down sets the bridge down. Before that p1 asks p2 for something, so that
// what is lost afterwards is p1's packet and not its question for p2's hardware
// address.
func (w *World) cbr0Down(ctx context.Context) error {
	l, err := w.link(cbr0Bridge)
	if err != nil {
		return err
	}
	if l.Attrs().OperState == netlink.OperDown {
		return nil
	}
	for _, v6 := range []bool{false, true} {
		// Unanswered because of another fault is fine.
		if _, err := w.Send(ctx, Traffic{UDP: true, IPv6: v6, Timeout: time.Second}, nil); err != nil {
			return err
		}
	}
	return wrap("set cbr0 down", w.nodes[cbr0Node].nl.LinkSetDown(l))
}

// cbr0Up sets the bridge up. Its IPv6 address went when it went down.
func (w *World) cbr0Up(ctx context.Context) error {
	if err := w.linkUp(cbr0Bridge); err != nil {
		return err
	}
	if err := w.awaitLinks(ctx, cbr0Node, map[string]bool{cbr0Bridge.dev: true}); err != nil {
		return err
	}
	for _, a := range []address{{cbr0Bridge, cbr0BridgeAddr4}, {cbr0Bridge, cbr0BridgeAddr6}} {
		if err := w.addAddress(a); err != nil {
			return err
		}
	}
	return nil
}

// setMTU sets the largest IP packet, in bytes, that a device sends.
func (w *World) setMTU(d port, mtu int) error {
	l, err := w.link(d)
	if err != nil {
		return err
	}
	return wrap("set the MTU of "+d.dev+" in "+d.node, w.nodes[d.node].nl.LinkSetMTU(l, mtu))
}
