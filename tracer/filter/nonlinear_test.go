// SPDX-License-Identifier: Apache-2.0

//go:build linux

// A real frame whose payload is in page fragments: filter_tc must read on
// behind the linear bytes.

package filter

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func TestNonLinear(t *testing.T) {
	runnable(t)
	runtime.LockOSThread() // the namespace is the thread's; not unlocked, so it dies with the test
	ns, err := netns.New()
	if err != nil {
		unavailable(t, "no network namespace: "+err.Error())
	}
	defer ns.Close()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}

	skb := []btf.FuncParam{{Name: "skb", Type: btfSKB}}
	err = netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: lo.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	if err != nil {
		t.Fatal(err)
	}
	priority := uint16(0)
	counts := func(filter string) *ebpf.Map {
		main := function("count", skb,
			asm.Mov.Reg(asm.R6, asm.R1), call("filter_tc"),
			asm.JEq.Imm(asm.R0, 0, "out"),
			// Only frames that need it: more bytes than are linear.
			asm.LoadMem(asm.R1, asm.R6, skbData, asm.Word), asm.LoadMem(asm.R2, asm.R6, skbDataEnd, asm.Word),
			asm.Sub.Reg(asm.R2, asm.R1), asm.LoadMem(asm.R3, asm.R6, skbLen, asm.Word),
			asm.JGE.Reg(asm.R2, asm.R3, "out"),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, 0).WithReference("seen"), asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 1), asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, -1).WithSymbol("out"), asm.Return())
		spec := &ebpf.CollectionSpec{
			Maps:     map[string]*ebpf.MapSpec{"seen": {Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}},
			Programs: map[string]*ebpf.ProgramSpec{"count": {Type: ebpf.SchedCLS, License: "GPL", Instructions: append(main, stub("filter_tc", skb)...)}},
		}
		f := mustParse(t, filter)
		if err := f.Splice(spec); err != nil {
			t.Fatal(err)
		}
		coll := loadSpec(t, f, spec)
		priority++
		err := netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: lo.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS,
				Handle: 1, Protocol: unix.ETH_P_ALL, Priority: priority,
			},
			Fd: coll.Programs["count"].FD(), Name: "count", DirectAction: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		return coll.Maps["seen"]
	}
	const atPayload = "tcp[((tcp[12] & 0xf0) >> 2)"
	hit := counts(atPayload + ":4] = 0x57415931 and " + atPayload + " + 5000] = 0x21 and tcp port 4711")
	miss := counts(atPayload + ":4] = 0x57415932 or " + atPayload + " + 5000] = 0x22")

	listener, err := net.Listen("tcp", "127.0.0.1:4711")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	payload := append([]byte("WAY1"), bytes.Repeat([]byte{0x21}, 20000)...)
	got := make(chan int64, 1)
	go func() {
		c, err := listener.Accept()
		if err != nil {
			got <- -1
			return
		}
		defer c.Close()
		n, _ := io.Copy(io.Discard, c)
		got <- n
	}()
	c, err := net.Dial("tcp", "127.0.0.1:4711")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(payload); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if n := <-got; n != int64(len(payload)) {
		t.Fatalf("received %d bytes", n)
	}
	for _, m := range []struct {
		seen *ebpf.Map
		want bool
	}{{hit, true}, {miss, false}} {
		var n uint64
		if err := m.seen.Lookup(uint32(0), &n); err != nil {
			t.Fatal(err)
		}
		if (n > 0) != m.want {
			t.Errorf("%d non-linear frames matched, want any: %v", n, m.want)
		}
	}
}
