// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"context"
	"slices"
)

// meridioFaults is the fault table of the Meridio lab. The first row's repair
// starts the balancer, which the repairs below it may need; that of the bridge
// comes next, for its routes are those that later rows change.
func meridioFaults(l *lab, e meridioExternal) []Fault {
	lb, px := l.namespace(meridioLB), l.namespace(meridioProxy)
	faults := []Fault{
		{
			Name:     "no-listener",
			Question: "M30",
			Brief:    "the balancer is dead: nobody listens on queues 0-3",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: lb, Dev: e.balancer,
				Drops: slices.Concat(measured(4, "NOT_SPECIFIED", "nf_queue"),
					measured(6, "NOT_SPECIFIED", "nf_queue")),
				Advice: "nobody listens on the queue: start the balancer in the load balancer's namespace",
			},
			break_: func(_ context.Context, w *World) error { return w.stopBalancer() },
			fix:    func(ctx context.Context, w *World) error { return w.startBalancer(ctx) },
		},
		{
			Name:     "bridge-down",
			Question: "M22",
			Brief:    "the proxy's bridge is down",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: px, Dev: "load-balan-b0ef",
				// As long as the load balancer remembers the targets' hardware addresses.
				Drops: slices.Concat(
					measuredOn([]string{"6.1", "6.12"}, 4, "NOT_SPECIFIED", "br_handle_frame"),
					measuredOn([]string{"6.1", "6.12"}, 6, "NOT_SPECIFIED", "br_handle_frame"),
					measuredOn([]string{"6.18"}, 4, "BRIDGE_INGRESS_STP_STATE", "br_handle_frame"),
					measuredOn([]string{"6.18"}, 6, "BRIDGE_INGRESS_STP_STATE", "br_handle_frame")),
				Advice: "the bridge is down, so its ports take nothing: set bridge0 up in the proxy, and put back its addresses and routes",
			},
			break_: func(_ context.Context, w *World) error { return w.proxyBridgeDown() },
			fix:    func(ctx context.Context, w *World) error { return w.proxyBridgeUp(ctx) },
		},
		{
			Name:     "no-flow",
			Question: "M13",
			Brief:    "the balancer has no flow that matches the packet",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: lb, Dev: e.balancer,
				Drops: slices.Concat(measured(4, "NOT_SPECIFIED", "nfqnl_reinject", "nf_reinject"),
					measured(6, "NOT_SPECIFIED", "nfqnl_reinject", "nf_reinject")),
				Advice: "no flow matches the packet's addresses, protocol and ports: configure one for the stream, or send to a port that has one",
			},
			break_: func(ctx context.Context, w *World) error { return w.deleteFlow(ctx) },
			fix:    func(ctx context.Context, w *World) error { return w.startBalancer(ctx) },
		},
		{
			Name:     "vip-missing",
			Question: "M25",
			Brief:    "target-1 lacks the virtual addresses",
			Traffic:  []string{"-c", "24"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: l.namespace(meridioTargets[0].node), Dev: "nsc",
				Drops: slices.Concat(measured(4, "IP_INADDRERRORS", "ip_error"),
					measured(6, "IP_INNOROUTES", "ip6_pkt_drop", "ip6_pkt_discard")),
				Advice: "the target does not have the virtual address: add it, with prefix length 32 or 128, to the target's interface",
			},
			break_: func(_ context.Context, w *World) error { return w.eachVIP(w.removeAddress) },
			fix:    func(_ context.Context, w *World) error { return w.eachVIP(w.addAddress) },
		},
		{
			Name:     "rp-filter",
			Question: "M32",
			Brief:    "the load balancer filters strictly by reverse path",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "reply", Netns: lb, Dev: meridioToProxy.dev,
				// IPv6 has no such filter. The request passes it: the rule for
				// the virtual address finds a way back to the client on nsm-1. For
				// the reply the way back to the virtual address is looked up
				// without its mark, and the main table has none.
				Drops:  measured(4, "IP_RPFILTER", "ip_rcv_finish_core"),
				Advice: "the reverse path filter is on: set net.ipv4.conf.all.rp_filter and that of the device to 0 in the load balancer",
			},
			break_: func(_ context.Context, w *World) error { return w.setReversePathFilter(e.balancer, "1") },
			fix:    func(_ context.Context, w *World) error { return w.setReversePathFilter(e.balancer, "0") },
		},
		{
			Name:     "no-fwmark-rule",
			Question: "M17",
			Brief:    "the rules that lead a target's mark to its table are gone",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: lb, Dev: e.balancer,
				Drops: slices.Concat(measured(4, "IP_INNOROUTES", "ip_error"),
					measured(6, "IP_INNOROUTES", "ip6_pkt_drop", "ip6_pkt_discard")),
				Advice: "no rule looks up the packet's mark: add a rule for the mark to the table of the same number",
			},
			break_: func(_ context.Context, w *World) error { return eachOf(meridioMarkRules(), w.removeRule) },
			fix:    func(_ context.Context, w *World) error { return eachOf(meridioMarkRules(), w.addRule) },
		},
		{
			Name:     "blackhole-4097",
			Question: "M20",
			Brief:    "table 4096 has no default route: replies fall into the blackhole of 4097",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "reply", Netns: lb, Dev: meridioToProxy.dev,
				Drops: slices.Concat(measured(4, "NOT_SPECIFIED", "ip_error"),
					measured(6, "NOT_SPECIFIED", "dst_discard_out", "dst_discard")),
				Advice: "table 4096 has no route to the gateway: look at the frontend's BGP session, which must provide it",
			},
			break_: func(_ context.Context, w *World) error { return eachOf(e.defaults(), w.removeRoute) },
			fix:    func(_ context.Context, w *World) error { return eachOf(e.defaults(), w.addRoute) },
		},
		{
			Name:     "no-target",
			Question: "M15",
			Brief:    "no target of the stream is active",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: lb, Dev: e.balancer,
				Drops: slices.Concat(measured(4, "NOT_SPECIFIED", "nfqnl_reinject", "nf_reinject"),
					measured(6, "NOT_SPECIFIED", "nfqnl_reinject", "nf_reinject")),
				Advice: "the flow's stream has no active target: see which targets have opened the stream, and activate them",
			},
			break_: func(ctx context.Context, w *World) error { return w.deactivateTargets(ctx) },
			fix:    func(ctx context.Context, w *World) error { return w.activateTargets(ctx) },
		},
		{
			Name:     "no-egress-rule",
			Question: "M19",
			Brief:    "the load balancer's rule from the virtual address to table 4096 is gone",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "reply", Netns: lb, Dev: meridioToProxy.dev,
				Drops: slices.Concat(measured(4, "NOT_SPECIFIED", "ip_error"),
					measured(6, "NOT_SPECIFIED", "dst_discard_out", "dst_discard")),
				Advice: "no rule leads replies to table 4096, so they fall into the blackhole of 4097: put back the rule from the virtual address, before that of 4097",
			},
			break_: func(_ context.Context, w *World) error { return eachOf(meridioEgressRules(), w.removeRule) },
			fix:    func(_ context.Context, w *World) error { return eachOf(meridioEgressRules(), w.addRule) },
		},
		{
			Name:     "neighbour-dead",
			Question: "M18",
			Brief:    "target-1 is cut off: its port of the proxy's bridge is down",
			Traffic:  []string{"-c", "24", "--timeout", "5s"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: lb, Dev: meridioToProxy.dev, Wait: neighbourWait,
				Drops:  orPurged(unanswered()),
				Advice: "the target does not answer for its address: see whether its device and its port of the proxy's bridge are up",
			},
			break_: func(ctx context.Context, w *World) error { return w.cutOffTarget(ctx) },
			fix:    func(ctx context.Context, w *World) error { return w.raise(ctx, meridioTargetWire()) },
		},
		{
			Name:     "stale-neighbour",
			Question: "M35",
			Brief:    "the gateway sends to a hardware address that the load balancer no longer has",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: lb, Dev: e.balancer,
				Drops: slices.Concat(measured(4, "OTHERHOST", "ip_rcv_core"),
					measured(6, "OTHERHOST", "ip6_rcv_core")),
				Advice: "the frame is for another hardware address: compare the gateway's neighbour entry with the load balancer's device, and delete it",
			},
			break_: func(_ context.Context, w *World) error { return eachOf(e.staleNeighbours(), w.setNeighbour) },
			fix:    func(_ context.Context, w *World) error { return eachOf(e.staleNeighbours(), w.removeNeighbour) },
		},
		{
			Name:     "no-proxy-rule",
			Question: "M23",
			Brief:    "the proxy's rule from the virtual address to table 1 is gone",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "reply", Netns: px, Dev: meridioBridge.dev,
				Drops: slices.Concat(measured(4, "IP_INNOROUTES", "ip_error"),
					measured(6, "IP_INNOROUTES", "ip6_pkt_drop", "ip6_pkt_discard")),
				Advice: "no rule leads replies to the load balancers: put back the rule from the virtual address in the proxy",
			},
			break_: func(_ context.Context, w *World) error { return eachOf(meridioProxyRules(), w.removeRule) },
			fix:    func(_ context.Context, w *World) error { return eachOf(meridioProxyRules(), w.addRule) },
		},
		{
			Name:     "dead-nexthop",
			Question: "M24",
			Brief:    "the proxy sends replies to a load balancer that is gone",
			Traffic:  []string{"-c", "24", "--timeout", "5s"},
			Expect: Expect{
				Outcome: "dropped", Packet: "reply", Netns: px, Dev: meridioBridge.dev, Wait: neighbourWait,
				Drops:  orPurged(unanswered()),
				Advice: "the next hop of replies does not answer: take the load balancer that is gone out of the proxy's routes",
			},
			break_: func(_ context.Context, w *World) error {
				return eachOf(meridioProxyDefaults(meridioGone4, meridioGone6), w.replaceRoute)
			},
			fix: func(_ context.Context, w *World) error {
				return eachOf(meridioProxyDefaults(meridioBalancer4, meridioBalancer6), w.replaceRoute)
			},
		},
	}
	faults = append(faults, meridioAnswerFaults(l, e)...)
	faults = append(faults, meridioBalancerFaults(l, e)...)
	faults = append(faults, meridioSizeFaults(l, e)...)
	faults = append(faults, meridioNoGatewayFaults(l)...)
	if e.vlan || e.vxlan {
		return faults // their carrier is not that of the other end
	}
	return append(faults, Fault{
		Name:     "nsm-down",
		Question: "M7",
		Brief:    "the load balancer's external device is down",
		Traffic:  []string{"-c", "4", "--timeout", "5s"},
		Expect: Expect{
			Outcome: "dropped", Packet: "request", Netns: l.namespace(meridioGW), Dev: e.gateway, Wait: neighbourWait,
			Drops:  orPurged(unanswered()),
			Advice: "the link to the load balancer has no carrier: set its external device up, and see that table 4096 has its routes again",
		},
		break_: func(ctx context.Context, w *World) error { return w.externalDown(ctx, e) },
		fix:    func(ctx context.Context, w *World) error { return w.externalUp(ctx, e) },
	})
}

// measured are the sites of lost IPv4 or IPv6 packets. The functions were found
// with skb:kfree_skb on each of the kernels, which agree but for inlining: 6.1 has
// nf_reinject, 6.18 calls ip6_pkt_drop at the end of ip6_pkt_discard.
func measured(ip int, reason string, at ...string) []Site {
	return measuredOn([]string{"6.1", "6.12", "6.18"}, ip, reason, at...)
}

// measuredOn is measured where the kernels do not agree.
func measuredOn(kernels []string, ip int, reason string, at ...string) []Site {
	var sites []Site
	for _, kernel := range kernels {
		sites = append(sites, Site{Kernel: kernel, IP: ip, Reason: reason, At: at})
	}
	return sites
}

// eachVIP does something with both virtual addresses of the first target.
func (w *World) eachVIP(do func(address) error) error {
	nsc := port{meridioTargets[0].node, "nsc"}
	if err := do(address{nsc, vip4Prefix}); err != nil {
		return err
	}
	return do(address{nsc, vip6Prefix})
}

// setReversePathFilter sets the filter (0 off, 1 strict) of the load balancer.
// The kernel takes the larger of "all" and the device's own value.
func (w *World) setReversePathFilter(dev, mode string) error {
	for _, conf := range []string{"all", dev} {
		if err := w.setSysctl(meridioLB, "ipv4/conf/"+conf+"/rp_filter", mode); err != nil {
			return err
		}
	}
	return nil
}

// unanswered are the sites of packets whose next hop does not answer for its
// hardware address: IPv6 gives no reason.
func unanswered() []Site {
	return slices.Concat(measured(4, "NEIGH_FAILED", "neigh_invalidate"), measured(6, "NOT_SPECIFIED", "neigh_invalidate"))
}

// orPurged are the same where those that wait behind the first are purged: as soon
// as anything, an error message about the first for one, asks for the same address
// again.
func orPurged(sites []Site) []Site {
	for i := range sites {
		sites[i].Or = "QUEUE_PURGE"
		if sites[i].Kernel == "6.1" {
			sites[i].Or = "NOT_SPECIFIED"
		}
	}
	return sites
}
