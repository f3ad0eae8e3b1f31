// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"waymark/decoder"
)

// State is what a namespace looked like at one moment.
type State struct {
	At      uint64 // boot clock ns: when the reading began
	Devices []decoder.Device
	Routing decoder.Routing
	Queues  decoder.Queues
}

// readTries is how often a state is read that changes meanwhile.
const readTries = 5

// Read reads the state of a namespace over netlink and procfs.
func Read(ns Namespace) (st *State, err error) {
	for range readTries {
		st, err = read(ns)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return st, err
}

func read(ns Namespace) (*State, error) {
	var st State
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return nil, fmt.Errorf("read the clock: %w", err)
	}
	st.At = uint64(now.Nano())
	err := ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink in %s: %w", ns.Name, err)
		}
		defer h.Close()
		if st.Devices, err = readDevices(h, ns); err != nil {
			return err
		}
		if st.Routing, err = readRouting(h, ns, st.Devices); err != nil {
			return err
		}
		st.Queues = readQueues(ns)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &st, nil
}

func readDevices(h *netlink.Handle, ns Namespace) ([]decoder.Device, error) {
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list devices of %s: %w", ns.Name, err)
	}
	addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", ns.Name, err)
	}
	byIndex := map[int][]netip.Prefix{}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			byIndex[a.LinkIndex] = append(byIndex[a.LinkIndex], p)
		}
	}
	ports := readBridgePorts(links)
	devices := make([]decoder.Device, 0, len(links))
	for _, l := range links {
		a := l.Attrs()
		devices = append(devices, decoder.Device{
			Netns: ns.Inode, Index: uint32(a.Index), Name: a.Name, Kind: l.Type(),
			MAC: a.HardwareAddr.String(), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0,
			NoCarrier: a.RawFlags&(unix.IFF_UP|unix.IFF_LOWER_UP) == unix.IFF_UP,
			Master:    uint32(a.MasterIndex), Addrs: byIndex[a.Index], Port: ports[a.Index],
		})
	}
	return devices, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	addr = addr.Unmap()
	ones, bits := n.Mask.Size()
	if bits != addr.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr, ones), true
}

// families in the numbers that contexts use.
var families = []struct{ nl, ctx int }{{netlink.FAMILY_V4, 4}, {netlink.FAMILY_V6, 6}}

func readRouting(h *netlink.Handle, ns Namespace, devices []decoder.Device) (decoder.Routing, error) {
	r := decoder.Routing{Netns: ns.Inode, Sysctl: readSysctls(devices)}
	names := map[int]string{}
	for _, d := range devices {
		names[int(d.Index)] = d.Name
	}
	for _, f := range families {
		rules, err := readRules(f.nl, f.ctx)
		if err != nil {
			return r, fmt.Errorf("list rules of %s: %w", ns.Name, err)
		}
		r.Rules = append(r.Rules, rules...)
		// Table 0 asks for all tables; cached clones are no routes.
		routes, err := h.RouteListFiltered(f.nl, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return r, fmt.Errorf("list routes of %s: %w", ns.Name, err)
		}
		for _, route := range routes {
			r.Routes = append(r.Routes, routeOf(route, f.ctx, names))
		}
	}
	slices.SortStableFunc(r.Rules, func(a, b decoder.Rule) int {
		if a.Family != b.Family {
			return a.Family - b.Family
		}
		return a.Priority - b.Priority
	})
	return r, nil
}

// routeTypes are RTN_* of include/uapi/linux/rtnetlink.h.
var routeTypes = map[int]string{
	unix.RTN_UNICAST: "unicast", unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast",
	unix.RTN_ANYCAST: "anycast", unix.RTN_MULTICAST: "multicast", unix.RTN_BLACKHOLE: "blackhole",
	unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}

func routeOf(r netlink.Route, family int, names map[int]string) decoder.Route {
	out := decoder.Route{
		Family: family, Table: r.Table, Type: routeTypes[r.Type],
		Metric: uint32(r.Priority), Protocol: int(r.Protocol),
	}
	if out.Type == "" {
		out.Type = "type " + strconv.Itoa(r.Type)
	}
	if p, ok := prefixOf(r.Dst); ok {
		out.Dst = p
	} else if family == 4 {
		out.Dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	} else {
		out.Dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	hop := func(gw net.IP, via netlink.Destination, index int) {
		n := decoder.Nexthop{Index: uint32(index), Dev: names[index]}
		if a, ok := netip.AddrFromSlice(gw); ok {
			n.Via = a.Unmap()
		} else if v, ok := via.(*netlink.Via); ok {
			if a, ok := netip.AddrFromSlice(v.Addr); ok {
				n.Via = a.Unmap()
			}
		}
		out.Nexthops = append(out.Nexthops, n)
	}
	for _, n := range r.MultiPath {
		hop(n.Gw, n.Via, n.LinkIndex)
	}
	if len(r.MultiPath) == 0 && (r.LinkIndex != 0 || r.Gw != nil) {
		hop(r.Gw, r.Via, r.LinkIndex)
	}
	return out
}

// readSysctls reads what decides about forwarding, under the names sysctl(8)
// uses. It must run inside the namespace.
func readSysctls(devices []decoder.Device) map[string]string {
	keys := []string{
		"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding",
		"net.ipv4.conf.all.rp_filter", "net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect", "net.ipv4.fib_multipath_hash_policy",
	}
	for _, d := range devices {
		if !strings.ContainsAny(d.Name, "./") {
			keys = append(keys, "net.ipv4.conf."+d.Name+".rp_filter")
		}
	}
	return readValues(keys)
}

// ReadQueues reads which NFQUEUE numbers have a listener in a namespace.
func ReadQueues(ns Namespace) (q decoder.Queues, err error) {
	err = ns.Do(func() error {
		q = readQueues(ns)
		return nil
	})
	return q, err
}

// readQueues reads the bound NFQUEUEs: net/netfilter/nfnetlink_queue.c,
// seq_show. No file means the module is not there, so no queue either.
func readQueues(ns Namespace) decoder.Queues {
	q := decoder.Queues{Netns: ns.Inode}
	f, err := os.Open("/proc/thread-self/net/netfilter/nfnetlink_queue")
	if err != nil {
		return q
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if one, ok := parseQueue(sc.Text()); ok {
			q.Queues = append(q.Queues, one)
		}
	}
	return q
}

// parseQueue parses a line: queue, portid, waiting, copy mode, copy range,
// queue dropped, user dropped, id sequence, 1.
func parseQueue(line string) (decoder.Queue, bool) {
	f := strings.Fields(line)
	if len(f) < 8 {
		return decoder.Queue{}, false
	}
	n := make([]uint32, 8)
	for i := range n {
		v, err := strconv.ParseUint(f[i], 10, 32)
		if err != nil {
			return decoder.Queue{}, false
		}
		n[i] = uint32(v)
	}
	return decoder.Queue{
		Number: int(n[0]), PortID: n[1], Waiting: n[2], Dropped: n[5], UserDropped: n[6],
	}, true
}
