// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// A cluster behind IPVS as Ravel (Kube2IPVS) builds it: a top-of-rack router
// that spreads what goes to the virtual addresses over two directors, two
// realservers that lead what a director sends them to their pod, and a client.
// Names, addresses and settings are those of a Ravel installation; BGP, Calico
// and Kubernetes are left out, their results (routes, devices) are there.
//
//	cl e0 ── cl0 tor po0 ─┐            ┌─ po0 d1, d2 (directors)
//	                      └─ sw (br0) ─┤
//	                                   └─ po0 rsN cali0 ── eth0 podN
//
// There is a service for each way IPVS forwards. A request goes cl → tor → one
// of d1 and d2 → one of rs1 and rs2. Then
//
//   - direct: the director changes the frame's address alone. The realserver
//     rewrites the packet to its pod, and answers past the director.
//   - tunnel: the director puts the packet into another one for the realserver
//     (IPIP), which goes on as above.
//   - masq: the director rewrites the packet to a server of the realserver's
//     own, so the answer has to come back to it. Ravel never does this.
//   - arp: as direct, but the director has no BGP. The router has its hardware
//     address for the virtual one, which it announces itself by ARP; nobody else,
//     who has the virtual address, may answer for it. Only rs2 has a pod of it.
//
// IPv6 has direct and masq. For direct the realserver's own server listens on
// the virtual address, where Ravel has haproxy.

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

const (
	ipvsSwitch    = "sw"
	ipvsRouter    = "tor"
	ipvsClient    = "cl"
	ipvsUplink    = "po0"
	ipvsTunnelDev = "tunl0"
)

// Ports of the services, and of the servers where they are rewritten.
const (
	ipvsDirectPort = 8012
	ipvsTunnelPort = 8013
	ipvsMasqPort   = 8014
	ipvsARPPort    = 8015
	ipvsServerPort = 8080
)

var (
	ipvsVIP4 = netip.MustParseAddr("10.54.213.148")
	ipvsVIP6 = netip.MustParseAddr("2001:db8:54::148")
	// The addresses of masq are announced by d1 alone: an answer must come back
	// to the director that rewrote the request.
	ipvsMasqVIP4 = netip.MustParseAddr("10.54.213.149")
	ipvsMasqVIP6 = netip.MustParseAddr("2001:db8:54::149")

	// The address of arp is of the rack's own network, where the router asks for it.
	ipvsARPVIP4 = netip.MustParseAddr("10.131.153.150")

	ipvsRouter4 = netip.MustParseAddr("10.131.153.1")
	ipvsRouter6 = netip.MustParseAddr("fd00:131:153::1")
)

// ipvsHost is a host in the rack.
type ipvsHost struct {
	node         string
	addr4, addr6 netip.Addr
}

var ipvsDirectors = []ipvsHost{
	{"d1", netip.MustParseAddr("10.131.153.72"), netip.MustParseAddr("fd00:131:153::72")},
	{"d2", netip.MustParseAddr("10.131.153.73"), netip.MustParseAddr("fd00:131:153::73")},
}

// ipvsRealserver is a compute node with its one pod.
type ipvsRealserver struct {
	ipvsHost
	pod  string
	pod4 netip.Addr
}

var ipvsRealservers = []ipvsRealserver{
	{
		ipvsHost{"rs1", netip.MustParseAddr("10.131.153.101"), netip.MustParseAddr("fd00:131:153::101")},
		"pod1", netip.MustParseAddr("192.168.10.1"),
	},
	{
		ipvsHost{"rs2", netip.MustParseAddr("10.131.153.102"), netip.MustParseAddr("fd00:131:153::102")},
		"pod2", netip.MustParseAddr("192.168.10.2"),
	},
}

// ipvsPodGateway is what every pod knows as its gateway: the realserver's end of
// its link.
var ipvsPodGateway = netip.MustParseAddr("169.254.1.1")

// ipvsReturnTable is the realservers' table that leads what they send in their
// own name to the director of masq.
const ipvsReturnTable = 100

var ipvs = &lab{
	name:     "ipvs",
	brief:    "IPVS as Ravel sets it up: router, two directors, two realservers with a pod each, IPv4 and IPv6",
	plan:     ipvsPlan(),
	lacks:    func() error { _, err := ipvsFamily(); return err },
	start:    startIPVS,
	service:  ipvsServices[0],
	services: ipvsServices,
}

var ipvsServices = []service{
	ipvsService("direct", "direct routing (DSR)", ipvsVIP4, ipvsVIP6, ipvsDirectPort),
	ipvsService("tunnel", "IPIP tunnels to the realservers, IPv4 only", ipvsVIP4, netip.Addr{}, ipvsTunnelPort),
	ipvsService("arp", "direct routing by one director that announces itself by ARP, IPv4 only", ipvsARPVIP4, netip.Addr{}, ipvsARPPort),
	ipvsService("masq", "masquerading: answers go back through the director", ipvsMasqVIP4, ipvsMasqVIP6, ipvsMasqPort),
}

func ipvsService(name, brief string, v4, v6 netip.Addr, port uint16) service {
	return service{
		name: name, brief: brief, client: ipvsClient,
		from4: netip.MustParseAddr("198.51.100.2"), from6: netip.MustParseAddr("2001:db8:51::2"),
		virtual4: v4, virtual6: v6, port: port,
	}
}

// The table of faults names functions that name the lab.
func init() { ipvs.faults = ipvsFaults() }

func ipvsPlan() plan {
	p := plan{
		nodes:   []string{ipvsSwitch, ipvsRouter, ipvsClient},
		veths:   []veth{{port{ipvsClient, "e0"}, port{ipvsRouter, "cl0"}}},
		bridges: []bridge{{port: port{ipvsSwitch, "br0"}}},
	}
	for _, a := range []struct{ node, dev, prefix string }{
		{ipvsClient, "e0", "198.51.100.2/24"},
		{ipvsClient, "e0", "2001:db8:51::2/64"},
		{ipvsRouter, "cl0", "198.51.100.1/24"},
		{ipvsRouter, "cl0", "2001:db8:51::1/64"},
	} {
		p.addresses = append(p.addresses, address{port{a.node, a.dev}, netip.MustParsePrefix(a.prefix)})
	}
	p.rack(ipvsHost{ipvsRouter, ipvsRouter4, ipvsRouter6})
	// A router chooses by what the packet says. The usual policy for ports takes
	// the hash of the sending socket if there is one, as there is between
	// namespaces, and that changes with a retransmission
	// (net/ipv4/route.c fib_multipath_hash).
	for _, ip := range []string{"ipv4", "ipv6"} {
		p.sysctls = append(p.sysctls,
			sysctl{ipvsRouter, ip + "/fib_multipath_hash_policy", "3"},      // by the fields below
			sysctl{ipvsRouter, ip + "/fib_multipath_hash_fields", "0x0037"}) // addresses, protocol, ports
	}
	p.routes = append(p.routes,
		route{node: ipvsClient, via: netip.MustParseAddr("198.51.100.1"), dev: "e0"},
		route{node: ipvsClient, via: netip.MustParseAddr("2001:db8:51::1"), dev: "e0"})

	var via4, via6 []netip.Addr
	for _, d := range ipvsDirectors {
		p.nodes = append(p.nodes, d.node)
		p.rack(d)
		p.sysctls = append(p.sysctls, ipvsQuietARP(d.node)...)
		// Its answers to masquerading requests leave by the device they came in
		// by, which is no reason to tell the realserver of a shorter way.
		p.sysctls = append(p.sysctls,
			sysctl{d.node, "ipv4/conf/all/send_redirects", "0"},
			sysctl{d.node, "ipv4/conf/default/send_redirects", "0"})
		for _, vip := range []netip.Addr{ipvsVIP4, ipvsVIP6, ipvsMasqVIP4, ipvsMasqVIP6} {
			p.virtual(d.node, vip)
		}
		via4, via6 = append(via4, d.addr4), append(via6, d.addr6)
	}
	p.virtual(ipvsDirectors[0].node, ipvsARPVIP4)
	// What the router's BGP speaker learns from the directors.
	for vip, via := range map[netip.Addr][]netip.Addr{
		ipvsVIP4: via4, ipvsVIP6: via6, ipvsMasqVIP4: via4[:1], ipvsMasqVIP6: via6[:1],
	} {
		p.routes = append(p.routes, route{node: ipvsRouter, dst: host(vip), multipath: via, dev: ipvsUplink, protocol: protocolBGP})
	}
	for _, r := range ipvsRealservers {
		p.realserver(r)
	}
	p.sysctls = append(skipDAD(p.nodes...), p.sysctls...)
	return p
}

// rack connects a host to the rack's switch. All of them forward.
func (p *plan) rack(h ipvsHost) {
	up := port{h.node, ipvsUplink}
	p.sysctls = append(p.sysctls, forwarding(h.node)...)
	p.veths = append(p.veths, veth{up, port{ipvsSwitch, "p-" + h.node}})
	p.bridges[0].members = append(p.bridges[0].members, "p-"+h.node)
	p.addresses = append(p.addresses, address{up, netip.PrefixFrom(h.addr4, 24)}, address{up, netip.PrefixFrom(h.addr6, 64)})
	if h.node != ipvsRouter {
		p.routes = append(p.routes,
			route{node: h.node, via: ipvsRouter4, dev: ipvsUplink},
			route{node: h.node, via: ipvsRouter6, dev: ipvsUplink})
	}
}

// virtual gives a host a virtual address.
func (p *plan) virtual(node string, vip netip.Addr) {
	d := port{node, ipvsDummyName(vip)}
	p.dummies = append(p.dummies, dummy{d, vip.Is6()}) // Ravel never sets it up for IPv4
	p.addresses = append(p.addresses, address{d, host(vip)})
}

// ipvsDummyName is what Ravel calls the device of a virtual address
// (pkg/system/ip.go): the address with underscores, or the last 15 of its
// hexadecimal digits.
func ipvsDummyName(vip netip.Addr) string {
	if vip.Is4() {
		return strings.ReplaceAll(vip.String(), ".", "_")
	}
	digits := hex.EncodeToString(vip.AsSlice())
	return digits[len(digits)-15:]
}

// ipvsQuietARP keeps a host from answering ARP for the virtual addresses it has.
// What is set for "default" holds for the devices made after it.
func ipvsQuietARP(node string) []sysctl {
	var all []sysctl
	for _, conf := range []string{"lo", "default"} {
		all = append(all,
			sysctl{node, "ipv4/conf/" + conf + "/arp_ignore", "1"},
			sysctl{node, "ipv4/conf/" + conf + "/arp_announce", "2"})
	}
	return all
}

// realserver adds a realserver and its pod.
func (p *plan) realserver(r ipvsRealserver) {
	p.nodes = append(p.nodes, r.node, r.pod)
	p.rack(r.ipvsHost)
	p.sysctls = append(p.sysctls, ipvsQuietARP(r.node)...)
	p.virtual(r.node, ipvsVIP4)
	p.virtual(r.node, ipvsVIP6)
	p.virtual(r.node, ipvsARPVIP4)
	p.ipips = append(p.ipips, port{r.node, ipvsTunnelDev})

	cali, eth := port{r.node, "cali0"}, port{r.pod, "eth0"}
	p.veths = append(p.veths, veth{cali, eth})
	p.addresses = append(p.addresses, address{cali, host(ipvsPodGateway)}, address{eth, host(r.pod4)})
	p.routes = append(p.routes,
		route{node: r.node, dst: host(r.pod4), dev: cali.dev},
		route{node: r.pod, dst: host(ipvsPodGateway), dev: eth.dev},
		route{node: r.pod, via: ipvsPodGateway, dev: eth.dev},
		route{node: r.node, via: ipvsDirectors[0].addr4, dev: ipvsUplink, table: ipvsReturnTable},
		route{node: r.node, via: ipvsDirectors[0].addr6, dev: ipvsUplink, table: ipvsReturnTable})
	p.rules = append(p.rules,
		rule{node: r.node, from: host(r.addr4), table: ipvsReturnTable},
		rule{node: r.node, from: host(r.addr6), table: ipvsReturnTable})
}

// host is the prefix of one address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// startIPVS gives the directors their services and the realservers their rules,
// and starts the servers.
func startIPVS(ctx context.Context, w *World) error {
	for _, d := range ipvsDirectors {
		if err := w.setIPVSSysctls(d.node); err != nil {
			return err
		}
		for _, s := range ipvsTable() {
			if err := w.addIPVSService(d.node, s); err != nil {
				return err
			}
		}
	}
	if err := w.announceByARP(); err != nil {
		return err
	}
	var ready []func(context.Context) error
	for i, r := range ipvsRealservers {
		// A tunnel that the kernel made on its own has the settings of the host.
		if err := w.setSysctl(r.node, "ipv4/conf/"+ipvsTunnelDev+"/rp_filter", "0"); err != nil {
			return err
		}
		if err := w.addRealserverRules(r); err != nil {
			return err
		}
		pod, err := w.startTarget(fmt.Sprintf("pod-%d", i+1), r.pod, netip.AddrPortFrom(r.pod4, ipvsServerPort))
		if err != nil {
			return err
		}
		own, err := w.startTarget(fmt.Sprintf("rs-%d", i+1), r.node,
			netip.AddrPortFrom(ipvsVIP6, ipvsDirectPort),
			netip.AddrPortFrom(r.addr4, ipvsServerPort), netip.AddrPortFrom(r.addr6, ipvsServerPort))
		if err != nil {
			return err
		}
		ready = append(ready, pod, own)
	}
	for _, await := range ready {
		if err := await(ctx); err != nil {
			return err
		}
	}
	return nil
}
