// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// The external side of the Meridio lab: what the load balancer and its gateway
// are connected by. Meridio's attractor chooses between an interface of NSM and a
// VLAN; between nodes NSM's own packets go in VXLAN.

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// meridioExternal are the devices that have the addresses, and what they are made
// of: a veth pair, or devices over one.
type meridioExternal struct {
	balancer, gateway string
	vlan, vxlan       bool
}

var meridioVeth = meridioExternal{balancer: "nsm-1", gateway: "ext0"}

// meridioExternals are the others, by their names in Options.External.
var meridioExternals = map[string]meridioExternal{
	"vlan":  {balancer: "ext-vlan.100", gateway: "ext0", vlan: true},
	"vxlan": {balancer: "vxlan100", gateway: "ext0", vxlan: true},
}

const (
	meridioExternalID = 100 // VLAN, or VXLAN network
	meridioUnder      = "eth1"
)

// Addresses of the ends of VXLAN.
var (
	meridioUnderLB = netip.MustParsePrefix("192.168.100.2/24")
	meridioUnderGW = netip.MustParsePrefix("192.168.100.150/24")
)

// wire is the pair under everything.
func (e meridioExternal) wire() veth {
	if e.vlan || e.vxlan {
		return veth{port{meridioLB, meridioUnder}, port{meridioGW, meridioUnder}}
	}
	return veth{port{meridioLB, e.balancer}, port{meridioGW, e.gateway}}
}

func (e meridioExternal) overlays() []overlay {
	if !e.vlan && !e.vxlan {
		return nil
	}
	lb := overlay{port: port{meridioLB, e.balancer}, over: meridioUnder, id: meridioExternalID}
	gw := overlay{port: port{meridioGW, e.gateway}, over: meridioUnder, id: meridioExternalID}
	if e.vxlan {
		lb.local, lb.remote = meridioUnderLB.Addr(), meridioUnderGW.Addr()
		gw.local, gw.remote = lb.remote, lb.local
	}
	return []overlay{lb, gw}
}

func (e meridioExternal) addresses() []address {
	if !e.vxlan {
		return nil
	}
	return []address{
		{port{meridioLB, meridioUnder}, meridioUnderLB},
		{port{meridioGW, meridioUnder}, meridioUnderGW},
	}
}

// defaults are the routes back to the gateway that bird keeps in table
// 4096; without them replies fall through to the blackhole in 4097.
func (e meridioExternal) defaults() []route {
	return []route{
		{node: meridioLB, via: netip.MustParseAddr("169.254.100.150"), dev: e.balancer, table: 4096, metric: 32, protocol: protocolBird},
		{node: meridioLB, via: netip.MustParseAddr("100:100::150"), dev: e.balancer, table: 4096, metric: 32, protocol: protocolBird},
	}
}

// announced are the gateway's routes to the virtual addresses: what its BGP speaker
// learns from the load balancer.
func (e meridioExternal) announced() []route {
	return []route{
		{node: meridioGW, dst: vip4Prefix, via: netip.MustParseAddr("169.254.100.2"), dev: e.gateway, protocol: protocolBird, metric: 32},
		{node: meridioGW, dst: vip6Prefix, via: netip.MustParseAddr("100:100::2"), dev: e.gateway, protocol: protocolBird, metric: 32},
	}
}

// upstream are default routes of the gateway, to a router that the lab does not have.
func (e meridioExternal) upstream() []route {
	return []route{
		{node: meridioGW, via: netip.MustParseAddr("169.254.100.1"), dev: e.gateway},
		{node: meridioGW, via: netip.MustParseAddr("100:100::1"), dev: e.gateway},
	}
}

// balancerAddresses are those of the load balancer's external device.
func (e meridioExternal) balancerAddresses() []address {
	dev := port{meridioLB, e.balancer}
	return []address{
		{dev, netip.MustParsePrefix("169.254.100.2/24")},
		{dev, netip.MustParsePrefix("100:100::2/64")},
	}
}

// staleNeighbours are entries of the gateway that name a hardware address which
// nobody has for the load balancer's.
func (e meridioExternal) staleNeighbours() []neighbour {
	gone := net.HardwareAddr{0x02, 0x57, 0, 0, 0, 1}
	var all []neighbour
	for _, a := range e.balancerAddresses() {
		all = append(all, neighbour{
			port: port{meridioGW, e.gateway}, ip: a.prefix.Addr(), mac: gone, state: netlink.NUD_PERMANENT,
		})
	}
	return all
}
