// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// The Meridio trench: an external gateway with the client, a load balancer that
// queues packets for the virtual addresses to nfqlb, a proxy with a bridge, and
// three targets. Dual stack. Names, addresses, marks and tables are those of a
// Meridio v1.2 deployment; NSM, bird and Kubernetes are left out, their results
// (interfaces, routes) are there.
//
//	gw ext0 ── nsm-1 lb load-balan-274a ── load-balan-b0ef px proxy.load-000N ── nsc tN
//	                                              └── bridge0 ──┘
//
// A second load balancer, lb2, has no devices until a fault connects it.
//
// ext0 and nsm-1 are a veth pair, or what meridio_external.go puts there.
//
// A request goes gw → lb (queue, mark, rule per mark) → px (bridged) → tN; the
// reply goes tN → px (routed by bridge0) → lb (rule from the virtual address,
// table 4096) → gw.

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
)

const (
	meridioLB    = "lb"
	meridioProxy = "px"
	meridioGW    = "gw"
)

var (
	meridioVIP4 = netip.MustParseAddr("10.0.0.1")
	meridioVIP6 = netip.MustParseAddr("1000::1:a00:1")
	vip4Prefix  = netip.PrefixFrom(meridioVIP4, 32)
	vip6Prefix  = netip.PrefixFrom(meridioVIP6, 128)

	// Addresses of the load balancer that the proxy knows.
	meridioBalancer4 = netip.MustParseAddr("172.16.1.2")
	meridioBalancer6 = netip.MustParseAddr("fd00::ac10:102")

	meridioToProxy   = port{meridioLB, "load-balan-274a"}
	meridioProxyLink = veth{meridioToProxy, port{meridioProxy, "load-balan-b0ef"}}
	meridioBridge    = port{meridioProxy, "bridge0"}
)

const meridioPort = 5000

// meridioTarget is one application pod. The identifier is what the balancer's
// table holds; Meridio adds an offset of 5000 to it and uses the sum as mark and
// as number of the routing table that leads to the target.
type meridioTarget struct {
	node       string
	identifier int
	addr4      netip.Prefix
	addr6      netip.Prefix
	bridgePort string
	portAddr   netip.Prefix
}

const meridioMarkOffset = 5000

func (t meridioTarget) mark() uint32 { return uint32(meridioMarkOffset + t.identifier) }

var meridioTargets = []meridioTarget{
	{
		"t1", 48,
		netip.MustParsePrefix("172.16.1.6/24"), netip.MustParsePrefix("fd00::ac10:106/120"),
		"proxy.load-0001", netip.MustParsePrefix("172.16.1.7/24"),
	},
	{
		"t2", 58,
		netip.MustParsePrefix("172.16.1.8/24"), netip.MustParsePrefix("fd00::ac10:108/120"),
		"proxy.load-0002", netip.MustParsePrefix("172.16.1.9/24"),
	},
	{
		"t3", 67,
		netip.MustParsePrefix("172.16.1.10/24"), netip.MustParsePrefix("fd00::ac10:10a/120"),
		"proxy.load-0003", netip.MustParsePrefix("172.16.1.11/24"),
	},
}

var meridio = meridioLab(meridioVeth)

func init() {
	meridio.externals = map[string]*lab{}
	for name, e := range meridioExternals {
		meridio.externals[name] = meridioLab(e)
	}
}

// meridioLab is the lab with one of the external sides.
func meridioLab(e meridioExternal) *lab {
	l := &lab{
		name:     "meridio",
		brief:    "Meridio trench: gateway, nfqlb load balancer, proxy bridge, three targets, IPv4 and IPv6",
		plan:     meridioPlan(e),
		files:    []string{filepath.Join(shmDir, meridioStream), filepath.Join(shmDir, "ftshm"), meridioFlows},
		start:    startMeridio,
		balancer: true,
		service: service{
			client:   meridioGW,
			from4:    netip.MustParseAddr("200.100.0.1"),
			from6:    netip.MustParseAddr("200:100::1"),
			virtual4: meridioVIP4,
			virtual6: meridioVIP6,
			port:     meridioPort,
		},
	}
	l.faults = meridioFaults(l, e)
	return l
}

func meridioPlan(e meridioExternal) plan {
	p := plan{
		nodes: []string{meridioGW, meridioLB, meridioSecondLB, meridioProxy},
		veths: []veth{
			e.wire(),
			meridioProxyLink,
		},
		overlays: e.overlays(),
		bridges:  []bridge{{meridioBridge, []string{"load-balan-b0ef"}}},
	}
	for _, t := range meridioTargets {
		p.nodes = append(p.nodes, t.node)
		p.veths = append(p.veths, veth{port{t.node, "nsc"}, port{meridioProxy, t.bridgePort}})
		p.bridges[0].members = append(p.bridges[0].members, t.bridgePort)
	}
	p.sysctls = skipDAD(p.nodes...)
	// As the pods' init containers set them (Meridio's
	// deployments/helm/templates/_helpers.tpl).
	p.sysctls = append(p.sysctls, forwarding(meridioLB, meridioSecondLB, meridioProxy, meridioGW)...)
	p.sysctls = append(p.sysctls,
		sysctl{meridioLB, "ipv4/ip_local_port_range", "49152 65535"},
		sysctl{meridioLB, "ipv4/fwmark_reflect", "1"},
		sysctl{meridioLB, "ipv6/fwmark_reflect", "1"})
	for _, t := range meridioTargets {
		p.sysctls = append(p.sysctls, sysctl{t.node, "ipv4/conf/all/arp_announce", "2"})
	}

	for _, a := range []struct{ node, dev, prefix string }{
		{meridioGW, e.gateway, "169.254.100.150/24"},
		{meridioGW, e.gateway, "100:100::150/64"},
		{meridioGW, "lo", "200.100.0.1/32"},
		{meridioGW, "lo", "200:100::1/128"},
	} {
		p.addresses = append(p.addresses, address{port{a.node, a.dev}, netip.MustParsePrefix(a.prefix)})
	}
	p.addresses = append(p.addresses, e.balancerAddresses()...)
	p.addresses = append(p.addresses, meridioProxyLinkAddresses()...)
	p.addresses = append(p.addresses, meridioBridgeAddresses()...)
	p.addresses = append(p.addresses, e.addresses()...)
	for _, t := range meridioTargets {
		nsc := port{t.node, "nsc"}
		p.addresses = append(p.addresses,
			address{port{meridioProxy, t.bridgePort}, t.portAddr},
			address{nsc, t.addr4}, address{nsc, vip4Prefix},
			address{nsc, t.addr6}, address{nsc, vip6Prefix})
	}

	p.routes = append(p.routes, e.announced()...)
	for _, vip := range []netip.Prefix{vip4Prefix, vip6Prefix} {
		p.rules = append(p.rules, rule{node: meridioLB, pref: 101, from: vip, table: 4097})
		p.routes = append(p.routes,
			route{node: meridioLB, blackhole: true, v6: vip.Addr().Is6(), table: 4097, metric: 4294967295, protocol: protocolBird})
	}
	p.rules = append(p.rules, meridioEgressRules()...)
	p.rules = append(p.rules, meridioProxyRules()...)
	p.routes = append(p.routes, e.defaults()...)
	p.routes = append(p.routes, meridioProxyDefaults(meridioBalancer4, meridioBalancer6)...)
	for _, t := range meridioTargets {
		p.rules = append(p.rules, t.rules()...)
		p.routes = append(p.routes, t.routes()...)
	}
	p.rules = append(p.rules, meridioMarkRules()...)
	p.routes = append(p.routes, meridioMarkRoutes()...)
	return p
}

func meridioBridgeAddresses() []address {
	return []address{
		{meridioBridge, netip.MustParsePrefix("172.16.1.1/24")},
		{meridioBridge, netip.MustParsePrefix("fd00::ac10:101/120")},
	}
}

// meridioProxyLinkAddresses are those of the link between load balancer and proxy,
// the load balancer's first.
func meridioProxyLinkAddresses() []address {
	return []address{
		{meridioProxyLink.a, netip.PrefixFrom(meridioBalancer4, 24)},
		{meridioProxyLink.a, netip.PrefixFrom(meridioBalancer6, 120)},
		{meridioProxyLink.b, netip.MustParsePrefix("172.16.1.3/24")},
		{meridioProxyLink.b, netip.MustParsePrefix("fd00::ac10:103/120")},
	}
}

// rules lead what comes from the virtual addresses out of the target.
func (t meridioTarget) rules() []rule {
	return []rule{
		{node: t.node, from: vip4Prefix, table: 1},
		{node: t.node, from: vip6Prefix, table: 2},
	}
}

// routes are what they look up.
func (t meridioTarget) routes() []route {
	return []route{
		{node: t.node, via: netip.MustParseAddr("172.16.1.1"), dev: "nsc", onlink: true, table: 1},
		{node: t.node, via: netip.MustParseAddr("fd00::ac10:101"), dev: "nsc", onlink: true, table: 2},
	}
}

// meridioMarkRoutes lead to the targets, a table each.
func meridioMarkRoutes() []route {
	var routes []route
	for _, t := range meridioTargets {
		routes = append(routes,
			route{node: meridioLB, via: t.addr4.Addr(), dev: meridioToProxy.dev, table: int(t.mark())},
			route{node: meridioLB, via: t.addr6.Addr(), dev: meridioToProxy.dev, table: int(t.mark())})
	}
	return routes
}

// meridioEgressRules lead what comes from the virtual addresses out of the load
// balancer.
func meridioEgressRules() []rule {
	return []rule{
		{node: meridioLB, pref: 100, from: vip4Prefix, table: 4096},
		{node: meridioLB, pref: 100, from: vip6Prefix, table: 4096},
	}
}

// meridioProxyRules lead it out of the proxy.
func meridioProxyRules() []rule {
	return []rule{
		{node: meridioProxy, from: vip4Prefix, table: 1},
		{node: meridioProxy, from: vip6Prefix, table: 1},
	}
}

// meridioProxyDefaults are the proxy's routes to a load balancer.
func meridioProxyDefaults(ip4, ip6 netip.Addr) []route {
	return []route{
		{node: meridioProxy, multipath: []netip.Addr{ip4}, dev: meridioBridge.dev, table: 1},
		{node: meridioProxy, multipath: []netip.Addr{ip6}, dev: meridioBridge.dev, table: 1},
	}
}

// meridioMarkRules lead a packet with a target's mark to the target's table.
func meridioMarkRules() []rule {
	var rules []rule
	for _, t := range meridioTargets {
		rules = append(rules,
			rule{node: meridioLB, mark: t.mark(), table: int(t.mark())},
			rule{node: meridioLB, mark: t.mark(), table: int(t.mark()), v6: true})
	}
	return rules
}

// startMeridio loads the rule set and starts the targets and the balancer. The
// processes start side by side: their start is most of the time a lab takes.
func startMeridio(ctx context.Context, w *World) error {
	if err := w.meridioRuleset(); err != nil {
		return err
	}
	var ready []func(context.Context) error
	for i, t := range meridioTargets {
		await, err := w.startTarget(fmt.Sprintf("target-%d", i+1), t.node,
			netip.AddrPortFrom(meridioVIP4, meridioPort), netip.AddrPortFrom(meridioVIP6, meridioPort))
		if err != nil {
			return err
		}
		ready = append(ready, await)
	}
	if err := w.startBalancer(ctx); err != nil {
		return err
	}
	for _, await := range ready {
		if err := await(ctx); err != nil {
			return err
		}
	}
	return nil
}
