// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// A plan is the part of a world that netlink and /proc/sys can build: it is
// data, one row per thing, and build walks it.

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// plan lists what a world consists of. Nodes are short names ("lb"); the
// namespace of a node is called wm-LAB-NODE.
type plan struct {
	nodes     []string
	sysctls   []sysctl
	veths     []veth
	bridges   []bridge
	dummies   []dummy
	overlays  []overlay
	ipips     []port // tunnels without a fixed end: they take what is addressed to the node
	addresses []address
	rules     []rule
	routes    []route
}

// sysctl is one file below /proc/sys/net and its value.
type sysctl struct{ node, key, value string }

// port is one device of a node.
type port struct{ node, dev string }

// veth is a pair of devices; each end may be a port of a bridge of its node.
type veth struct{ a, b port }

// bridge is a bridge and the devices enslaved to it.
type bridge struct {
	port
	members []string
}

// overlay is a device whose packets go over another one of its node: in VXLAN if
// it has a remote end, with a VLAN tag if not. id is the network's or the tag's.
type overlay struct {
	port
	over          string
	id            int
	local, remote netip.Addr
}

// dummy is a device that only carries addresses. One that is not up does so for
// IPv4 all the same; IPv6 has no use for the addresses of a device that is down.
type dummy struct {
	port
	up bool
}

// address is an address of a device. IPv6 addresses skip duplicate address
// detection: it takes a second, and nobody else is on these links.
type address struct {
	port
	prefix netip.Prefix
}

// rule is a policy routing rule. pref 0 lets the kernel choose, which puts the
// rule before those that are there (net/core/fib_rules.c fib_default_rule_pref).
type rule struct {
	node  string
	pref  int
	from  netip.Prefix
	mark  uint32
	v6    bool
	table int
}

// route is a route; a zero dst is the default route of the family of via, or of
// v6 for a blackhole. One without via leads to neighbours on dev. multipath is a
// list of next hops, all on dev, in place of via; a list may be of one.
type route struct {
	node      string
	dst       netip.Prefix
	via       netip.Addr
	dev       string
	table     int
	metric    int
	protocol  int
	onlink    bool
	multipath []netip.Addr
	blackhole bool
	v6        bool
}

// Who made a route: RTPROT_* of include/uapi/linux/rtnetlink.h.
const (
	protocolBird = 12
	protocolBGP  = 186
)

// neighbour is an entry of a device's neighbour table. state is one of
// netlink.NUD_*.
type neighbour struct {
	port
	ip    netip.Addr
	mac   net.HardwareAddr
	state int
}

// skipDAD are the settings with which an IPv6 address works at once.
func skipDAD(nodes ...string) []sysctl {
	var all []sysctl
	for _, n := range nodes {
		all = append(all,
			sysctl{n, "ipv6/conf/all/accept_dad", "0"},
			sysctl{n, "ipv6/conf/default/accept_dad", "0"})
	}
	return all
}

// forwarding are the settings of nodes that pass packets on, and choose between
// equal routes by addresses and ports.
func forwarding(nodes ...string) []sysctl {
	var all []sysctl
	for _, n := range nodes {
		all = append(all,
			sysctl{n, "ipv4/conf/all/forwarding", "1"},
			sysctl{n, "ipv6/conf/all/forwarding", "1"},
			sysctl{n, "ipv4/fib_multipath_hash_policy", "1"},
			sysctl{n, "ipv6/fib_multipath_hash_policy", "1"},
			sysctl{n, "ipv4/conf/all/rp_filter", "0"},
			sysctl{n, "ipv4/conf/default/rp_filter", "0"})
	}
	return all
}

// build makes everything in p. The sysctls come before the devices, so that a
// device takes its settings from this world's defaults and not from the host's;
// rules and routes come when every link has carrier.
func (w *World) build(ctx context.Context, p plan) error {
	for _, n := range p.nodes {
		if err := createNamespace(w.lab.namespace(n)); err != nil {
			return err
		}
		if err := w.open(n); err != nil {
			return err
		}
		if err := w.linkUp(port{n, "lo"}); err != nil {
			return err
		}
	}
	for _, s := range p.sysctls {
		if err := w.setSysctl(s.node, s.key, s.value); err != nil {
			return err
		}
	}
	if err := w.buildLinks(p); err != nil {
		return err
	}
	for _, a := range p.addresses {
		if err := w.addAddress(a); err != nil {
			return err
		}
	}
	if err := w.raiseLinks(ctx, p); err != nil {
		return err
	}
	for _, r := range p.rules {
		if err := w.addRule(r); err != nil {
			return err
		}
	}
	for _, r := range p.routes {
		if err := w.addRoute(r); err != nil {
			return err
		}
	}
	return nil
}

// firstIndex is the interface index of the first pair's first end. A pair whose
// ends have the same index in their namespaces looks like a plain device to the
// kernel, which then reports its carrier up to a second late
// (net/core/link_watch.c linkwatch_urgent_event); the other ends get small ones.
const firstIndex = 101

func (w *World) buildLinks(p plan) error {
	for i, v := range p.veths {
		link := &netlink.Veth{
			LinkAttrs:        netlink.LinkAttrs{Name: v.a.dev, Index: firstIndex + i, HardwareAddr: w.lab.hardwareAddr(v.a)},
			PeerName:         v.b.dev,
			PeerHardwareAddr: w.lab.hardwareAddr(v.b),
			PeerNamespace:    netlink.NsFd(w.nodes[v.b.node].ns.Fd()),
		}
		if err := w.addLink(v.a.node, link); err != nil {
			return err
		}
	}
	for _, b := range p.bridges {
		nl := w.nodes[b.node].nl
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: b.dev, HardwareAddr: w.lab.hardwareAddr(b.port)}}
		if err := w.addLink(b.node, br); err != nil {
			return err
		}
		for _, name := range b.members {
			member, err := w.link(port{b.node, name})
			if err != nil {
				return err
			}
			if err := nl.LinkSetMaster(member, br); err != nil {
				return fmt.Errorf("add %s to bridge %s in %s: %w", name, b.dev, b.node, err)
			}
		}
	}
	for _, o := range p.overlays {
		if err := w.addOverlay(o); err != nil {
			return err
		}
	}
	for _, d := range p.dummies {
		link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: d.dev, HardwareAddr: w.lab.hardwareAddr(d.port)}}
		if err := w.addLink(d.node, link); err != nil {
			return err
		}
		if d.up {
			if err := w.linkUp(d.port); err != nil {
				return err
			}
		}
	}
	for _, d := range p.ipips {
		// The module gives every namespace a tunl0 of its own when it is loaded,
		// which may be by this request.
		err := w.addLink(d.node, &netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: d.dev}})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		if err := w.linkUp(d); err != nil {
			return err
		}
	}
	return nil
}

const (
	// vxlanPort is IANA's port of VXLAN (RFC 7348).
	vxlanPort = 4789
	// vxlanHeaders are IPv4, UDP, VXLAN and the frame's Ethernet header.
	vxlanHeaders = 20 + 8 + 8 + 14
)

func (w *World) addOverlay(o overlay) error {
	under, err := w.link(port{o.node, o.over})
	if err != nil {
		return err
	}
	attrs := netlink.LinkAttrs{Name: o.dev, HardwareAddr: w.lab.hardwareAddr(o.port)}
	if !o.remote.IsValid() {
		attrs.ParentIndex = under.Attrs().Index
		return w.addLink(o.node, &netlink.Vlan{LinkAttrs: attrs, VlanId: o.id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
	}
	// Both devices carry packets as big as the other links': the kernel takes the
	// headers from the MTU of the device below.
	if err := w.nodes[o.node].nl.LinkSetMTU(under, under.Attrs().MTU+vxlanHeaders); err != nil {
		return fmt.Errorf("make room for VXLAN on %s in %s: %w", o.over, o.node, err)
	}
	return w.addLink(o.node, &netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: o.id, VtepDevIndex: under.Attrs().Index, Port: vxlanPort,
		SrcAddr: o.local.AsSlice(), Group: o.remote.AsSlice(), Learning: true,
	})
}

// addLink makes a device; ErrUnsupported when the kernel has none of its type.
func (w *World) addLink(node string, link netlink.Link) error {
	if err := w.noteModule(link.Type()); err != nil {
		return err
	}
	err := w.nodes[node].nl.LinkAdd(link)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = fmt.Errorf("%w: it has no devices of type %s: %w", ErrUnsupported, link.Type(), err)
	}
	return wrap(fmt.Sprintf("add %s %s in %s", link.Type(), link.Attrs().Name, node), err)
}

// ports lists every device with a carrier, bridges first: the kernel reports a
// carrier at once only when the device was already up without one.
func (p plan) ports() []port {
	var all []port
	for _, b := range p.bridges {
		all = append(all, b.port)
	}
	for _, v := range p.veths {
		all = append(all, v.a, v.b)
	}
	return all
}

// devices lists every device the plan makes.
func (p plan) devices() []port {
	all := append(p.ports(), p.ipips...)
	for _, o := range p.overlays {
		all = append(all, o.port)
	}
	for _, d := range p.dummies {
		all = append(all, d.port)
	}
	return all
}

// raiseLinks sets every device with a carrier up and waits for the kernel to say that it
// works: until then the queueing discipline of a new device drops packets.
func (w *World) raiseLinks(ctx context.Context, p plan) error {
	if err := w.raise(ctx, p.ports()); err != nil {
		return err
	}
	// A VLAN's device can be up only where the one below is, and takes its carrier
	// from there. One of VXLAN has none to wait for.
	var vlans []port
	for _, o := range p.overlays {
		if o.remote.IsValid() {
			if err := w.linkUp(o.port); err != nil {
				return err
			}
			continue
		}
		vlans = append(vlans, o.port)
	}
	return w.raise(ctx, vlans)
}

func (w *World) raise(ctx context.Context, ports []port) error {
	waiting := map[string]map[string]bool{}
	for _, d := range ports {
		if err := w.linkUp(d); err != nil {
			return err
		}
		if waiting[d.node] == nil {
			waiting[d.node] = map[string]bool{}
		}
		waiting[d.node][d.dev] = true
	}
	for node, devices := range waiting {
		if err := w.awaitLinks(ctx, node, devices); err != nil {
			return err
		}
	}
	return nil
}

// awaitLinks waits until the devices of node in waiting work.
func (w *World) awaitLinks(ctx context.Context, node string, waiting map[string]bool) error {
	err := w.awaitLinkState(ctx, node, waiting, func(a *netlink.LinkAttrs) bool { return a.OperState == netlink.OperUp })
	return wrap("wait for devices to come up", err)
}

// awaitNoCarrier waits until a device knows that the other end is down: until
// then what it sends is lost on the way.
func (w *World) awaitNoCarrier(ctx context.Context, d port) error {
	err := w.awaitLinkState(ctx, d.node, map[string]bool{d.dev: true}, func(a *netlink.LinkAttrs) bool {
		return a.OperState == netlink.OperDown || a.OperState == netlink.OperLowerLayerDown
	})
	return wrap("wait for a device to lose its carrier", err)
}

func (w *World) awaitLinkState(ctx context.Context, node string, waiting map[string]bool, is func(*netlink.LinkAttrs) bool) error {
	updates := make(chan netlink.LinkUpdate, 16)
	done := make(chan struct{})
	defer close(done)
	ns := w.nodes[node].handle()
	err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{Namespace: &ns, ListExisting: true})
	if err != nil {
		return fmt.Errorf("watch devices of %s: %w", node, err)
	}
	for len(waiting) > 0 {
		select {
		case u, ok := <-updates:
			if !ok {
				return fmt.Errorf("watch devices of %s: the kernel closed the subscription", node)
			}
			if is(u.Attrs()) {
				delete(waiting, u.Attrs().Name)
			}
		case <-ctx.Done():
			return fmt.Errorf("devices of %s: %w", node, ctx.Err())
		}
	}
	return nil
}

// hardwareAddr is the fixed, locally administered address of a device, so that
// two runs of a lab send the same frames.
func (l *lab) hardwareAddr(d port) net.HardwareAddr {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%s/%s", l.name, d.node, d.dev)
	sum := h.Sum32()
	return net.HardwareAddr{0x02, 0x57, byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}
}
