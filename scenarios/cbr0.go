// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// A Kubernetes node as kubenet makes it (GKE before VPC-native clusters): three
// pods on the bridge cbr0, services by kube-proxy's NAT, and a host outside that is
// at once another machine of the cloud's network and one on the internet. Dual
// stack.
//
//	pN eth0 ── veth000N node eth0 ── eth0 ext
//	            └── cbr0
//
// Pods reach each other through the bridge, everything else by the node's routes.
// What a pod sends to the internet gets the node's address; inside the cloud's
// network its own address is known. With br_netfilter, as on real nodes, bridged
// packets too pass the node's rules, and a service's packets from pod to pod are
// translated without leaving the bridge, for a pod's own service even back through
// the port they came from.

import (
	"context"
	"fmt"
	"net/netip"
)

const (
	cbr0Node = "node"
	cbr0Ext  = "ext"

	cbr0PodPort     = 8080 // of the servers
	cbr0HealthPort  = 4240 // of the node's agent and the health endpoint, as with Cilium
	cbr0ServicePort = 80
)

var (
	cbr0Bridge = port{cbr0Node, "cbr0"}

	// The node's end of the link to ext, and ext itself.
	cbr0NodeAddr4 = netip.MustParsePrefix("10.128.0.5/24")
	cbr0NodeAddr6 = netip.MustParsePrefix("fd00:10:128::5/64")
	cbr0ExtAddr4  = netip.MustParsePrefix("10.128.0.9/24")
	cbr0ExtAddr6  = netip.MustParsePrefix("fd00:10:128::9/64")

	cbr0BridgeAddr4 = netip.MustParsePrefix("10.4.0.1/24")
	cbr0BridgeAddr6 = netip.MustParsePrefix("fd00:10:4::1/64")

	// The internet is the documentation's (RFC 5737, RFC 3849).
	cbr0Internet4 = netip.MustParseAddr("203.0.113.9")
	cbr0Internet6 = netip.MustParseAddr("2001:db8:113::9")

	// A pod of another node, which ext is as well.
	cbr0Remote4 = netip.MustParseAddr("10.4.1.5")
	cbr0Remote6 = netip.MustParseAddr("fd00:10:4:1::5")

	// One service with all pods behind it, and one that is p1 alone.
	cbr0Service4 = netip.MustParseAddr("10.8.0.10")
	cbr0Service6 = netip.MustParseAddr("fd00:10:8::10")
	cbr0Own4     = netip.MustParseAddr("10.8.0.11")
	cbr0Own6     = netip.MustParseAddr("fd00:10:8::11")
)

// cbr0Pod is a pod and its port of the bridge.
type cbr0Pod struct {
	node  string
	name  string // of its server
	port  string
	addr4 netip.Prefix
	addr6 netip.Prefix
}

var cbr0Pods = []cbr0Pod{
	{"p1", "pod-1", "veth0001", netip.MustParsePrefix("10.4.0.11/24"), netip.MustParsePrefix("fd00:10:4::11/64")},
	{"p2", "pod-2", "veth0002", netip.MustParsePrefix("10.4.0.12/24"), netip.MustParsePrefix("fd00:10:4::12/64")},
	{"p3", "pod-3", "veth0003", netip.MustParsePrefix("10.4.0.13/24"), netip.MustParsePrefix("fd00:10:4::13/64")},
}

var cbr0 = &lab{
	name:            "cbr0",
	brief:           "kubenet node: bridge cbr0 with three pods, services, masquerade, a host outside, IPv4 and IPv6",
	plan:            cbr0Plan(),
	start:           startCBR0,
	service:         cbr0Services()[0],
	services:        cbr0Services(),
	bridgeNetfilter: true,
}

// The table of faults names functions that name the lab.
func init() { cbr0.faults = cbr0Faults() }

// cbr0Services are the ways through the lab. The last three start in ext, the
// others in p1.
func cbr0Services() []service {
	p1, p2, p3 := cbr0Pods[0], cbr0Pods[1], cbr0Pods[2]
	way := func(name, brief string, to4, to6 netip.Addr, port uint16) service {
		return service{
			name: name, brief: brief, client: p1.node, from4: p1.addr4.Addr(), from6: p1.addr6.Addr(),
			virtual4: to4, virtual6: to6, port: port,
		}
	}
	in := func(name, brief string, to4, to6 netip.Prefix, port uint16) service {
		s := way(name, brief, to4.Addr(), to6.Addr(), port)
		s.client, s.from4, s.from6 = cbr0Ext, cbr0ExtAddr4.Addr(), cbr0ExtAddr6.Addr()
		return s
	}
	return []service{
		way("pod", "p1 to p2, bridged", p2.addr4.Addr(), p2.addr6.Addr(), cbr0PodPort),
		way("service", "p1 to the service of all pods in turn", cbr0Service4, cbr0Service6, cbr0ServicePort),
		way("hairpin", "p1 to a service that is p1 itself", cbr0Own4, cbr0Own6, cbr0ServicePort),
		way("vpc", "p1 to ext with the pod's address", cbr0ExtAddr4.Addr(), cbr0ExtAddr6.Addr(), cbr0PodPort),
		way("internet", "p1 to ext with the node's address (masquerade)", cbr0Internet4, cbr0Internet6, cbr0PodPort),
		way("remote", "p1 to a pod of another node, by way of ext", cbr0Remote4, cbr0Remote6, cbr0PodPort),
		in("inbound", "ext to p2, routed", p2.addr4, p2.addr6, cbr0PodPort),
		in("agent", "ext to the node's health agent", cbr0NodeAddr4, cbr0NodeAddr6, cbr0HealthPort),
		in("endpoint", "ext to the node's health endpoint, p3", p3.addr4, p3.addr6, cbr0HealthPort),
	}
}

func cbr0Plan() plan {
	nodeEth, ext := port{cbr0Node, "eth0"}, port{cbr0Ext, "eth0"}
	extLo := port{cbr0Ext, "lo"}
	p := plan{
		nodes:   []string{cbr0Node, cbr0Ext},
		veths:   []veth{{nodeEth, ext}},
		bridges: []bridge{{port: cbr0Bridge}},
		addresses: []address{
			{cbr0Bridge, cbr0BridgeAddr4},
			{cbr0Bridge, cbr0BridgeAddr6},
			{nodeEth, cbr0NodeAddr4},
			{nodeEth, cbr0NodeAddr6},
			{ext, cbr0ExtAddr4},
			{ext, cbr0ExtAddr6},
			{extLo, netip.PrefixFrom(cbr0Internet4, 32)},
			{extLo, netip.PrefixFrom(cbr0Internet6, 128)},
			{extLo, host(cbr0Remote4)},
			{extLo, host(cbr0Remote6)},
		},
		routes: []route{
			{node: cbr0Node, via: cbr0ExtAddr4.Addr(), dev: nodeEth.dev},
			{node: cbr0Node, via: cbr0ExtAddr6.Addr(), dev: nodeEth.dev},
			// What a cloud's network knows of its nodes' pods.
			{node: cbr0Ext, dst: cbr0BridgeAddr4.Masked(), via: cbr0NodeAddr4.Addr(), dev: ext.dev},
			{node: cbr0Ext, dst: cbr0BridgeAddr6.Masked(), via: cbr0NodeAddr6.Addr(), dev: ext.dev},
		},
	}
	for _, pod := range cbr0Pods {
		eth := port{pod.node, "eth0"}
		p.nodes = append(p.nodes, pod.node)
		p.veths = append(p.veths, veth{eth, port{cbr0Node, pod.port}})
		p.bridges[0].members = append(p.bridges[0].members, pod.port)
		p.addresses = append(p.addresses, address{eth, pod.addr4}, address{eth, pod.addr6})
		p.routes = append(p.routes,
			route{node: pod.node, via: cbr0BridgeAddr4.Addr(), dev: eth.dev},
			route{node: pod.node, via: cbr0BridgeAddr6.Addr(), dev: eth.dev})
	}
	for _, n := range p.nodes {
		// A new namespace takes its IPv4 defaults from the machine.
		p.sysctls = append(p.sysctls,
			sysctl{n, "ipv4/conf/all/rp_filter", "0"},
			sysctl{n, "ipv4/conf/default/rp_filter", "0"},
			sysctl{n, "ipv6/conf/all/accept_dad", "0"},
			sysctl{n, "ipv6/conf/default/accept_dad", "0"})
	}
	p.sysctls = append(p.sysctls,
		sysctl{cbr0Node, "ipv4/conf/all/forwarding", "1"},
		sysctl{cbr0Node, "ipv6/conf/all/forwarding", "1"})
	return p
}

// startCBR0 makes what is not in the plan: the ports' mode, br_netfilter, the
// rules, the servers.
func startCBR0(ctx context.Context, w *World) error {
	if err := w.cbr0BridgeNetfilter(); err != nil {
		return err
	}
	for _, pod := range cbr0Pods {
		if err := w.setHairpin(port{cbr0Node, pod.port}, true); err != nil {
			return err
		}
	}
	if err := w.cbr0Ruleset(); err != nil {
		return err
	}
	var ready []func(context.Context) error
	for _, s := range cbr0Servers() {
		await, err := w.startTarget(s.name, s.node, s.listen...)
		if err != nil {
			return err
		}
		ready = append(ready, await)
	}
	for _, await := range ready {
		if err := await(ctx); err != nil {
			return err
		}
	}
	return nil
}

// cbr0Server is a server of the lab and where it listens.
type cbr0Server struct {
	name, node string
	listen     []netip.AddrPort
}

func cbr0Servers() []cbr0Server {
	at := func(port uint16, addrs ...netip.Addr) (all []netip.AddrPort) {
		for _, a := range addrs {
			all = append(all, netip.AddrPortFrom(a, port))
		}
		return all
	}
	servers := []cbr0Server{
		{cbr0Ext, cbr0Ext, at(cbr0PodPort, cbr0ExtAddr4.Addr(), cbr0ExtAddr6.Addr(), cbr0Internet4, cbr0Internet6, cbr0Remote4, cbr0Remote6)},
		{"agent", cbr0Node, at(cbr0HealthPort, cbr0NodeAddr4.Addr(), cbr0NodeAddr6.Addr())},
	}
	for i, pod := range cbr0Pods {
		s := cbr0Server{pod.name, pod.node, at(cbr0PodPort, pod.addr4.Addr(), pod.addr6.Addr())}
		if i == 2 {
			s.listen = append(s.listen, at(cbr0HealthPort, pod.addr4.Addr(), pod.addr6.Addr())...)
		}
		servers = append(servers, s)
	}
	return servers
}

// cbr0BridgeNetfilter sets what the options ask for. Without br_netfilter in the
// kernel there is nothing to switch off.
func (w *World) cbr0BridgeNetfilter() error {
	if !w.record.NoBridgeNetfilter {
		if err := w.loadBridgeNetfilter(cbr0Node); err != nil {
			return err
		}
		return w.setBridgeNetfilter(cbr0Node, "1")
	}
	found, err := w.hasBridgeNetfilter(cbr0Node)
	if err != nil || !found {
		return err
	}
	return w.setBridgeNetfilter(cbr0Node, "0")
}

// setHairpin lets a port of a bridge send out what came in through it, or not.
func (w *World) setHairpin(d port, on bool) error {
	l, err := w.link(d)
	if err != nil {
		return err
	}
	return wrap(fmt.Sprintf("set hairpin mode of %s in %s", d.dev, d.node), w.nodes[d.node].nl.LinkSetHairpin(l, on))
}
