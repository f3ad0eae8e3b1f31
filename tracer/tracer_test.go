// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/rs/zerolog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"waymark/bpf"
	"waymark/decoder"
	"waymark/tracer/filter"
	"waymark/tracer/place"
)

// needRoot skips a test that needs to load BPF; CI must not skip it.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("WAYMARK_CI") != "" {
		t.Fatal("this test needs root, and CI must not skip it")
	}
	t.Skip("SKIPPED: needs root to make namespaces and load BPF programs")
}

// world is two namespaces, a and b, joined by a veth pair veth0 with the
// addresses 192.0.2.1 and .2, 2001:db8::1 and ::2.
type world struct{ a, b place.Namespace }

func newWorld(t testing.TB) world {
	needRoot(t)
	w := world{a: newNamespace(t, "a"), b: newNamespace(t, "b")}
	must(t, w.a.Do(func() error {
		fd, err := unix.Open(w.b.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "veth0"}, PeerName: "veth0", PeerNamespace: netlink.NsFd(fd),
		})
	}))
	for i, ns := range []place.Namespace{w.a, w.b} {
		must(t, ns.Do(func() error {
			for _, dad := range []string{"all", "default"} {
				_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+dad+"/accept_dad", []byte("0"), 0o644)
			}
			l, err := netlink.LinkByName("veth0")
			if err != nil {
				return err
			}
			for _, a := range []string{fmt.Sprintf("192.0.2.%d/24", i+1), fmt.Sprintf("2001:db8::%d/64", i+1)} {
				addr, _ := netlink.ParseAddr(a)
				addr.Flags = unix.IFA_F_NODAD
				if err := netlink.AddrAdd(l, addr); err != nil {
					return err
				}
			}
			lo, _ := netlink.LinkByName("lo")
			return errors.Join(netlink.LinkSetUp(lo), netlink.LinkSetUp(l))
		}))
	}
	return w
}

// newNamespace makes a namespace that lives as long as the test.
func newNamespace(t testing.TB, name string) place.Namespace {
	t.Helper()
	must(t, os.MkdirAll(place.RunNetns, 0o755))
	path := fmt.Sprintf("%s/wm-test-%d-%s", place.RunNetns, os.Getpid(), name)
	must(t, os.WriteFile(path, nil, 0o600))
	done := make(chan error, 1)
	go func() {
		// A fresh thread that ends with the goroutine.
		lockThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	}()
	must(t, <-done)
	t.Cleanup(func() {
		_ = unix.Unmount(path, unix.MNT_DETACH)
		_ = os.Remove(path)
	})
	ns, err := place.Find(path)
	must(t, err)
	return ns
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// capture is a sink that keeps everything and tells when a condition holds.
type capture struct {
	records  []bpf.Record
	snaps    [][]byte
	contexts []decoder.Context
	until    func(*capture) bool
}

func (c *capture) Record(raw []byte) error {
	var r bpf.Record
	snap, err := r.Decode(raw)
	if err != nil {
		return err
	}
	c.records = append(c.records, r)
	c.snaps = append(c.snaps, append([]byte(nil), snap...))
	return c.end()
}

func (c *capture) Context(ctx *decoder.Context) error {
	c.contexts = append(c.contexts, *ctx)
	return c.end()
}

func (c *capture) end() error {
	if c.until != nil && c.until(c) {
		c.until = nil
		return ErrDone
	}
	return nil
}

// trace runs a trace of both namespaces while traffic runs, until the
// capture has what it waits for.
func trace(t *testing.T, w world, opts Options, traffic func(), until func(*capture) bool) *capture {
	t.Helper()
	c := &capture{until: until}
	opts.Sink, opts.Log = c, zerolog.New(zerolog.NewTestWriter(t))
	opts.Netns = []string{w.a.Path, w.b.Path}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tr, err := Open(ctx, opts)
	must(t, err)
	defer tr.Close()
	for name, why := range tr.Missing() {
		t.Logf("not here: %s: %v", name, why)
	}
	done := make(chan error, 1)
	go func() { done <- tr.Run(ctx) }()
	traffic()
	must(t, <-done)
	if ctx.Err() != nil {
		t.Fatalf("the trace did not get what it waited for; it has %d records", len(c.records))
	}
	return c
}

// sendUDP sends one datagram from inside ns.
func sendUDP(t testing.TB, ns place.Namespace, to string, payload string) {
	t.Helper()
	must(t, ns.Do(func() error {
		c, err := net.Dial("udp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte(payload))
		if errors.Is(err, unix.EPERM) { // dropped on the way out, as the test wants
			return nil
		}
		return err
	}))
}

// listenUDP opens a socket inside ns.
func listenUDP(t testing.TB, ns place.Namespace, at string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	must(t, ns.Do(func() (err error) {
		c, err = net.ListenPacket("udp", at)
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return c
}

func isUDPTo(port uint16) func(r *bpf.Record) bool {
	return func(r *bpf.Record) bool { return r.Proto == unix.IPPROTO_UDP && r.DstPort() == port }
}

func TestFollowsAPacketAcrossNamespaces(t *testing.T) {
	w := newWorld(t)
	for _, to := range []string{"192.0.2.2:7000", "[2001:db8::2]:7000"} {
		t.Run(to, func(t *testing.T) {
			listenUDP(t, w.b, to)
			wanted := isUDPTo(7000)
			c := trace(t, w, Options{}, func() { sendUDP(t, w.a, to, "hello, waymark") }, func(c *capture) bool {
				n := 0
				for i := range c.records {
					if wanted(&c.records[i]) {
						n++
					}
				}
				return n >= 2
			})
			var way []bpf.Record
			for _, r := range c.records {
				if wanted(&r) {
					way = append(way, r)
				}
			}
			if bpf.Hook(way[0].Hook) != bpf.HookTCEgress || way[0].Netns != w.a.Inode {
				t.Errorf("first hop is hook %d in %d, want egress in a", way[0].Hook, way[0].Netns)
			}
			if bpf.Hook(way[1].Hook) != bpf.HookTCIngress || way[1].Netns != w.b.Inode {
				t.Errorf("second hop is hook %d in %d, want ingress in b", way[1].Hook, way[1].Netns)
			}
			if way[0].Trail != way[1].Trail || way[0].Trail == 0 {
				t.Errorf("the hops have trails %d and %d, want one", way[0].Trail, way[1].Trail)
			}
			want := netip.MustParseAddrPort(to)
			if got := netip.AddrPortFrom(way[0].DstAddr(), way[0].DstPort()); got != want {
				t.Errorf("destination %s, want %s", got, want)
			}
			if way[0].PayloadLen != uint16(len("hello, waymark")) {
				t.Errorf("payload of %d bytes, want %d", way[0].PayloadLen, len("hello, waymark"))
			}
		})
	}
}

func TestDropIsRecordedWithPlaceAndFunction(t *testing.T) {
	w := newWorld(t)
	// Nobody listens: b answers with an ICMP error and drops the datagram.
	wanted := isUDPTo(7001)
	var drop *bpf.Record
	c := trace(t, w, Options{}, func() { sendUDP(t, w.a, "192.0.2.2:7001", "nobody home") }, func(c *capture) bool {
		for i := range c.records {
			if r := &c.records[i]; bpf.Hook(r.Hook) == bpf.HookKfreeSkb && wanted(r) {
				drop = r
				return true
			}
		}
		return false
	})
	if drop.Netns != w.b.Inode {
		t.Errorf("dropped in namespace %d, want b", drop.Netns)
	}
	var symbol, reason string
	for _, x := range c.contexts {
		if x.Symbol != nil && x.Symbol.Addr == drop.Location {
			symbol = x.Symbol.Name
		}
		if x.Reason != nil && x.Reason.Number == drop.Reason {
			reason = x.Reason.Name
		}
	}
	t.Logf("dropped at %s: %s", symbol, reason)
	if reason != "NO_SOCKET" {
		t.Errorf("reason %q, want NO_SOCKET", reason)
	}
	if len(symbol) < 6 || symbol[:6] != "__udp4" {
		t.Errorf("dropped at %q, want a function of __udp4_lib_rcv", symbol)
	}
}

// TestDropBeforeAnyDevice: the packet never reached a device, so the filter is
// run on what the drop hook finds: a packet without a link header.
func TestDropBeforeAnyDevice(t *testing.T) {
	w := newWorld(t)
	dropOutput(t, w.a)
	for _, to := range []string{"192.0.2.2:7005", "[2001:db8::2]:7005"} {
		f, err := filter.Parse([]string{"udp", "any", to})
		must(t, err)
		var drop *bpf.Record
		trace(t, w, Options{Filter: f}, func() {
			sendUDP(t, w.a, strings.Replace(to, "7005", "7006", 1), "not asked for")
			sendUDP(t, w.a, to, "dropped at output")
		}, func(c *capture) bool {
			for i := range c.records {
				r := &c.records[i]
				if bpf.Hook(r.Hook) == bpf.HookKfreeSkb && r.Proto == unix.IPPROTO_UDP {
					drop = r
				}
			}
			return drop != nil
		})
		if drop.Netns != w.a.Inode || drop.DstPort() != 7005 || drop.Flags&bpf.FlagL3 == 0 {
			t.Errorf("%s: dropped in %d, port %d, flags %#x", to, drop.Netns, drop.DstPort(), drop.Flags)
		}
	}
}

// dropOutput drops UDP to ports 7005 and 7006 as it is sent. The send itself
// fails then (EPERM), which is what the application sees.
func dropOutput(t *testing.T, ns place.Namespace) {
	t.Helper()
	must(t, ns.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "t", Family: nftables.TableFamilyINet})
		chain := c.AddChain(&nftables.Chain{
			Name: "out", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
		return c.Flush()
	}))
}

func TestContextComesBeforeTheRecordThatNeedsIt(t *testing.T) {
	w := newWorld(t)
	listenUDP(t, w.b, "192.0.2.2:7002")
	order := []string{}
	wanted := isUDPTo(7002)
	c := trace(t, w, Options{}, func() { sendUDP(t, w.a, "192.0.2.2:7002", "x") }, func(c *capture) bool {
		return len(c.records) > 0 && wanted(&c.records[len(c.records)-1])
	})
	for _, x := range c.contexts {
		switch {
		case x.Session != nil:
			order = append(order, "session")
		case x.Namespace != nil && x.Namespace.Inode == w.a.Inode:
			order = append(order, "namespace")
		case x.Device != nil && x.Device.Netns == w.a.Inode && x.Device.Name == "veth0":
			order = append(order, "device")
			if len(x.Device.Addrs) == 0 {
				t.Error("the device has no addresses")
			}
		case x.Routing != nil && x.Routing.Netns == w.a.Inode:
			order = append(order, "routing")
			if len(x.Routing.Rules) < 3 || len(x.Routing.Routes) < 3 {
				t.Errorf("%d rules and %d routes, want the defaults at least", len(x.Routing.Rules), len(x.Routing.Routes))
			}
		}
	}
	if got := fmt.Sprint(order); got != "[session namespace device routing]" {
		t.Errorf("context came as %s", got)
	}
}

func TestAttachesToDevicesThatAppearAndReleasesThoseThatGo(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c := &capture{}
	tr, err := Open(ctx, Options{Sink: c, Netns: []string{w.a.Path}, Log: zerolog.Nop()})
	must(t, err)
	defer tr.Close()
	awaitDevices(t, ctx, tr, 1)
	must(t, w.a.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "nsm-1"}, PeerName: "nsm-2"})
	}))
	awaitDevices(t, ctx, tr, 3)
	must(t, w.a.Do(func() error {
		l, err := netlink.LinkByName("nsm-1")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
	awaitDevices(t, ctx, tr, 1)
}

// awaitDevices waits until n devices are attached. The tracer is told by the
// kernel; here there is nothing to wait on but its state.
func awaitDevices(t *testing.T, ctx context.Context, tr *Tracer, n int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		got, _ := tr.Attached()
		if got == n {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d devices attached, want %d", got, n)
		case <-tick.C:
		}
	}
}

func TestNetnsLimitsTheDropHook(t *testing.T) {
	w := newWorld(t)
	other := newNamespace(t, "other")
	must(t, other.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}))
	wanted := isUDPTo(7004)
	c := trace(t, w, Options{}, func() {
		sendUDP(t, other, "127.0.0.1:7004", "not ours")
		sendUDP(t, w.a, "192.0.2.2:7004", "ours")
	}, func(c *capture) bool {
		if len(c.records) == 0 {
			return false
		}
		r := &c.records[len(c.records)-1]
		return bpf.Hook(r.Hook) == bpf.HookKfreeSkb && wanted(r)
	})
	for _, r := range c.records {
		if r.Netns == other.Inode {
			t.Errorf("a record from a namespace that was not asked for: hook %d", r.Hook)
		}
	}
}
