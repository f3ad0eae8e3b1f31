// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"context"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// meridioBalancerFaults are what can be wrong around the balancer: its queue rule,
// its flow, the marks, its devices.
func meridioBalancerFaults(l *lab, e meridioExternal) []Fault {
	lb := l.namespace(meridioLB)
	return []Fault{
		{
			Name:     "vip-not-queued",
			Question: "M31",
			Brief:    "the virtual addresses are missing in the sets of the queue rule",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: lb, Dev: e.balancer,
				Drops: slices.Concat(measured(4, "IP_INNOROUTES", "ip_error"),
					measured(6, "IP_INNOROUTES", "ip6_pkt_drop", "ip6_pkt_discard")),
				Advice: "the packet never came to the balancer: add the virtual address to the set of the queue rule",
			},
			break_: func(_ context.Context, w *World) error { return w.transact(meridioLB, emptyVIPSets) },
			fix:    func(_ context.Context, w *World) error { return w.transact(meridioLB, fillVIPSets) },
		},
		{
			Name:     "forwarding-off",
			Question: "M32",
			Brief:    "the load balancer does not forward",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: lb, Dev: e.balancer,
				Drops: slices.Concat(measured(4, "IP_INADDRERRORS", "ip_error"),
					measured(6, "IP_INADDRERRORS", "ip6_forward")),
				Advice: "forwarding is off: set net.ipv4.conf.all.forwarding and net.ipv6.conf.all.forwarding to 1 in the load balancer",
			},
			break_: func(_ context.Context, w *World) error { return w.setForwarding(meridioLB, "0") },
			fix:    func(_ context.Context, w *World) error { return w.setForwarding(meridioLB, "1") },
		},
		{
			Name:     "old-flow",
			Question: "M12",
			Brief:    "the balancer's flow is not the configured one: it has other ports",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: lb, Dev: e.balancer,
				Drops: slices.Concat(measured(4, "NOT_SPECIFIED", "nfqnl_reinject", "nf_reinject"),
					measured(6, "NOT_SPECIFIED", "nfqnl_reinject", "nf_reinject")),
				Advice: "the balancer has a flow for the address, but not for this port: compare its flows with what is configured, and set the flow anew",
			},
			break_: func(ctx context.Context, w *World) error { return w.setFlowPorts(ctx, "6000-6003") },
			fix:    func(ctx context.Context, w *World) error { return w.startBalancer(ctx) },
		},
		{
			Name:     "wrong-mark",
			Question: "M16",
			Brief:    "a rule changes the mark that the balancer gave the packet",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: lb, Dev: e.balancer,
				Drops: slices.Concat(measured(4, "IP_INNOROUTES", "ip_error"),
					measured(6, "IP_INNOROUTES", "ip6_pkt_drop", "ip6_pkt_discard")),
				Advice: "the packet has another mark than the balancer gave it: find the rule that sets marks after the queue, and remove it",
			},
			break_: func(_ context.Context, w *World) error { return w.transact(meridioLB, spoilMarks) },
			fix:    func(_ context.Context, w *World) error { return w.transact(meridioLB, spareMarks) },
		},
		{
			Name:     "proxy-link-down",
			Question: "M8",
			Brief:    "the load balancer's device towards the proxy is down",
			Traffic:  []string{"-c", "4"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: lb, Dev: e.balancer,
				Drops: slices.Concat(measured(4, "IP_INNOROUTES", "ip_error"),
					measured(6, "IP_INNOROUTES", "ip6_pkt_drop", "ip6_pkt_discard")),
				Advice: "no device of the load balancer towards a proxy is up, so the targets' tables are empty: set it up, and put back its IPv6 addresses and the routes",
			},
			break_: func(_ context.Context, w *World) error { return w.linkDown(meridioToProxy) },
			fix:    func(ctx context.Context, w *World) error { return w.proxyLinkUp(ctx) },
		},
		{
			Name:     "no-address",
			Question: "M6",
			Brief:    "the load balancer's external device has no address",
			Traffic:  []string{"-c", "4", "--timeout", "5s"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: l.namespace(meridioGW), Dev: e.gateway, Wait: neighbourWait,
				Drops:  orPurged(unanswered()),
				Advice: "nobody has the address that the gateway sends to: give it back to the load balancer's device, and the routes that went with it",
			},
			break_: func(_ context.Context, w *World) error { return w.removeExternalAddresses(e) },
			fix:    func(_ context.Context, w *World) error { return w.addExternalAddresses(e) },
		},
		{
			Name:     "vip-unannounced",
			Question: "M9",
			Brief:    "the gateway has not learned the routes to the virtual addresses and uses its default",
			Traffic:  []string{"-c", "4", "--timeout", "5s"},
			Expect: Expect{
				Outcome: "dropped", Packet: "request", Netns: l.namespace(meridioGW), Dev: e.gateway, Wait: neighbourWait,
				Drops:  orPurged(unanswered()),
				Advice: "nothing comes to the load balancer, for the gateway has no route to the virtual address: look at the BGP session between them, which must provide it",
			},
			break_: func(_ context.Context, w *World) error { return w.withdraw(e) },
			fix:    func(_ context.Context, w *World) error { return w.announce(e) },
		},
	}
}

// withdraw takes the routes to the virtual addresses from the gateway, and gives it
// default ones to a router that is not there.
func (w *World) withdraw(e meridioExternal) error {
	if err := eachOf(e.announced(), w.removeRoute); err != nil {
		return err
	}
	return eachOf(e.upstream(), w.addRoute)
}

func (w *World) announce(e meridioExternal) error {
	if err := eachOf(e.upstream(), w.removeRoute); err != nil {
		return err
	}
	return eachOf(e.announced(), w.addRoute)
}

// vipElements are a set's elements for the virtual address; an interval set holds
// [start, end).
func (f family) vipElements() []nftables.SetElement {
	return []nftables.SetElement{{Key: f.vip.AsSlice()}, {Key: f.vip.Next().AsSlice(), IntervalEnd: true}}
}

func emptyVIPSets(c *nftables.Conn) error {
	for _, f := range meridioFamilies() {
		c.FlushSet(f.vips)
	}
	return nil
}

func fillVIPSets(c *nftables.Conn) error {
	for _, f := range meridioFamilies() {
		c.FlushSet(f.vips) // adding what is there is an error in an interval set of some kernels
		if err := c.SetAddElements(f.vips, f.vipElements()); err != nil {
			return err
		}
	}
	return nil
}

// setForwarding sets whether a node passes packets on (1) or not (0).
func (w *World) setForwarding(node, value string) error {
	return eachOf([]string{"ipv4", "ipv6"}, func(ip string) error {
		return w.setSysctl(node, ip+"/conf/all/forwarding", value)
	})
}

// spoilTable is the table of a stranger's rule, and spoiledMark the mark it sets.
var spoilTable = &nftables.Table{Name: "spoil", Family: nftables.TableFamilyINet}

const spoiledMark = 9999

// spoilMarks sets another mark on what has one, after the queue.
func spoilMarks(c *nftables.Conn) error {
	if err := spareMarks(c); err != nil {
		return err
	}
	c.AddTable(spoilTable)
	ch := chain(c, spoilTable, "pre", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, 10)
	c.AddRule(&nftables.Rule{Table: spoilTable, Chain: ch, Exprs: concat(
		meta(expr.MetaKeyMARK, expr.CmpOpNeq, make([]byte, 4)),
		[]expr.Any{
			&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(spoiledMark)},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
		},
	)})
	return nil
}

func spareMarks(c *nftables.Conn) error {
	c.AddTable(spoilTable) // so that there is one to remove
	c.DelTable(spoilTable)
	return nil
}

// proxyLinkUp sets the link between load balancer and proxy up and gives it what went
// when it went down: IPv6 addresses and routes.
func (w *World) proxyLinkUp(ctx context.Context) error {
	if err := w.raise(ctx, []port{meridioProxyLink.a, meridioProxyLink.b}); err != nil {
		return err
	}
	if err := eachOf(meridioProxyLinkAddresses(), w.addAddress); err != nil {
		return err
	}
	return eachOf(meridioMarkRoutes(), w.addRoute)
}

// removeExternalAddresses takes the addresses from the load balancer's external
// device, and has the gateway ask for them.
func (w *World) removeExternalAddresses(e meridioExternal) error {
	if err := eachOf(e.balancerAddresses(), w.removeAddress); err != nil {
		return err
	}
	return w.forgetBalancer(e)
}

// forgetBalancer has the gateway ask for the load balancer's addresses anew: what it
// asked in vain before may still wait for its answer, and be given up.
func (w *World) forgetBalancer(e meridioExternal) error {
	return eachOf(e.balancerAddresses(), func(a address) error {
		return w.removeNeighbour(neighbour{port: port{meridioGW, e.gateway}, ip: a.prefix.Addr()})
	})
}

// addExternalAddresses gives them back, and the routes: the kernel has removed those
// of IPv4 with the last address.
func (w *World) addExternalAddresses(e meridioExternal) error {
	if err := eachOf(e.balancerAddresses(), w.addAddress); err != nil {
		return err
	}
	if err := eachOf(e.defaults(), w.addRoute); err != nil {
		return err
	}
	return w.forgetBalancer(e)
}
