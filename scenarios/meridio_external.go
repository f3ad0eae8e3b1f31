// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// The external side of the Meridio lab: what the load balancer and its gateway
// are connected by. Meridio's attractor chooses between an interface of NSM and a
// VLAN; between nodes NSM's own packets go in VXLAN.

import "net/netip"

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
