// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Where a marked packet goes, if routing has no choice. Handing it on without
// the IP layer is right only if nothing there would treat it otherwise: no rule
// before the mark's, no other route in its table, no hook of netfilter or IPsec
// on the way. Whatever is not known to be so leaves the packet to the kernel.

// readRoutes looks at all that decides about forwarding.
func (f *FastPath) readRoutes(h *netlink.Handle) *fastRoutes {
	r := new(fastRoutes)
	var why [2]error
	err := f.inNetNS(func() error {
		for i, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			if why[i] = f.onlyRouting(h, family); why[i] != nil {
				continue
			}
			hops, err := f.nexthops(h, family)
			if err != nil {
				return err
			}
			if family == netlink.FAMILY_V4 {
				r.v4 = hops
			} else {
				r.v6 = hops
			}
			local, err := localPrefixes(h, family)
			if err != nil {
				return err
			}
			r.local = append(r.local, local...)
		}
		return nil
	})
	for i, name := range []string{"IPv4", "IPv6"} {
		if err != nil {
			why[i] = err
		}
		text := fmt.Sprint(why[i])
		if text == f.notRedirected[i] {
			continue
		}
		f.notRedirected[i] = text
		if why[i] != nil {
			f.config.Log(name+" packets are routed, not redirected", why[i])
		} else {
			f.config.Log(name+" packets are redirected where their mark has one route", nil)
		}
	}
	if err != nil {
		return nil
	}
	return r
}

// onlyRouting is nil if a forwarded packet of the family meets nothing on its
// way but routing. It is called in the namespace.
func (f *FastPath) onlyRouting(h *netlink.Handle, family int) error {
	if err := f.onlyQueueChains(family); err != nil {
		return err
	}
	tables, name := "ip_tables_names", "iptables"
	if family == netlink.FAMILY_V6 {
		tables, name = "ip6_tables_names", "ip6tables"
	}
	if text, err := os.ReadFile("/proc/thread-self/net/" + tables); err == nil && len(text) > 0 {
		return fmt.Errorf("%s has tables (%s)", name, strings.Join(strings.Fields(string(text)), ", "))
	}
	const ipvsHeading = 3 // lines
	if text, err := os.ReadFile("/proc/thread-self/net/ip_vs"); err == nil && strings.Count(string(text), "\n") > ipvsHeading {
		return fmt.Errorf("IPVS has services")
	}
	if err := noPolicies(); err != nil {
		return err
	}
	links, err := h.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if a := l.Attrs(); f.serves(a.Name) {
			if err := plainForwarding(a, family); err != nil {
				return err
			}
		}
	}
	return nil
}

// onlyQueueChains is nil if nftables looks at no packet of the family but to
// queue it.
func (f *FastPath) onlyQueueChains(family int) error {
	c, err := nftables.New(nftables.WithNetNSFd(f.config.NetNS))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	other := nftables.TableFamilyIPv6
	if family == netlink.FAMILY_V6 {
		other = nftables.TableFamilyIPv4
	}
	for _, chain := range chains {
		if chain.Hooknum == nil || chain.Table.Family == other {
			continue
		}
		switch *chain.Hooknum {
		case *nftables.ChainHookInput, *nftables.ChainHookOutput:
			if chain.Table.Family != nftables.TableFamilyNetdev {
				continue // packets that end or begin here
			}
		}
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return fmt.Errorf("nftables chain %s %s: %w", chain.Table.Name, chain.Name, err)
		}
		if chain.Policy != nil && *chain.Policy != nftables.ChainPolicyAccept {
			return fmt.Errorf("nftables chain %s %s drops what it does not accept", chain.Table.Name, chain.Name)
		}
		for _, r := range rules {
			if !isPass(r) && !queuesTo(r, f.config.FirstQueue, f.config.LastQueue) {
				return fmt.Errorf("nftables chain %s %s has other rules than those that queue", chain.Table.Name, chain.Name)
			}
		}
	}
	return nil
}

// noPolicies is nil if IPsec has no policy.
func noPolicies() error {
	h, err := netlink.NewHandle(unix.NETLINK_XFRM)
	if err != nil {
		return nil // this kernel has no IPsec
	}
	defer h.Close()
	policies, err := h.XfrmPolicyList(netlink.FAMILY_ALL)
	if err == nil && len(policies) > 0 {
		return fmt.Errorf("IPsec has policies")
	}
	return nil
}

// plainForwarding is nil if packets that come by the device are forwarded
// without a look at their source.
func plainForwarding(a *netlink.LinkAttrs, family int) error {
	if a.MasterIndex != 0 {
		return fmt.Errorf("%s belongs to another device", a.Name)
	}
	type want struct{ name, value string }
	settings := []want{{"ipv4/conf/" + a.Name + "/forwarding", "1"}, {"ipv4/conf/all/rp_filter", "0"}, {"ipv4/conf/" + a.Name + "/rp_filter", "0"}}
	if family == netlink.FAMILY_V6 {
		settings = []want{{"ipv6/conf/all/forwarding", "1"}, {"ipv6/conf/all/proxy_ndp", "0"}}
	}
	for _, s := range settings {
		if got := netSysctl(s.name); got != s.value {
			return fmt.Errorf("net/%s is %q, not %s", s.name, got, s.value)
		}
	}
	return nil
}

func netSysctl(name string) string {
	raw, _ := os.ReadFile("/proc/sys/net/" + name) // "" is no setting's value
	return strings.TrimSpace(string(raw))
}

// nexthops are the marks whose rule, before which only other marks' rules and
// the local table's stand, leads to a table of one route by one gateway.
func (f *FastPath) nexthops(h *netlink.Handle, family int) (map[int]nexthop, error) {
	rules, err := h.RuleList(family)
	if err != nil {
		return nil, fmt.Errorf("routing rules: %w", err)
	}
	hops := make(map[int]nexthop)
	seen := make(map[int]bool)
	for _, r := range rules {
		if r.Table == unix.RT_TABLE_LOCAL && bareRule(&r) && r.Mark == 0 {
			continue
		}
		if !bareRule(&r) || r.Mark == 0 || r.Mask != nil && *r.Mask != ^uint32(0) {
			break // from here on the mark alone does not tell
		}
		mark := int(r.Mark)
		if seen[mark] {
			continue
		}
		seen[mark] = true
		hop, err := onlyRoute(h, family, r.Table)
		if err != nil {
			return nil, err
		}
		if hop.dev != 0 {
			hops[mark] = hop
		}
	}
	return hops, nil
}

// bareRule tells whether a rule asks for nothing but, perhaps, a mark, and leads
// to a table.
func bareRule(r *netlink.Rule) bool {
	return r.Table > 0 && r.Src == nil && r.Dst == nil && r.IifName == "" && r.OifName == "" && r.Tos == 0 && r.TunID == 0 &&
		r.Goto < 0 && r.Flow < 0 && r.SuppressIfgroup < 0 && r.SuppressPrefixlen < 0 && !r.Invert &&
		r.Dport == nil && r.Sport == nil && r.IPProto == 0 && r.UIDRange == nil
}

// onlyRoute is a table's nexthop if it has one route, by one gateway on a device
// that is up.
func onlyRoute(h *netlink.Handle, family, table int) (nexthop, error) {
	routes, err := h.RouteListFiltered(family, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nexthop{}, fmt.Errorf("routing table %d: %w", table, err)
	}
	if len(routes) != 1 {
		return nexthop{}, nil
	}
	r := &routes[0]
	const unusable = unix.RTNH_F_DEAD | unix.RTNH_F_LINKDOWN
	via, ok := netip.AddrFromSlice(r.Gw)
	switch {
	case !ok, r.Type != unix.RTN_UNICAST, len(r.MultiPath) > 0, r.Encap != nil, r.Via != nil, r.NewDst != nil, r.MPLSDst != nil,
		r.MTU != 0, r.Tos != 0, r.Src != nil && family == netlink.FAMILY_V6, r.Flags&unusable != 0, r.Dst != nil && !isDefault(r.Dst):
		return nexthop{}, nil
	}
	via = via.Unmap()
	if via.Is4() != (family == netlink.FAMILY_V4) {
		return nexthop{}, nil
	}
	l, err := h.LinkByIndex(r.LinkIndex)
	if err != nil {
		return nexthop{}, nil // it went meanwhile
	}
	a := l.Attrs()
	if a.Flags&net.FlagUp == 0 || a.EncapType != "ether" || a.MasterIndex != 0 || a.OperState != netlink.OperUp && a.OperState != netlink.OperUnknown {
		return nexthop{}, nil
	}
	if family == netlink.FAMILY_V6 && netSysctl("ipv6/conf/"+a.Name+"/mtu") != fmt.Sprint(a.MTU) {
		return nexthop{}, nil
	}
	return nexthop{uint32(r.LinkIndex), uint32(a.MTU), via}, nil
}

func isDefault(n *net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0
}

// localPrefixes are the addresses that this host keeps to itself, without those
// that no host may send from or to: loopback and multicast.
func localPrefixes(h *netlink.Handle, family int) ([]cidr, error) {
	routes, err := h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("local addresses: %w", err)
	}
	var out []cidr
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP)
		if !ok {
			continue
		}
		if addr.IsLoopback() || addr.IsMulticast() {
			continue
		}
		ones, bits := r.Dst.Mask.Size()
		out = append(out, makeCIDR(addr.As16(), ones+128-bits))
	}
	return out, nil
}
