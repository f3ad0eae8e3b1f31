// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// The directors' IPVS tables, written over generic netlink as ipvsadm does
// (include/uapi/linux/ip_vs.h, net/netfilter/ipvs/ip_vs_ctl.c). The kernel loads
// IPVS when its family is asked for, and the scheduler when a service names it.

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Commands (enum of IPVS_CMD_*).
const (
	ipvsNewService = 1
	ipvsDelService = 3
	ipvsNewDest    = 5
	ipvsSetDest    = 6
	ipvsDelDest    = 7
	ipvsSetConfig  = 12
)

// Attributes of a command, of a service and of a destination.
const (
	ipvsAttrService = 1
	ipvsAttrDest    = 2
	ipvsAttrTCP     = 4 // u32, seconds that a connection may be idle; 0: as it is

	ipvsServiceFamily    = 1 // u16
	ipvsServiceProtocol  = 2 // u16
	ipvsServiceAddr      = 3 // 16 bytes
	ipvsServicePort      = 4 // big endian
	ipvsServiceScheduler = 6
	ipvsServiceFlags     = 7 // u32 flags, u32 mask
	ipvsServiceTimeout   = 8 // of persistence, seconds
	ipvsServiceNetmask   = 9 // of persistence: big-endian mask, or length for IPv6

	ipvsDestAddr    = 1
	ipvsDestPort    = 2 // big endian
	ipvsDestMethod  = 3
	ipvsDestWeight  = 4
	ipvsDestUpper   = 5 // thresholds; 0: none
	ipvsDestLower   = 6
	ipvsDestFamily  = 11
	ipvsGenlVersion = 1
)

// Forwarding methods (IP_VS_CONN_F_*).
const (
	ipvsMasq        = 0
	ipvsTunnelled   = 2
	ipvsDirectRoute = 3
)

// ipvsScheduler is Ravel's default: weighted round robin.
const ipvsScheduler = "wrr"

// virtualService is one service of a director and where it sends packets.
type virtualService struct {
	proto  uint16 // IPPROTO_*
	at     netip.AddrPort
	method uint32
	dests  []netip.AddrPort
}

func (s virtualService) String() string {
	proto := "tcp"
	if s.proto == unix.IPPROTO_UDP {
		proto = "udp"
	}
	return fmt.Sprintf("IPVS service %s %s", proto, s.at)
}

// ipvsTable is what every director is configured with.
func ipvsTable() []virtualService {
	var dests4, dests6 []netip.Addr
	for _, r := range ipvsRealservers {
		dests4, dests6 = append(dests4, r.addr4), append(dests6, r.addr6)
	}
	var table []virtualService
	add := func(vip netip.Addr, port uint16, method uint32, dests []netip.Addr, destPort uint16) {
		for _, proto := range []uint16{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			s := virtualService{proto: proto, at: netip.AddrPortFrom(vip, port), method: method}
			for _, d := range dests {
				s.dests = append(s.dests, netip.AddrPortFrom(d, destPort))
			}
			table = append(table, s)
		}
	}
	add(ipvsVIP4, ipvsDirectPort, ipvsDirectRoute, dests4, ipvsDirectPort)
	add(ipvsVIP6, ipvsDirectPort, ipvsDirectRoute, dests6, ipvsDirectPort)
	add(ipvsVIP4, ipvsTunnelPort, ipvsTunnelled, dests4, ipvsTunnelPort)
	add(ipvsARPVIP4, ipvsARPPort, ipvsDirectRoute, dests4[1:], ipvsARPPort)
	add(ipvsMasqVIP4, ipvsMasqPort, ipvsMasq, dests4, ipvsServerPort)
	add(ipvsMasqVIP6, ipvsMasqPort, ipvsMasq, dests6, ipvsServerPort)
	return table
}

// ipvsFamily is the number of the generic netlink family of IPVS.
func ipvsFamily() (int, error) {
	f, err := netlink.GenlFamilyGet("IPVS")
	if errors.Is(err, unix.ENOENT) {
		return 0, fmt.Errorf("%w: it has no IPVS (module ip_vs, CONFIG_IP_VS)", ErrUnsupported)
	}
	if err != nil {
		return 0, fmt.Errorf("ask for IPVS: %w", err)
	}
	return int(f.ID), nil
}

// setIPVSSysctls sets what Ravel sets on a director (cmd/ravel/config.go).
// sloppy_tcp takes up a connection in the middle, when the router moves it from
// the other director.
func (w *World) setIPVSSysctls(node string) error {
	for _, s := range []sysctl{
		{node, "ipv4/vs/conntrack", "0"},
		{node, "ipv4/vs/sloppy_tcp", "1"},
		{node, "ipv4/vs/conn_reuse_mode", "1"},
		{node, "ipv4/vs/expire_nodest_conn", "0"},
	} {
		if err := w.setSysctl(s.node, s.key, s.value); err != nil {
			return err
		}
	}
	return nil
}

// addIPVSService gives a director a service and its destinations, each of weight
// 1, the number of its pods; they may be there already.
func (w *World) addIPVSService(node string, s virtualService) error {
	a := s.attr()
	a.AddRtAttr(ipvsServiceScheduler, nl.ZeroTerminated(ipvsScheduler))
	a.AddRtAttr(ipvsServiceFlags, make([]byte, 8))
	a.AddRtAttr(ipvsServiceTimeout, nl.Uint32Attr(0))
	if s.at.Addr().Is6() {
		a.AddRtAttr(ipvsServiceNetmask, nl.Uint32Attr(128))
	} else {
		a.AddRtAttr(ipvsServiceNetmask, nl.BEUint32Attr(0xffffffff))
	}
	err := w.ipvsCommand(node, ipvsNewService, a)
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%w: it has no IPVS scheduler %s: %w", ErrUnsupported, ipvsScheduler, err)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add %s in %s: %w", s, node, err)
	}
	return w.setIPVSWeights(node, s, 1)
}

// removeIPVSService removes a service with its destinations; it may be gone
// already.
func (w *World) removeIPVSService(node string, s virtualService) error {
	err := w.ipvsCommand(node, ipvsDelService, s.attr())
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove %s in %s: %w", s, node, err)
	}
	return nil
}

// setIPVSWeights gives all destinations of a service the same weight, and makes
// those that are not there.
func (w *World) setIPVSWeights(node string, s virtualService, weight uint32) error {
	for _, d := range s.dests {
		a := s.destAttr(d, weight)
		err := w.ipvsCommand(node, ipvsNewDest, s.attr(), a)
		if errors.Is(err, unix.EEXIST) {
			err = w.ipvsCommand(node, ipvsSetDest, s.attr(), a)
		}
		if err != nil {
			return fmt.Errorf("set destination %s of %s in %s: %w", d, s, node, err)
		}
	}
	return nil
}

// setIPVSWeight is setIPVSWeights for one destination.
func (w *World) setIPVSWeight(node string, s virtualService, dest netip.Addr, weight uint32) error {
	s.dests = slices.DeleteFunc(slices.Clone(s.dests), func(d netip.AddrPort) bool { return d.Addr() != dest })
	return w.setIPVSWeights(node, s, weight)
}

// removeIPVSDestination removes one from a service; it may be gone already.
func (w *World) removeIPVSDestination(node string, s virtualService, dest netip.Addr) error {
	for _, d := range s.dests {
		if d.Addr() != dest {
			continue
		}
		err := w.ipvsCommand(node, ipvsDelDest, s.attr(), s.destAttr(d, 0))
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove destination %s of %s in %s: %w", d, s, node, err)
		}
	}
	return nil
}

// setIPVSTimeout sets how long a director keeps an established TCP connection that
// nothing is heard of.
func (w *World) setIPVSTimeout(node string, seconds uint32) error {
	return wrap("set the timeout of IPVS in "+node, w.ipvsCommand(node, ipvsSetConfig, nl.NewRtAttr(ipvsAttrTCP, nl.Uint32Attr(seconds))))
}

// attr names the service in a command.
func (s virtualService) attr() *nl.RtAttr {
	a := nl.NewRtAttr(ipvsAttrService, nil)
	a.AddRtAttr(ipvsServiceFamily, nl.Uint16Attr(ipvsAF(s.at.Addr())))
	a.AddRtAttr(ipvsServiceProtocol, nl.Uint16Attr(s.proto))
	a.AddRtAttr(ipvsServiceAddr, ipvsAddr(s.at.Addr()))
	a.AddRtAttr(ipvsServicePort, nl.BEUint16Attr(s.at.Port()))
	return a
}

func (s virtualService) destAttr(dest netip.AddrPort, weight uint32) *nl.RtAttr {
	a := nl.NewRtAttr(ipvsAttrDest, nil)
	a.AddRtAttr(ipvsDestFamily, nl.Uint16Attr(ipvsAF(dest.Addr())))
	a.AddRtAttr(ipvsDestAddr, ipvsAddr(dest.Addr()))
	a.AddRtAttr(ipvsDestPort, nl.BEUint16Attr(dest.Port()))
	a.AddRtAttr(ipvsDestMethod, nl.Uint32Attr(s.method))
	a.AddRtAttr(ipvsDestWeight, nl.Uint32Attr(weight))
	a.AddRtAttr(ipvsDestUpper, nl.Uint32Attr(0))
	a.AddRtAttr(ipvsDestLower, nl.Uint32Attr(0))
	return a
}

func ipvsAF(a netip.Addr) uint16 {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// ipvsAddr is union nf_inet_addr: 16 bytes, of which IPv4 uses the first four.
func ipvsAddr(a netip.Addr) []byte {
	b := make([]byte, 16)
	copy(b, a.AsSlice())
	return b
}

// ipvsCommand sends one command to the IPVS of a node.
func (w *World) ipvsCommand(node string, command uint8, attrs ...*nl.RtAttr) error {
	return w.Inside(node, func() error {
		family, err := ipvsFamily()
		if err != nil {
			return err
		}
		req := nl.NewNetlinkRequest(family, unix.NLM_F_ACK)
		req.AddData(&nl.Genlmsg{Command: command, Version: ipvsGenlVersion})
		for _, a := range attrs {
			req.AddData(a)
		}
		_, err = req.Execute(unix.NETLINK_GENERIC, 0)
		return err
	})
}
