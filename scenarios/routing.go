// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// What the rows of a plan do: each can be made when it is there and removed
// when it is gone, so that faults can use the same rows.

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func (w *World) link(d port) (netlink.Link, error) {
	l, err := w.nodes[d.node].nl.LinkByName(d.dev)
	if err != nil {
		return nil, fmt.Errorf("device %s in %s: %w", d.dev, d.node, err)
	}
	return l, nil
}

func (w *World) linkUp(d port) error {
	l, err := w.link(d)
	if err != nil {
		return err
	}
	return wrap("set "+d.dev+" in "+d.node+" up", w.nodes[d.node].nl.LinkSetUp(l))
}

func (w *World) linkDown(d port) error {
	l, err := w.link(d)
	if err != nil {
		return err
	}
	return wrap("set "+d.dev+" in "+d.node+" down", w.nodes[d.node].nl.LinkSetDown(l))
}

// setNeighbour makes an entry of a neighbour table, or changes the one there.
func (w *World) setNeighbour(n neighbour) error {
	l, err := w.link(n.port)
	if err != nil {
		return err
	}
	err = w.nodes[n.node].nl.NeighSet(n.netlink(l))
	return wrap(fmt.Sprintf("set neighbour %s on %s in %s", n.ip, n.dev, n.node), err)
}

// removeNeighbour removes an entry of a neighbour table; it may be gone already.
func (w *World) removeNeighbour(n neighbour) error {
	l, err := w.link(n.port)
	if err != nil {
		return err
	}
	err = w.nodes[n.node].nl.NeighDel(n.netlink(l))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return wrap(fmt.Sprintf("remove neighbour %s on %s in %s", n.ip, n.dev, n.node), err)
}

func (n neighbour) netlink(l netlink.Link) *netlink.Neigh {
	family := unix.AF_INET
	if n.ip.Is6() {
		family = unix.AF_INET6
	}
	return &netlink.Neigh{
		LinkIndex: l.Attrs().Index, Family: family, IP: n.ip.AsSlice(), HardwareAddr: n.mac, State: n.state,
	}
}

// setSysctl writes value to net/KEY of the node; KEY is a path ("ipv4/ip_forward").
func (w *World) setSysctl(node, key, value string) error {
	return inside(w.nodes[node].ns, func() error {
		path := filepath.Join("/proc/sys/net", key)
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("set net/%s in %s: %w", key, node, err)
		}
		return nil
	})
}

// addAddress gives a device an address; it may have it already.
func (w *World) addAddress(a address) error {
	l, err := w.link(a.port)
	if err != nil {
		return err
	}
	err = w.nodes[a.node].nl.AddrAdd(l, netlinkAddr(a))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add %s to %s in %s: %w", a.prefix, a.dev, a.node, err)
	}
	return nil
}

// removeAddress takes an address from a device; it may be gone already.
func (w *World) removeAddress(a address) error {
	l, err := w.link(a.port)
	if err != nil {
		return err
	}
	err = w.nodes[a.node].nl.AddrDel(l, netlinkAddr(a))
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove %s from %s in %s: %w", a.prefix, a.dev, a.node, err)
	}
	return nil
}

func netlinkAddr(a address) *netlink.Addr {
	addr := &netlink.Addr{IPNet: ipNet(a.prefix)}
	if a.prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return addr
}

// addRule adds a rule; it may be there already.
func (w *World) addRule(r rule) error {
	err := w.nodes[r.node].nl.RuleAdd(r.netlink())
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add %s in %s: %w", r, r.node, err)
	}
	return nil
}

// removeRule removes a rule; it may be gone already.
func (w *World) removeRule(r rule) error {
	err := w.nodes[r.node].nl.RuleDel(r.netlink())
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s in %s: %w", r, r.node, err)
	}
	return nil
}

func (r rule) is6() bool { return r.v6 || r.from.IsValid() && r.from.Addr().Is6() }

func (r rule) String() string {
	var s strings.Builder
	s.WriteString("rule")
	if r.from.IsValid() {
		fmt.Fprintf(&s, " from %s", r.from)
	}
	if r.mark != 0 {
		fmt.Fprintf(&s, " fwmark %#x", r.mark)
	}
	fmt.Fprintf(&s, " lookup %d", r.table)
	return s.String()
}

func (r rule) netlink() *netlink.Rule {
	n := netlink.NewRule()
	n.Family = unix.AF_INET
	if r.is6() {
		n.Family = unix.AF_INET6
	}
	n.Table = r.table
	n.Mark = r.mark
	if r.pref != 0 {
		n.Priority = r.pref
	}
	if r.from.IsValid() {
		n.Src = ipNet(r.from)
	}
	return n
}

// addRoute adds a route; it may be there already.
func (w *World) addRoute(r route) error {
	n, err := w.netlinkRoute(r)
	if err != nil {
		return err
	}
	err = w.nodes[r.node].nl.RouteAdd(n)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add %s in %s: %w", r, r.node, err)
	}
	return nil
}

// removeRoute removes a route; it may be gone already.
func (w *World) removeRoute(r route) error {
	n, err := w.netlinkRoute(r)
	if err != nil {
		return err
	}
	err = w.nodes[r.node].nl.RouteDel(n)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove %s in %s: %w", r, r.node, err)
	}
	return nil
}

// replaceRoute makes a route in place of the one with its destination, table and
// metric, if there is one.
func (w *World) replaceRoute(r route) error {
	n, err := w.netlinkRoute(r)
	if err != nil {
		return err
	}
	return wrap(fmt.Sprintf("replace %s in %s", r, r.node), w.nodes[r.node].nl.RouteReplace(n))
}

func (r route) is6() bool {
	return r.v6 || r.via.Is6() || r.dst.Addr().Is6() || len(r.multipath) > 0 && r.multipath[0].Is6()
}

func (r route) String() string {
	dst := "default"
	if r.dst.IsValid() {
		dst = r.dst.String()
	}
	if r.blackhole {
		return fmt.Sprintf("route blackhole %s table %d", dst, r.table)
	}
	s := "route " + dst
	if r.via.IsValid() {
		s += " via " + r.via.String()
	}
	for _, via := range r.multipath {
		s += " nexthop via " + via.String()
	}
	return fmt.Sprintf("%s dev %s table %d", s, r.dev, r.table)
}

func (w *World) netlinkRoute(r route) (*netlink.Route, error) {
	n := &netlink.Route{
		Family:   unix.AF_INET,
		Table:    r.table,
		Priority: r.metric,
		Protocol: netlink.RouteProtocol(r.protocol),
	}
	dst := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if r.is6() {
		n.Family = unix.AF_INET6
		dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	if r.dst.IsValid() {
		dst = r.dst
	}
	n.Dst = ipNet(dst)
	if n.Protocol == 0 {
		n.Protocol = unix.RTPROT_BOOT // what a route added by hand has
	}
	if r.blackhole {
		n.Type = unix.RTN_BLACKHOLE
		return n, nil
	}
	l, err := w.link(port{r.node, r.dev})
	if err != nil {
		return nil, err
	}
	for _, via := range r.multipath {
		n.MultiPath = append(n.MultiPath, &netlink.NexthopInfo{LinkIndex: l.Attrs().Index, Gw: via.AsSlice()})
	}
	if len(n.MultiPath) > 0 {
		return n, nil
	}
	n.LinkIndex = l.Attrs().Index
	n.Gw = r.via.AsSlice()
	if !r.via.IsValid() && !r.is6() {
		n.Scope = netlink.SCOPE_LINK // so that a gateway may be reached by it
	}
	if r.onlink {
		n.Flags = int(netlink.FLAG_ONLINK)
	}
	return n, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
