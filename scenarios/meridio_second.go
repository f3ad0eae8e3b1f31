// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// A second load balancer of the Meridio lab: one that has no external gateway. Its
// namespace is always there, so that an observer can be told to look at it; it has
// devices while a fault says so.

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

const (
	meridioSecondLB = "lb2"

	// meridioSecondIndex is the interface index of the load balancer's end of the
	// link, another one than that of the proxy's: see firstIndex.
	meridioSecondIndex = 201
)

var (
	meridioSecondToProxy = port{meridioSecondLB, "load-balan-274b"}
	meridioSecondLink    = veth{meridioSecondToProxy, port{meridioProxy, "load-balan-b1ef"}}

	meridioSecond4 = netip.MustParsePrefix("172.16.1.12/24")
	meridioSecond6 = netip.MustParsePrefix("fd00::ac10:10c/120")
)

// meridioNoGatewayFaults has the fault of a load balancer that answers leave by and
// that has no way out. The other way round all is well: the gateway sends nothing to
// a load balancer that it has no session with.
func meridioNoGatewayFaults(l *lab) []Fault {
	return []Fault{{
		Name:     "no-gateway",
		Question: "M39",
		Brief:    "the proxy divides replies between two load balancers, of which the second has no external gateway",
		Traffic:  []string{"-c", "24"},
		Expect: Expect{
			Outcome: "dropped", Packet: "reply", Netns: l.namespace(meridioSecondLB), Dev: meridioSecondToProxy.dev,
			Drops: slices.Concat(measured(4, "NOT_SPECIFIED", "ip_error"),
				measured(6, "NOT_SPECIFIED", "dst_discard_out", "dst_discard")),
			Advice:  "the reply leaves by a load balancer that has no gateway, though another one has: take it out of the proxy's routes until its BGP session is up",
			Because: "which has no external gateway",
			Fix:     "out of the next hops",
		},
		break_: func(ctx context.Context, w *World) error { return w.addSecondBalancer(ctx) },
		fix:    func(_ context.Context, w *World) error { return w.removeSecondBalancer() },
	}}
}

// meridioEgressOf are the rules and the blackhole of a load balancer without a
// gateway.
func meridioEgressOf(node string) (rules []rule, routes []route) {
	for _, vip := range []netip.Prefix{vip4Prefix, vip6Prefix} {
		rules = append(rules,
			rule{node: node, pref: 100, from: vip, table: 4096},
			rule{node: node, pref: 101, from: vip, table: 4097})
		routes = append(routes,
			route{node: node, blackhole: true, v6: vip.Addr().Is6(), table: 4097, metric: 4294967295, protocol: protocolBird})
	}
	return rules, routes
}

// addSecondBalancer connects the second load balancer, and has the proxy send it
// half of the replies.
func (w *World) addSecondBalancer(ctx context.Context) error {
	if err := w.addSecondLink(); err != nil {
		return err
	}
	if err := w.raise(ctx, []port{meridioSecondLink.a, meridioSecondLink.b}); err != nil {
		return err
	}
	for _, p := range []netip.Prefix{meridioSecond4, meridioSecond6} {
		if err := w.addAddress(address{meridioSecondToProxy, p}); err != nil {
			return err
		}
	}
	rules, routes := meridioEgressOf(meridioSecondLB)
	if err := eachOf(rules, w.addRule); err != nil {
		return err
	}
	if err := eachOf(routes, w.addRoute); err != nil {
		return err
	}
	return eachOf(meridioDividedDefaults(), w.replaceRoute)
}

func meridioDividedDefaults() []route {
	divided := meridioProxyDefaults(meridioBalancer4, meridioBalancer6)
	divided[0].multipath = append(divided[0].multipath, meridioSecond4.Addr())
	divided[1].multipath = append(divided[1].multipath, meridioSecond6.Addr())
	return divided
}

// addSecondLink makes the link to the proxy's bridge; it may be there already.
func (w *World) addSecondLink() error {
	a, b := meridioSecondLink.a, meridioSecondLink.b
	if _, err := w.link(a); err != nil {
		link := &netlink.Veth{
			LinkAttrs:        netlink.LinkAttrs{Name: a.dev, Index: meridioSecondIndex, HardwareAddr: w.lab.hardwareAddr(a)},
			PeerName:         b.dev,
			PeerHardwareAddr: w.lab.hardwareAddr(b),
			PeerNamespace:    netlink.NsFd(w.nodes[b.node].ns.Fd()),
		}
		if err := w.addLink(a.node, link); err != nil {
			return err
		}
	}
	member, err := w.link(b)
	if err != nil {
		return err
	}
	bridge, err := w.link(meridioBridge)
	if err != nil {
		return err
	}
	return wrap("add "+b.dev+" to "+meridioBridge.dev, w.nodes[b.node].nl.LinkSetMaster(member, bridge))
}

// removeSecondBalancer takes the second load balancer out of the proxy's routes, and
// away.
func (w *World) removeSecondBalancer() error {
	if err := eachOf(meridioProxyDefaults(meridioBalancer4, meridioBalancer6), w.replaceRoute); err != nil {
		return err
	}
	rules, routes := meridioEgressOf(meridioSecondLB)
	if err := errors.Join(eachOf(rules, w.removeRule), eachOf(routes, w.removeRoute)); err != nil {
		return err
	}
	l, err := w.link(meridioSecondToProxy)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		return nil
	}
	if err != nil {
		return err
	}
	return wrap("remove "+meridioSecondToProxy.dev, w.nodes[meridioSecondLB].nl.LinkDel(l))
}
