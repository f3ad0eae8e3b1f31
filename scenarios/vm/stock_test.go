// SPDX-License-Identifier: Apache-2.0

//go:build linux

// What waymark needs from a kernel and the development host may lack, tried
// inside each stock kernel.

package vm

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestStockKernel boots each kernel, which runs this same test inside.
func TestStockKernel(t *testing.T) {
	if InGuest() == "" {
		for _, k := range Names() {
			t.Run(k, func(t *testing.T) {
				r, out := guestRun(t, k, "-test.run=^TestStockKernel$", "-test.v")
				r.Timeout = 2 * time.Minute
				if res := do(t, r); res.Outcome != Exited || res.ExitCode != 0 {
					t.Errorf("%v (%s), code %d\n%s", res.Outcome, res.Detail, res.ExitCode, res.Console)
				}
				t.Logf("in the guest:\n%s", out)
			})
		}
		return
	}
	for _, tt := range []struct {
		name string
		test func(*testing.T)
	}{
		{"BTF", testBTF},
		{"kallsyms", testKallsyms},
		{"kprobe", testKprobe},
		{"kprobe.multi", testKprobeMulti},
		{"fexit", testFexit},
		{"raw tracepoint and ring buffer", testRawTracepoint},
		{"devices", testDevices},
		{"clsact", testClsact},
		{"tcx", testTCX},
		{"nft queue", testNFTQueue},
		{"compat NFQUEUE", testCompatNFQUEUE},
		{"IPVS", testIPVS},
		{"modprobe", testModprobe},
		{"network namespace", testNetns},
	} {
		t.Run(tt.name, tt.test)
	}
}

// after61 reports whether the guest's kernel has what came after 6.1.
func after61() bool { return InGuest() != "6.1" }

func testBTF(t *testing.T) {
	began := time.Now()
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var skb *btf.Struct
	if err := spec.TypeByName("sk_buff", &skb); err != nil {
		t.Fatal(err)
	}
	t.Logf("struct sk_buff has %d bytes; BTF read in %v", skb.Size, time.Since(began).Round(time.Millisecond))
}

func testKallsyms(t *testing.T) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if w := strings.Fields(sc.Text()); len(w) > 2 && w[2] == "kfree_skbmem" {
			if strings.Trim(w[0], "0") == "" {
				t.Error("addresses are hidden")
			}
			t.Log(sc.Text())
			return
		}
	}
	t.Error("no kfree_skbmem")
}

// program loads a program that ends with 0, after the given instructions.
func program(t *testing.T, spec ebpf.ProgramSpec, body ...asm.Instruction) *ebpf.Program {
	t.Helper()
	spec.License = "GPL"
	spec.Instructions = append(asm.Instructions(body), asm.Mov.Imm(asm.R0, 0), asm.Return())
	p, err := ebpf.NewProgram(&spec)
	if err != nil {
		t.Fatalf("load: %+v", err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func attached(t *testing.T, l link.Link, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

func testKprobe(t *testing.T) {
	l, err := link.Kprobe("kfree_skbmem", program(t, ebpf.ProgramSpec{Type: ebpf.Kprobe}), nil)
	attached(t, l, err)
}

func testKprobeMulti(t *testing.T) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Kprobe, AttachType: ebpf.AttachTraceKprobeMulti, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	l, err := link.KprobeMulti(p, link.KprobeMultiOptions{Symbols: []string{"kfree_skbmem", "ip_rcv"}})
	if !after61() {
		// Debian builds 6.1 without FPROBE; a kernel that has it is as good.
		t.Logf("on 6.1: %v", err)
		return
	}
	attached(t, l, err)
}

func testFexit(t *testing.T) {
	p := program(t, ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceFExit, AttachTo: "ip_rcv"})
	l, err := link.AttachTracing(link.TracingOptions{Program: p})
	attached(t, l, err)
}

// testRawTracepoint sees a drop: a datagram to a closed port of the loopback.
func testRawTracepoint(t *testing.T) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	p := program(t, ebpf.ProgramSpec{Type: ebpf.RawTracepoint},
		asm.Mov.Imm(asm.R1, 0x5157), asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8),
		asm.Mov.Imm(asm.R3, 8), asm.Mov.Imm(asm.R4, 0),
		asm.FnRingbufOutput.Call())
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "kfree_skb", Program: p})
	attached(t, l, err)
	rd, err := ringbuf.NewReader(m)
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	if err := unix.Sendto(s, []byte("x"), 0, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	rd.SetDeadline(time.Now().Add(20 * time.Second))
	rec, err := rd.Read()
	if err != nil || len(rec.RawSample) != 8 || rec.RawSample[0] != 0x57 {
		t.Errorf("got %v, %v", rec.RawSample, err)
	}
}

// testDevices makes a device of each kind; each loads its module.
func testDevices(t *testing.T) {
	attrs := func(name string) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name = name
		return a
	}
	for _, l := range []netlink.Link{
		&netlink.Veth{LinkAttrs: attrs("v0"), PeerName: "v1"},
		&netlink.Bridge{LinkAttrs: attrs("b0")},
		&netlink.Dummy{LinkAttrs: attrs("d0")},
		&netlink.Vxlan{LinkAttrs: attrs("x0"), VxlanId: 7, Port: 4789},
		&netlink.Vrf{LinkAttrs: attrs("r0"), Table: 77},
		&netlink.Tuntap{LinkAttrs: attrs("t0"), Mode: netlink.TUNTAP_MODE_TUN},
		&netlink.Ifb{LinkAttrs: attrs("f0")},
		&netlink.GenericLink{LinkAttrs: attrs("w0"), LinkType: "wireguard"},
	} {
		if err := netlink.LinkAdd(l); err != nil {
			t.Errorf("%s: %v", l.Type(), err)
			continue
		}
		if err := netlink.LinkDel(l); err != nil {
			t.Errorf("%s: %v", l.Type(), err)
		}
	}
}

// dummy makes a device for a test.
func dummy(t *testing.T, name string) netlink.Link {
	t.Helper()
	a := netlink.NewLinkAttrs()
	a.Name = name
	l := &netlink.Dummy{LinkAttrs: a}
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(l) })
	return l
}

func testClsact(t *testing.T) {
	l := dummy(t, "cls0")
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil {
		t.Fatal(err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1,
		},
		Fd: program(t, ebpf.ProgramSpec{Type: ebpf.SchedCLS}).FD(), Name: "x", DirectAction: true,
	}
	if err := netlink.FilterAdd(filter); err != nil {
		t.Fatal(err)
	}
}

func testTCX(t *testing.T) {
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: dummy(t, "tcx0").Attrs().Index, Attach: ebpf.AttachTCXIngress,
		Program: program(t, ebpf.ProgramSpec{Type: ebpf.SchedCLS}),
	})
	if !after61() {
		if !errors.Is(err, link.ErrNotSupported) {
			t.Errorf("6.1 has no tcx, got %v", err)
		}
		return
	}
	attached(t, l, err)
}

// rule puts one expression into a chain of its own and commits it.
func rule(t *testing.T, table string, e expr.Any) {
	t.Helper()
	c := &nftables.Conn{}
	tb := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: table})
	ch := c.AddChain(&nftables.Chain{
		Name: "in", Table: tb, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	c.AddRule(&nftables.Rule{Table: tb, Chain: ch, Exprs: []expr.Any{e}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	c.DelTable(tb)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

func testNFTQueue(t *testing.T) { rule(t, "q", &expr.Queue{Num: 3, Total: 1}) }

// testCompatNFQUEUE uses the iptables target over nftables (nft_compat). Its data
// is struct xt_NFQ_info_v3 (include/uapi/linux/netfilter/xt_NFQUEUE.h): queue 0,
// one queue, no flags, padded to 8 bytes.
func testCompatNFQUEUE(t *testing.T) {
	info := xt.Unknown{0, 0, 1, 0, 0, 0, 0, 0}
	rule(t, "c", &expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info})
}

func testIPVS(t *testing.T) {
	// The kernel loads ip_vs because someone asks for its netlink family.
	f, err := netlink.GenlFamilyGet("IPVS")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/net/ip_vs")
	if err != nil || !strings.HasPrefix(string(b), "IP Virtual Server") {
		t.Errorf("/proc/net/ip_vs: %q, %v", b, err)
	}
	t.Logf("family %d", f.ID)
}

func testModprobe(t *testing.T) {
	for _, name := range []string{"br_netfilter", "nf-conntrack", "ip_vs_mh", "nfnetlink_queue", "crypto-crc32c", "ipv6"} {
		if out, err := exec.Command("modprobe", name).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
		t.Error(err)
	}
	out, err := exec.Command("modprobe", "no_such_thing").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no_such_thing") {
		t.Errorf("unknown module: %v, %q", err, out)
	}
	if out, err := exec.Command("modprobe", "-q", "--", "no_such_thing").CombinedOutput(); err == nil || len(out) > 0 {
		t.Errorf("unknown module, as the kernel asks: %v, %q", err, out)
	}
}

// testNetns keeps a network namespace by a name, as ip-netns(8) does.
func testNetns(t *testing.T) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with its namespace
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			const at = "/var/run/netns/x"
			if err := os.WriteFile(at, nil, 0o444); err != nil {
				return err
			}
			if err := unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), at, "", unix.MS_BIND, ""); err != nil {
				return err
			}
			links, err := netlink.LinkList()
			if err == nil && len(links) != 1 {
				err = fmt.Errorf("a new namespace has %d devices, want lo alone", len(links))
			}
			return errors.Join(err, unix.Unmount(at, 0), os.Remove(at))
		}()
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
