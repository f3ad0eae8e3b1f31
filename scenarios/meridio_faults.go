// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"context"
	"slices"
)

// meridioFaults is the fault table of the Meridio lab. The first row's repair
// starts the balancer, which the repairs below it may need.
func meridioFaults(l *lab, e meridioExternal) []Fault {
	lb := l.namespace(meridioLB)
	return []Fault{
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
			break_: func(_ context.Context, w *World) error { return w.eachRule(w.removeRule) },
			fix:    func(_ context.Context, w *World) error { return w.eachRule(w.addRule) },
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
			break_: func(_ context.Context, w *World) error { return eachDefault(e, w.removeRoute) },
			fix:    func(_ context.Context, w *World) error { return eachDefault(e, w.addRoute) },
		},
	}
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
		sites = append(sites, Site{kernel, ip, reason, at})
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

func (w *World) eachRule(do func(rule) error) error {
	for _, r := range meridioMarkRules() {
		if err := do(r); err != nil {
			return err
		}
	}
	return nil
}

func eachDefault(e meridioExternal, do func(route) error) error {
	for _, r := range e.defaults() {
		if err := do(r); err != nil {
			return err
		}
	}
	return nil
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
