// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A world with all of the way: a client's device, the balancer's namespace with
// the rule that queues and routing by mark, and targets that have the VIPs.

type pathWorld struct {
	*world
	number  int32 // there may be several
	lb      *netlink.Handle
	targets []*pathTarget
}

type pathTarget struct {
	ns       netns.NsHandle
	dev      int // the balancer's device to it
	received atomic.Uint64
}

var pathWorlds atomic.Int32

// Target i has mark 5001+i, and the addresses 172.16.i.2 and fd00:i::2.
func (w *pathWorld) mark(i int) int { return 5001 + i }

// newPathWorld builds the world. Without queues nothing is queued.
func newPathWorld(t testing.TB, targets int, queues uint16) *pathWorld {
	t.Helper()
	if os.Geteuid() != 0 {
		unavailable(t, "needs root for network namespaces and NFQUEUE")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	defer netns.Set(home)

	w := &pathWorld{world: &world{t: t}, number: pathWorlds.Add(1)}
	clientNS := w.namespace(fmt.Sprintf("%d-c", w.number))
	client := w.handleAt(clientNS)
	w.client, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	w.must(err)
	t.Cleanup(func() { unix.Close(w.client) })
	w.ns = w.namespace(fmt.Sprintf("%d-lb", w.number))
	w.sysctl("net/ipv4/ip_forward", "1")
	w.sysctl("net/ipv6/conf/all/forwarding", "1")
	w.sysctl("net/ipv6/conf/default/accept_dad", "0")
	w.sysctl("net/ipv4/conf/all/rp_filter", "0")
	w.sysctl("net/ipv4/conf/default/rp_filter", "0")
	w.lb = w.handleAt(w.ns)
	w.up(w.lb, "lo")
	w.veth(client, "ext0", w.ns, "nsm-1")
	in := w.up(w.lb, "nsm-1")
	w.mac = in.HardwareAddr
	w.ifidx = w.up(client, "ext0").Index
	w.address(w.lb, in.Index, "169.254.100.1/24", "100:100::1/64")
	for i := range targets {
		w.target(i)
	}
	if queues > 0 {
		w.queueRule(queues)
	}
	// A device sends nothing before the kernel has seen its peer come up.
	await(t, "the devices to be up", func() bool {
		links, err := w.lb.LinkList()
		w.must(err)
		return !slices.ContainsFunc(links, func(l netlink.Link) bool {
			return l.Type() == "veth" && l.Attrs().OperState != netlink.OperUp
		})
	})
	return w
}

func (w *world) handleAt(ns netns.NsHandle) *netlink.Handle {
	h, err := netlink.NewHandleAt(ns)
	w.must(err)
	w.t.Cleanup(h.Close)
	return h
}

// sysctl sets what is the calling thread's namespace's.
func (w *world) sysctl(name, value string) {
	w.t.Helper()
	w.must(os.WriteFile("/proc/sys/"+name, []byte(value), 0))
}

func (w *world) up(h *netlink.Handle, name string) *netlink.LinkAttrs {
	w.t.Helper()
	l, err := h.LinkByName(name)
	w.must(err)
	w.must(h.LinkSetUp(l))
	return l.Attrs()
}

func (w *world) veth(h *netlink.Handle, name string, peerNS netns.NsHandle, peer string) {
	w.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	w.must(h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsFd(peerNS)}))
}

func (w *world) address(h *netlink.Handle, index int, addrs ...string) {
	w.t.Helper()
	l := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		w.must(err)
		addr.Flags = unix.IFA_F_NODAD
		w.must(h.AddrAdd(l, addr))
	}
}

// target adds target i and the way to it, and leaves the thread in its
// namespace.
func (w *pathWorld) target(i int) {
	t := &pathTarget{ns: w.namespace(fmt.Sprintf("%d-t%d", w.number, i))}
	w.targets = append(w.targets, t)
	w.sysctl("net/ipv4/conf/all/rp_filter", "0")
	w.sysctl("net/ipv4/conf/default/rp_filter", "0")
	h := w.handleAt(t.ns)
	out := fmt.Sprintf("load-balan-%d", i)
	w.veth(w.lb, out, t.ns, "nsc")
	dev, nsc := w.up(w.lb, out), w.up(h, "nsc")
	lo := w.up(h, "lo")
	t.dev = dev.Index
	w.address(w.lb, dev.Index, fmt.Sprintf("172.16.%d.1/24", i), fmt.Sprintf("fd00:%x::1/64", i))
	w.address(h, nsc.Index, fmt.Sprintf("172.16.%d.2/24", i), fmt.Sprintf("fd00:%x::2/64", i))
	w.address(h, lo.Index, vip4.String()+"/32", vip6.String()+"/128")
	for _, ip := range []net.IP{net.IPv4(172, 16, byte(i), 2).To4(), net.ParseIP(fmt.Sprintf("fd00:%x::2", i))} {
		family := netlink.FAMILY_V4
		if len(ip) == net.IPv6len {
			family = netlink.FAMILY_V6
		}
		w.must(w.lb.NeighSet(&netlink.Neigh{
			LinkIndex: dev.Index, Family: family, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: nsc.HardwareAddr,
		}))
		rule := netlink.NewRule()
		rule.Family, rule.Mark, rule.Table, rule.Priority = family, uint32(w.mark(i)), w.mark(i), 99
		w.must(w.lb.RuleAdd(rule))
		w.must(w.lb.RouteAdd(&netlink.Route{Family: family, LinkIndex: dev.Index, Gw: ip, Table: w.mark(i)}))
	}
}

// queueRule queues what goes to the VIPs, as Meridio's rules do: with nftables'
// own expression, or where the kernel has none, with iptables' target.
func (w *pathWorld) queueRule(queues uint16) {
	info := xt.Unknown{0, 0, byte(queues), byte(queues >> 8), 0, 0, 0, 0}
	err := w.queueRuleBy(&expr.Queue{Total: queues})
	if err != nil {
		err = w.queueRuleBy(&expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info})
	}
	if err != nil {
		unavailable(w.t, "nftables with the NFQUEUE target: %v", err)
	}
}

func (w *pathWorld) queueRuleBy(queue expr.Any) error {
	accept := nftables.ChainPolicyAccept
	c := w.nft()
	for _, f := range []struct {
		family nftables.TableFamily
		vip    netip.Addr
		offset uint32
	}{{nftables.TableFamilyIPv4, vip4, 16}, {nftables.TableFamilyIPv6, vip6, 24}} {
		table := c.AddTable(&nftables.Table{Name: "nfqlb", Family: f.family})
		chain := c.AddChain(&nftables.Chain{
			Name: "queue", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter, Policy: &accept,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: uint32(f.vip.BitLen() / 8)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: f.vip.AsSlice()},
			queue,
		}})
	}
	return c.Flush()
}

// listen has a server at port 5000 of each target's VIPs, which counts.
func (w *pathWorld) listen() {
	w.t.Helper()
	for _, target := range w.targets {
		for _, vip := range []netip.Addr{vip4, vip6} {
			conn := w.listenAt(target.ns, netip.AddrPortFrom(vip, 5000))
			go func() {
				buf := make([]byte, 2048)
				for {
					if _, _, err := conn.ReadFromUDPAddrPort(buf); errors.Is(err, net.ErrClosed) {
						return
					} else if err == nil {
						target.received.Add(1)
					}
				}
			}()
		}
	}
}

func (w *world) listenAt(ns netns.NsHandle, at netip.AddrPort) *net.UDPConn {
	w.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	w.must(err)
	defer home.Close()
	defer netns.Set(home)
	w.must(netns.Set(ns))
	config := net.ListenConfig{}
	conn, err := config.ListenPacket(context.Background(), "udp", at.String())
	w.must(err)
	w.t.Cleanup(func() { conn.Close() })
	raw, err := conn.(*net.UDPConn).SyscallConn()
	w.must(err)
	w.must(raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) }))
	return conn.(*net.UDPConn)
}

func (w *pathWorld) received() (n uint64) {
	for _, t := range w.targets {
		n += t.received.Load()
	}
	return n
}

// udp is a packet of the kth flow to a VIP's port 5000.
func udp(k int, v6 bool) []byte {
	p := ports(uint16(1024+k%50000), 5000)[:8]
	body := []byte{byte(k >> 24), byte(k >> 16), byte(k >> 8), byte(k)}
	p[5] = byte(len(p) + len(body))
	if v6 {
		src := netip.AddrFrom16([16]byte{0x20, 1, 15: byte(k)})
		packet := lengths(ipv6(src, vip6, protoUDP, p, body))
		sum := sum16(join(packet[8:40], []byte{0, 0, 0, p[5]}, []byte{0, 0, 0, protoUDP}, packet[40:]))
		packet[46], packet[47] = byte(^sum>>8), byte(^sum)
		return packet
	}
	return lengths(ipv4(netip.AddrFrom4([4]byte{200, 100, 0, byte(k)}), vip4, protoUDP, 1, 0, p, body))
}
