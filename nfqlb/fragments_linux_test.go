// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inNS runs f on a thread in w's balancer namespace.
func (w *world) inNS(f func()) {
	w.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	w.must(err)
	defer home.Close()
	defer netns.Set(home)
	w.must(netns.Set(w.ns))
	f()
}

// receivers makes the VIPs addresses of the balancer's namespace, whose kernel
// so puts fragments together behind the queue, and listens on them.
func (w *world) receivers(port int) (out [2]*net.UDPConn) {
	w.t.Helper()
	w.inNS(func() {
		for _, dev := range []string{"all", "default", "nsm-1"} {
			w.must(os.WriteFile("/proc/sys/net/ipv4/conf/"+dev+"/rp_filter", []byte("0"), 0))
		}
		h, err := netlink.NewHandleAt(w.ns)
		w.must(err)
		defer h.Close()
		lo, err := h.LinkByName("lo")
		w.must(err)
		for i, vip := range []netip.Addr{vip4, vip6} {
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(vip.BitLen(), vip.BitLen())}, Flags: unix.IFA_F_NODAD}
			w.must(h.AddrAdd(lo, addr))
			// An IPv6 address can be bound before there is a route to it.
			await(w.t, "the route to "+vip.String(), func() bool {
				filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Dst: addr.IPNet}
				routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
				w.must(err)
				return len(routes) > 0
			})
			out[i], err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(vip, uint16(port))))
			w.must(err)
			w.t.Cleanup(func() { out[i].Close() })
		}
	})
	return out
}

// withUDPChecksum fills it in (RFC 768, RFC 8200).
func withUDPChecksum(src, dst netip.Addr, udp []byte) []byte {
	pseudo := join(src.AsSlice(), dst.AsSlice(), []byte{0, protoUDP}, binary.BigEndian.AppendUint16(nil, uint16(len(udp))), udp)
	if len(pseudo)%2 != 0 {
		pseudo = append(pseudo, 0)
	}
	sum := uint32(0)
	for i := 0; i < len(pseudo); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(pseudo[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], ^uint16(sum))
	return udp
}

// Datagrams of 4000 bytes arrive whole through the queue although nothing puts
// them together before it.
func TestEngineFragments(t *testing.T) {
	for _, c := range []struct {
		name    string
		tun     bool
		order   []int // of the fragments
		packets int   // that come to the queue for each datagram
	}{
		{"in order", false, []int{0, 1, 2}, 3},
		{"reversed through tun", true, []int{2, 1, 0}, 5},
		{"first one in the middle, through tun", true, []int{1, 0, 2}, 4},
		{"first one twice", false, []int{0, 0, 1, 2}, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			conns := w.receivers(5001)
			b := meridio(t, Config{}, 30) // a mark that the world does not take out
			config := DefaultFragments()
			config.Reassembler = 10
			queue := QueueConfig{}
			if c.tun {
				w.inNS(func() {
					tun, err := OpenTun("nfqlb0")
					if err != nil {
						unavailable(t, "%v", err)
					}
					t.Cleanup(func() { tun.Close() })
					config.Inject = tun.Inject
				})
				queue.CopyRange = config.MTU
			}
			w.must(b.TrackFragments(config))
			e := serve(t, w, b, queue)

			const datagrams = 20
			clients := []netip.Addr{netip.MustParseAddr("200.100.0.1"), netip.MustParseAddr("200:100::1")}
			vips := []netip.Addr{vip4, vip6}
			for i := range datagrams {
				for v, conn := range conns {
					udp := withUDPChecksum(clients[v], vips[v], udpPayload(uint16(2000+i), 5001, 4000))
					parts := fragmented(clients[v], vips[v], protoUDP, uint32(100+i), 1440, udp)
					for _, n := range c.order {
						w.send(parts[n])
					}
					w.must(conn.SetReadDeadline(time.Now().Add(10 * time.Second)))
					got := make([]byte, 5000)
					n, from, err := conn.ReadFromUDPAddrPort(got)
					if err != nil {
						t.Fatalf("datagram %d to %v: %v; engine %+v, balancer %+v, fragments %+v", i, vips[v], err, e.Stats(), b.Stats(), b.FragStats())
					}
					if !bytes.Equal(got[:n], udp[8:]) || from.Port() != uint16(2000+i) {
						t.Fatalf("datagram %d to %v differs: %d bytes from %v", i, vips[v], n, from)
					}
				}
			}
			s, all := b.FragStats(), uint64(2*datagrams)
			t.Logf("engine %+v, fragments %+v", e.Stats(), s)
			if got := e.Stats(); got.Packets != all*uint64(c.packets) || got.Malformed+got.VerdictErrors != 0 {
				t.Errorf("engine %+v, want %d packets", got, all*uint64(c.packets))
			}
			early := uint32(slices.Index(c.order, 0)) * uint32(all)
			if s.FragsAllocated != early || s.FragsDiscarded != 0 || s.ReAssembled != uint32(all) || s.Active != 0 {
				t.Errorf("fragments %+v", s)
			}
		})
	}
}

// Without a tun device a fragment that comes too early is lost, and counted.
func TestEngineFragmentsTooEarly(t *testing.T) {
	w := newWorld(t, 1)
	b := meridio(t, Config{}, 47)
	w.must(b.TrackFragments(DefaultFragments()))
	e := serve(t, w, b, QueueConfig{})
	parts := fragmented(netip.MustParseAddr("200.100.0.1"), vip4, protoUDP, 1, 1440, udpPayload(1, 5001, 4000))
	w.send(parts[2], parts[0], parts[1])
	await(t, "the packets", func() bool { return w.counted()[5048] == 2 })
	if got := b.Stats().Reasons[LaterOfFirst.String()]; got != 1 || e.Stats().Packets != 3 {
		t.Fatalf("%d dropped, engine %+v", got, e.Stats())
	}
}

func TestOpenTunRefuses(t *testing.T) {
	for _, name := range []string{"", "a-name-of-20-letters"} {
		if _, err := OpenTun(name); err == nil {
			t.Errorf("%q was opened", name)
		}
	}
}

func TestShareFragStats(t *testing.T) {
	dir := t.TempDir()
	b := meridio(t, Config{}, 47)
	c := DefaultFragments()
	shared, unmap, err := ShareFragStats(dir, FragStatsName)
	if err != nil {
		t.Fatal(err)
	}
	defer unmap()
	c.Stats = shared
	if err := b.TrackFragments(c); err != nil {
		t.Fatal(err)
	}
	var p Packet
	for _, raw := range fragmented(src4, dst4, protoUDP, 1, 1440, udpPayload(1, 5001, 4000)) {
		b.Decide(raw, &p)
	}
	raw, err := os.ReadFile(dir + "/" + FragStatsName)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseFragStats(raw)
	if err != nil || got.Inserts != 1 || got.Lookups != 3 || got.TTLMillis != 200 || got.Size != 500 {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, _, err := ShareFragStats(dir, "a/b"); err == nil {
		t.Error("a bad name was taken")
	}
}
