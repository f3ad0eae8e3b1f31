// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// capture receives what the first target's device gets, from the Ethernet header
// on.
func (w *pathWorld) capture() (next func() []byte) {
	w.t.Helper()
	var fd int
	f := &FastPath{config: FastPathConfig{NetNS: int(w.targets[0].ns)}}
	w.must(f.inNetNS(func() error {
		dev, err := net.InterfaceByName("nsc")
		if err != nil {
			return err
		}
		proto := int(uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(proto), Ifindex: dev.Index})
	}))
	w.t.Cleanup(func() { unix.Close(fd) })
	return func() []byte {
		buf := make([]byte, 65536)
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			if n, err := unix.Poll(polled, 10000); n == 0 && err == nil {
				return nil
			}
			n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
			if err != nil {
				continue
			}
			p := buf[14:n]
			if len(p) >= 20 && p[0]>>4 == 4 && netip.AddrFrom4([4]byte(p[16:20])) == vip4 ||
				len(p) >= 40 && p[0]>>4 == 6 && netip.AddrFrom16([16]byte(p[24:40])) == vip6 {
				return bytes.Clone(buf[:n])
			}
		}
	}
}

// A redirected packet is to the bit the one that routing would have sent, and
// what routing treats otherwise than the common packet is not redirected.
func TestFastPathRedirectsAsRouting(t *testing.T) {
	w := newPathWorld(t, 1, 1)
	next := w.capture()
	b, _, _ := w.shared(t)
	serve(t, w.world, b, QueueConfig{})
	alter := func(v6 bool, change func(p []byte)) []byte {
		p := udp(7, v6)
		change(p)
		return checksum(p)
	}
	sized := func(v6 bool, n int) []byte {
		p := udp(7, v6)
		p = lengths(append(p, make([]byte, n-len(p))...))
		return p
	}
	from := func(src string) []byte {
		return alter(false, func(p []byte) { copy(p[12:16], netip.MustParseAddr(src).AsSlice()) })
	}
	from6 := func(src string) []byte {
		return alter(true, func(p []byte) { copy(p[8:24], netip.MustParseAddr(src).AsSlice()) })
	}
	wrong := udp(7, false)
	wrong[10] ^= 1
	cases := []struct {
		name       string
		packet     []byte
		redirected bool
		arrives    bool
	}{
		{"IPv4", udp(7, false), true, true},
		{"IPv6", udp(7, true), true, true},
		{"IPv4 TTL 2", alter(false, func(p []byte) { p[8] = 2 }), true, true},
		{"IPv4 TTL 255", alter(false, func(p []byte) { p[8] = 255 }), true, true},
		{"IPv6 hop limit 2", alter(true, func(p []byte) { p[7] = 2 }), true, true},
		{"IPv4 as long as the MTU", sized(false, 1500), true, true},
		{"IPv6 as long as the MTU", sized(true, 1500), true, true},
		{"IPv4 ECN", alter(false, func(p []byte) { p[1] = 3 }), true, true},
		{"IPv4 with padding", append(udp(7, false), 1, 2, 3), false, true},
		{"IPv6 with padding", append(udp(7, true), 1, 2, 3), false, true},
		{"IPv4 with a priority", alter(false, func(p []byte) { p[1] = 0x10 }), false, true},
		{"IPv4 TTL 1", alter(false, func(p []byte) { p[8] = 1 }), false, false},
		{"IPv4 TTL 0", alter(false, func(p []byte) { p[8] = 0 }), false, false},
		{"IPv6 hop limit 1", alter(true, func(p []byte) { p[7] = 1 }), false, false},
		{"IPv4 with a wrong checksum", wrong, false, false},
		{"from this host", from("172.16.0.1"), false, false},
		{"from loopback", from("127.0.0.1"), false, false},
		{"from a multicast address", from("224.0.0.1"), false, false},
		{"from this network", from("0.0.0.1"), false, true},
		{"from a link local IPv6 address", from6("fe80::1"), false, false},
		{"from a multicast IPv6 address", from6("ff02::1"), false, false},
	}
	// All header checksums there are: each is what RFC 1624 could get wrong.
	for id := range 0x10000 {
		if id%97 == 0 || id > 0xfff0 {
			cases = append(cases, struct {
				name       string
				packet     []byte
				redirected bool
				arrives    bool
			}{fmt.Sprintf("IPv4 id %d", id), alter(false, func(p []byte) { p[4], p[5] = byte(id>>8), byte(id) }), true, true})
		}
	}
	routed := make([][]byte, len(cases))
	end := udp(0, false) // comes through behind each that does not
	for i, c := range cases {
		w.send(c.packet)
		if !c.arrives {
			w.send(end)
		}
		if routed[i] = next(); routed[i] == nil {
			t.Fatalf("%s: nothing came", c.name)
		}
		if c.arrives == bytes.Equal(routed[i][14+12:14+16], end[12:16]) {
			t.Fatalf("%s: routing gave %x", c.name, routed[i])
		}
	}
	f, _ := w.attached(b, FastPathConfig{Redirect: true})
	for i, c := range cases {
		before := f.Stats().Redirected
		w.send(c.packet)
		if got := f.Stats().Redirected - before; (got == 1) != c.redirected {
			t.Errorf("%s: redirected %d times", c.name, got)
		}
		if !c.arrives {
			w.send(end)
		}
		if got := next(); !bytes.Equal(got, routed[i]) {
			t.Errorf("%s:\n redirected %x\n routed     %x", c.name, got, routed[i])
		}
	}
}

// Whatever else than a mark's own route decides about a packet, packets are
// routed.
func TestFastPathRedirectsOnlyWhereRoutingWould(t *testing.T) {
	w := newPathWorld(t, 1, 1)
	b, _, _ := w.shared(t)
	serve(t, w.world, b, QueueConfig{})
	// Why packets are not redirected is told as an error.
	f, _ := w.attached(b, FastPathConfig{Redirect: true, Log: func(string, error) {}})
	redirects := func() bool {
		before := f.Stats()
		w.send(udp(1, false))
		after := f.Stats()
		return after.Placed > before.Placed && after.Redirected > before.Redirected
	}
	await(t, "redirecting", redirects)

	dev := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: w.targets[0].dev}}
	chain := func(hook *nftables.ChainHook) func(add bool) {
		return func(add bool) {
			c := w.nft()
			table := &nftables.Table{Name: "other", Family: nftables.TableFamilyINet}
			if add {
				c.AddTable(table)
				ch := c.AddChain(&nftables.Chain{Name: "c", Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter})
				c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: []expr.Any{&expr.Counter{}}})
			} else {
				c.DelTable(table)
			}
			w.must(c.Flush())
		}
	}
	route := netlink.Route{Table: w.mark(0), LinkIndex: dev.Index, Gw: net.IPv4(172, 16, 0, 2).To4(), Dst: netlink.NewIPNet(net.IPv4(9, 9, 9, 9).To4())}
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.Src = netlink.FAMILY_V4, 50, 4096, netlink.NewIPNet(net.IPv4(9, 9, 9, 9).To4())
	for _, c := range []struct {
		name   string
		change func(add bool)
	}{
		{"a chain in forward", chain(nftables.ChainHookForward)},
		{"a chain in postrouting", chain(nftables.ChainHookPostrouting)},
		{"a chain in prerouting", chain(nftables.ChainHookPrerouting)},
		{"a second route", func(add bool) {
			if add {
				w.must(w.lb.RouteAdd(&route))
			} else {
				w.must(w.lb.RouteDel(&route))
			}
		}},
		{"a rule before the mark's", func(add bool) {
			if add {
				w.must(w.lb.RuleAdd(rule))
			} else {
				w.must(w.lb.RuleDel(rule))
			}
		}},
		{"a reverse path filter", func(add bool) {
			value := "0"
			if add {
				value = "2"
			}
			w.must(f.inNetNS(func() error { w.sysctl("net/ipv4/conf/all/rp_filter", value); return nil }))
		}},
	} {
		c.change(true)
		await(t, c.name+" to end redirecting", func() bool { return !redirects() })
		c.change(false)
		await(t, "redirecting without "+c.name, redirects)
	}
}

// The program for larger images takes the place of the one before, and counts go
// on.
func TestFastPathGrows(t *testing.T) {
	w := newPathWorld(t, 1, 1)
	w.listen()
	b, _, name := w.shared(t)
	e := serve(t, w.world, b, QueueConfig{})
	f, _ := w.attached(b, FastPathConfig{})
	w.send(udp(1, false))
	await(t, "a packet", func() bool { return w.received() == 1 })
	small := f.size
	for i := range 300 {
		if i == 299 {
			w.must(b.SetFlow(FlowSpec{Name: fmt.Sprint("f", i), Target: name, Dests: []string{"10.9.0.0/16"}, DPorts: []string{"1-60000"}}))
			break
		}
		// The flows as such, without one image for each.
		flow, err := compileFlow(FlowSpec{Name: fmt.Sprint("f", i), Target: name, Dests: []string{fmt.Sprintf("10.9.%d.0/24", i%256)}, DPorts: []string{fmt.Sprint(1 + 200*i)}})
		w.must(err)
		b.mu.Lock()
		flow.target = b.targets[name]
		b.flows = append(b.flows, flow)
		b.mu.Unlock()
	}
	w.send(udp(2, false))
	await(t, "a packet by the larger image", func() bool { return w.received() == 2 })
	if f.size <= small {
		t.Errorf("the image still has %d bytes", f.size)
	}
	if s := f.Stats(); s.Placed != 2 || e.Stats().Packets != 0 || b.Flows("a")[0].MatchesCount != 2 {
		t.Errorf("%+v, %d through the queue, the flow counts %d", s, e.Stats().Packets, b.Flows("a")[0].MatchesCount)
	}
}

// A device that appears later is served, and one that goes is forgotten.
func TestFastPathFollowsDevices(t *testing.T) {
	w := newPathWorld(t, 1, 1)
	b, _, _ := w.shared(t)
	told := make(chan string, 100)
	w.attached(b, FastPathConfig{Devices: []string{"late*"}, Log: func(message string, err error) {
		if err != nil {
			t.Errorf("%s: %v", message, err)
		}
		told <- message
	}})
	expect := func(want string) {
		t.Helper()
		for deadline := time.After(10 * time.Second); ; {
			select {
			case got := <-told:
				if got == want {
					return
				}
			case <-deadline:
				t.Fatalf("not told: %s", want)
			}
		}
	}
	w.veth(w.lb, "late0", w.targets[0].ns, "peer0")
	expect("the fast path serves late0")
	l, err := w.lb.LinkByName("late0")
	w.must(err)
	w.must(w.lb.LinkDel(l))
	expect("the fast path serves late0 no more")
}
