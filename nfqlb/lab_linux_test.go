// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A small world for the engine's tests: a client's device, the balancer's
// namespace behind it, packets to the VIPs queued there, and counters for each
// mark behind the queue.

type world struct {
	t        testing.TB
	ns       netns.NsHandle
	clientNS netns.NsHandle
	client   int // AF_PACKET socket on the client's device
	ifidx    int
	mac      net.HardwareAddr // of the balancer's device
}

// unavailable skips the test loudly, or fails it in CI.
func unavailable(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("WAYMARK_CI") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// newWorld builds the world; queues packets go to queue 0 to queues-1.
func newWorld(t testing.TB, queues uint16) *world {
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

	w := &world{t: t}
	w.clientNS = w.namespace("c")
	client, err := netlink.NewHandleAt(w.clientNS)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	w.ns = w.namespace("lb")
	lb, err := netlink.NewHandleAt(w.ns)
	if err != nil {
		t.Fatal(err)
	}
	defer lb.Close()

	attrs := netlink.NewLinkAttrs()
	attrs.Name = "ext0"
	w.must(client.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "nsm-1", PeerNamespace: netlink.NsFd(w.ns)}))
	up := func(h *netlink.Handle, name string) netlink.Link {
		l, err := h.LinkByName(name)
		w.must(err)
		w.must(h.LinkSetUp(l))
		return l
	}
	up(lb, "lo")
	w.mac = up(lb, "nsm-1").Attrs().HardwareAddr
	w.ifidx = up(client, "ext0").Attrs().Index

	w.must(netns.Set(w.clientNS))
	w.client, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	w.must(err)
	t.Cleanup(func() { unix.Close(w.client) })
	w.must(netns.Set(w.ns))
	w.must(os.WriteFile("/proc/sys/net/ipv6/conf/nsm-1/accept_dad", []byte("0"), 0))
	w.rules(queues, 0)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// namespace makes one and leaves the thread in it.
func (w *world) namespace(name string) netns.NsHandle {
	full := fmt.Sprintf("wm-nfqlb-test-%d-%s", os.Getpid(), name)
	netns.DeleteNamed(full) // of a test before that died
	ns, err := netns.NewNamed(full)
	if err != nil {
		unavailable(w.t, "network namespace: %v", err)
	}
	w.t.Cleanup(func() {
		ns.Close()
		netns.DeleteNamed(full)
	})
	return ns
}

func (w *world) nft() *nftables.Conn {
	c, err := nftables.New(nftables.WithNetNSFd(int(w.ns)))
	w.must(err)
	return c
}

// markCounters is where the packets are seen again, by mark.
var markCounters = []uint32{0, 5048, 5058, 5067, 5090, 77}

// bypass lets packets pass that nobody would serve (struct xt_NFQ_info_v3).
const bypass = 1

// families is what the rules of each family know of its packets.
var families = []struct {
	family nftables.TableFamily
	vip    netip.Addr
	offset uint32 // of the destination address in the header
}{{nftables.TableFamilyIPv4, vip4, 16}, {nftables.TableFamilyIPv6, vip6, 24}}

func (w *world) rules(queues uint16, flags byte) {
	c := w.nft()
	accept := nftables.ChainPolicyAccept
	for _, f := range families {
		table := c.AddTable(&nftables.Table{Name: "nfqlb", Family: f.family})
		after := c.AddChain(&nftables.Chain{
			Name: "after", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(10), Policy: &accept,
		})
		for _, mark := range markCounters {
			c.AddRule(&nftables.Rule{
				Table: table, Chain: after, UserData: []byte{byte(mark), byte(mark >> 8)},
				Exprs: append(toAddress(f.vip, f.offset),
					&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
					&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(mark), byte(mark >> 8), 0, 0}},
					&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}),
			})
		}
	}
	w.queueRules(c, queues, flags)
	if err := c.Flush(); err != nil {
		unavailable(w.t, "nftables with the NFQUEUE target: %v", err)
	}
}

func toAddress(a netip.Addr, offset uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(a.BitLen() / 8)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: a.AsSlice()},
	}
}

// queueRules adds what sends packets to the queues, instead of what did.
func (w *world) queueRules(c *nftables.Conn, queues uint16, flags byte) {
	accept := nftables.ChainPolicyAccept
	for _, f := range families {
		table := &nftables.Table{Name: "nfqlb", Family: f.family}
		queue := c.AddChain(&nftables.Chain{
			Name: "queue", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter, Policy: &accept,
		})
		c.FlushChain(queue)
		// This kernel has no nft queue expression; iptables' target works.
		// struct xt_NFQ_info_v3: queue, number of queues, flags.
		info := xt.Unknown{0, 0, byte(queues), byte(queues >> 8), flags, 0, 0, 0}
		c.AddRule(&nftables.Rule{Table: table, Chain: queue, Exprs: append(toAddress(f.vip, f.offset), &expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info})})
	}
}

// removeQueueChains lets packets pass by the queues.
func (w *world) removeQueueChains(c *nftables.Conn) {
	for _, f := range families {
		c.DelChain(&nftables.Chain{Name: "queue", Table: &nftables.Table{Name: "nfqlb", Family: f.family}})
	}
}

// removeRules takes the tables away, counters and all.
func (w *world) removeRules() {
	c := w.nft()
	for _, f := range families {
		c.DelTable(&nftables.Table{Name: "nfqlb", Family: f.family})
	}
	w.must(c.Flush())
}

// counted is how many packets came out of the queue, by mark.
func (w *world) counted() map[int]int {
	w.t.Helper()
	got := w.countedOf(nftables.TableFamilyIPv4)
	for mark, n := range w.countedOf(nftables.TableFamilyIPv6) {
		got[mark] += n
	}
	return got
}

// countedOf is how many of one family did.
func (w *world) countedOf(family nftables.TableFamily) map[int]int {
	w.t.Helper()
	return w.countedIn(family, "after")
}

// countedIn is how many met the rules of a chain, by the mark in their data.
func (w *world) countedIn(family nftables.TableFamily, chain string) map[int]int {
	w.t.Helper()
	got := make(map[int]int)
	table := &nftables.Table{Name: "nfqlb", Family: family}
	rules, err := w.nft().GetRules(table, &nftables.Chain{Name: chain, Table: table})
	w.must(err)
	for _, r := range rules {
		for _, e := range r.Exprs {
			if n, ok := e.(*expr.Counter); ok && n.Packets > 0 {
				got[int(r.UserData[0])|int(r.UserData[1])<<8] += int(n.Packets)
			}
		}
	}
	return got
}

// send puts packets, from the IP header on, on the client's wire.
func (w *world) send(packets ...[]byte) {
	w.t.Helper()
	to := &unix.SockaddrLinklayer{Ifindex: w.ifidx, Halen: 6}
	for _, p := range packets {
		w.must(unix.Sendto(w.client, w.frameOf(p), 0, to))
	}
}

// frameOf is the packet as it goes over the client's wire.
func (w *world) frameOf(p []byte) []byte {
	etherType := []byte{0x08, 0x00}
	if p[0]>>4 == 6 {
		etherType = []byte{0x86, 0xdd}
	}
	return join(w.mac, []byte{2, 0, 0, 0, 0, 1}, etherType, p)
}

// await polls for a condition that the kernel signals to nobody.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10 s for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
